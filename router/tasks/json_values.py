"""JSON: the object or list that a solution ends with, checked against a schema and compared by chosen fields."""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from router.errors import InvalidRequest, MissingDependency
from router.tasks import LimitReached, PlainTask, Task, workers
from router.tasks.inputs import checked
from router.tasks.statements import thoughtless

_LONGEST = 200_000  # characters at the end of a text that are searched
_TRIES = 32  # candidates that are parsed at most
_MOST_OF_A_SCHEMA = 1_000  # objects and lists: checking these takes most of a second
_MOST_OF_A_MESSAGE = 300  # characters: jsonschema quotes what is wrong
_FENCE = re.compile(r"^[ \t]*```+[ \t]*(\w*)[ \t]*$", re.M)
_BRACKET = re.compile(r'[{}\[\]"]')
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*+"?')
_CLOSING = {"}": "{", "]": "["}


class JsonTask(PlainTask):
    """The last JSON object or list of a text, in a fence or not.

    schema  JSON Schema that an answer must satisfy; None: any JSON
    fields  names of the fields that must agree, "a.b" for a field of a field; empty: all. In a list, of each item
    """

    def __init__(self, schema: Mapping[str, Any] | bool | None = None, fields: Sequence[str] = ()):
        self.fields = tuple(fields)
        self._schema = None if schema is None else json.dumps(schema, sort_keys=True)

    def bound(self, inputs: Mapping[str, Any]) -> Task:
        """Take inputs ``{"schema": {...}, "fields": ["name"]}``, either or both. Raises InvalidRequest."""
        schema = self._schema_of(inputs)
        if schema is not None:
            check_schema(schema)
        return self._with(inputs)

    async def bound_in_worker(self, inputs: Mapping[str, Any]) -> Task:
        """As :meth:`bound`; the schema is checked in a worker, since its patterns may take seconds to compile."""
        schema = self._schema_of(inputs)
        if schema is not None:
            await checked("schema", "router.tasks.json_values:check_schema", schema)
        return self._with(inputs)

    def _schema_of(self, inputs: Mapping[str, Any]) -> str | None:
        """Return the schema as JSON, checked as far as that takes no time; None: there is none."""
        super().bound({name: value for name, value in inputs.items() if name not in ("schema", "fields")})
        fields, schema = inputs.get("fields", ()), inputs.get("schema")
        if (
            isinstance(fields, str)
            or not isinstance(fields, Sequence)
            or not all(isinstance(each, str) for each in fields)
        ):
            raise InvalidRequest("fields", "fields must be a list of names", reason="UNSPECIFIED")
        if schema is None:
            return None
        if find_spec("jsonschema") is None:
            raise MissingDependency("a schema needs jsonschema: pip install jsonschema")
        if _parts(schema) > _MOST_OF_A_SCHEMA:
            raise InvalidRequest(
                "schema",
                f"schema has more than {_MOST_OF_A_SCHEMA} objects and lists; make it smaller",
                reason="UNSPECIFIED",
            )
        try:
            return json.dumps(schema, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise _no_schema(str(error)) from error

    def _with(self, inputs: Mapping[str, Any]) -> Task:
        return JsonTask(inputs.get("schema"), inputs.get("fields", ())) if inputs else self

    def extract(self, text: str) -> str | None:
        part = thoughtless(text)
        if part is None:
            return None
        for candidate in _candidates(part[-_LONGEST:]):
            try:
                _parsed(candidate)
            except (ValueError, RecursionError):
                continue
            return candidate
        return None

    async def key(self, answer: str) -> str:
        try:
            value = _parsed(answer)
        except (ValueError, RecursionError):
            return ""
        if self._schema is not None and not await self._keeps_schema(answer):
            return ""
        return self._spelled(value)

    async def right(self, answer: str, reference: str) -> bool:
        try:
            wanted = self._spelled(_parsed(reference))
        except (ValueError, RecursionError):
            return False
        return answer == wanted or await self.key(answer) == wanted

    async def _keeps_schema(self, answer: str) -> bool:
        """Check the schema in a worker, since its patterns can take forever; True if a limit is reached."""
        try:
            return bool(await workers.run("router.tasks.json_values:keeps", answer, self._schema))
        except LimitReached:
            return True

    def _spelled(self, value: Any) -> str:
        if self.fields:
            value = [self._chosen(each) for each in value] if isinstance(value, list) else self._chosen(value)
        return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def _chosen(self, value: Any) -> Any:
        """Return the fields that must agree; a value that is not an object is returned as it is."""
        if not isinstance(value, Mapping):
            return value
        chosen: dict[str, Any] = {}
        for field in self.fields:
            if field in value:  # a key, when read again, has the dotted name itself
                chosen[field] = value[field]
                continue
            found: Any = value
            for name in field.split("."):
                found = found.get(name, _MISSING) if isinstance(found, Mapping) else _MISSING
            if found is not _MISSING:
                chosen[field] = found
        return chosen


_MISSING = object()


def keeps(answer: str, schema: str) -> bool:
    """Whether JSON satisfies a schema; references to other documents are not followed. For worker processes."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from referencing import Registry

    validator = Draft202012Validator(json.loads(schema), registry=Registry())
    return bool(validator.is_valid(json.loads(answer)))


def check_schema(schema: str) -> None:
    """Raise InvalidRequest where JSON is not a JSON Schema. For worker processes: this may take long."""
    from jsonschema import Draft202012Validator, SchemaError

    if re.search(r'"\$(?:dynamicR|r)ef": "[^#]', schema):
        raise _no_schema("references to other documents are not followed")
    try:
        Draft202012Validator.check_schema(json.loads(schema))
    except SchemaError as error:
        raise _no_schema(error.message) from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _no_schema(str(error)) from None


def _no_schema(why: str) -> InvalidRequest:
    why = why if len(why) <= _MOST_OF_A_MESSAGE else why[: _MOST_OF_A_MESSAGE - 1] + "…"
    return InvalidRequest("schema", f"schema is not a JSON Schema: {why}", reason="UNSPECIFIED")


def _parts(value: Any) -> int:
    """Return the number of objects and lists in a value."""
    count, left = 0, [value]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list):
            left += value
        else:
            continue
        count += 1
    return count


def _candidates(text: str) -> list[str]:
    """Return what may be the JSON, best first: later before earlier, and text in brackets before whole fences.

    A list without objects and strings comes last: ``[1]`` may be a citation.
    """
    fences = list(_FENCE.finditer(text))[-2 * _TRIES :]
    blocks = [text[opened.end() : closed.start()].strip() for opened, closed in pairwise(fences)]
    found = _bracketed(text) + [block for block in reversed(blocks) if block[:1] in ("{", "[")]
    bare = [each for each in found if "{" not in each and '"' not in each]
    return ([each for each in found if each not in bare] + bare)[:_TRIES]


def _bracketed(text: str) -> list[str]:
    """Return the texts in outermost brackets, the last first. Brackets in quotes, within brackets, are text."""
    spans: list[tuple[int, int]] = []
    open_brackets: list[tuple[int, str]] = []
    position = 0
    while match := _BRACKET.search(text, position):
        position, token = match.end(), match[0]
        if token == '"':
            quoted = _QUOTED.match(text, match.start()) if open_brackets else None
            position = quoted.end() if quoted else position
        elif token in "{[":
            open_brackets.append((match.start(), token))
        elif open_brackets and open_brackets[-1][1] == _CLOSING[token]:
            start, _ = open_brackets.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, position))
    cut = next(
        (start for start, token in open_brackets if re.match(r'\{\s{0,99}"', text[start : start + 101])), len(text)
    )
    return [text[start:end] for start, end in reversed(spans[-_TRIES:]) if start < cut]


def _parsed(text: str) -> Any:
    """Parse strict JSON: no NaN, no infinities, no duplicate names. Raises ValueError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError("a name occurs twice")
        return value

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    if not isinstance(value, (dict, list)):
        raise ValueError("neither an object nor a list")
    return value


def _plain(value: Any) -> Any:
    """Return the value with whole floats as integers, since 1.0 and 1 are one number."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
