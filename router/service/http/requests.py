"""Reads a chat completion's request, and sorts its fields: for a search, for the model alone, or without effect."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from router.errors import InvalidRequest
from router.prompt import Prompt
from router.service.http.messages import malformed, parse, quoted
from router.service.http.passing import FIELDS, passed_on
from router.solving.request import check_count, check_texts
from router.v1 import router_pb2 as pb

ALIAS = "router"  # a model name that is always served, whichever bundle is active

# Tells for some of OpenAI's fields whether a value asks only for what a search does anyway.
_NEUTRAL: Mapping[str, Callable[[Any], bool]] = {
    "n": lambda value: value == 1,
    "logprobs": lambda value: value is False,
    "top_logprobs": lambda value: value == 0,
    "tools": lambda value: value == [],
    "functions": lambda value: value == [],
    "tool_choice": lambda value: value in ("none", "auto"),
    "function_call": lambda value: value in ("none", "auto"),
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "response_format": lambda value: value == {"type": "text"},
    "stop": lambda value: value in ([], ""),
    "top_p": lambda value: value == 1,
    "frequency_penalty": lambda value: value == 0,
    "presence_penalty": lambda value: value == 0,
    "logit_bias": lambda value: value == {},
    "modalities": lambda value: value == ["text"],
    "reasoning_effort": lambda value: value == "none",
    "service_tier": lambda value: value in ("auto", "default"),
    "store": lambda value: value is False,
}
# Fields that, with other values, ask for something that only a model alone can give.
_NEEDS_MODEL = (frozenset(_NEUTRAL) & FIELDS) - {"parallel_tool_calls"}
# Fields that have no effect; the reply names those that were given.
_UNUSED = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
_UNUSED_IN_MESSAGES = frozenset({"name", "reasoning", "reasoning_content", "refusal"})
_TOOL_FIELDS = ("tool_calls", "function_call", "tool_call_id", "audio")
# What pydantic refuses a field for, in words for those who write JSON.
_REFUSED = {
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "too_short": "must have at least one message",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
}
_MOST_ANSWERS = 128  # of one request
_ROLES = {"developer": "system"}  # newer models' name for the role

_UINT32 = 2**32 - 1
_REQUEST = pb.SolveRequest.DESCRIPTOR.fields_by_name
_OPTIONS = pb.SolveOptions.DESCRIPTOR.fields_by_name
_GIVEN_OTHERWISE = {"prompt", "messages", "options", "temperature", "max_tokens", "seed"}  # OpenAI's fields give these
_ROUTER_FIELDS = [name for name in (*_REQUEST, *_OPTIONS) if name not in _GIVEN_OTHERWISE]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: bool = False


class Fields(BaseModel):
    """The fields of OpenAI's API that a search uses, and ``router``, which is this server's own."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    seed: int = 0
    router: dict[str, Any] = {}

    @property
    def longest(self) -> int | None:
        """Return the most tokens of a solution, which both of OpenAI's fields mean."""
        lengths = [each for each in (self.max_tokens, self.max_completion_tokens) if each is not None]
        return min(*lengths, _UINT32) if lengths else None


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat completion's request, sorted.

    fields    the fields that a search uses
    message   the search: a StreamSolveRequest where the reply is streamed, else a SolveRequest; None: no search
    direct    fields that a search can't serve; where there are any, ``message`` is None
    passed    of a request without a search: what of it is passed on to the model as it is
    prompt    the messages as a prompt; None: only a model's own server can read them
    ignored   fields that were given but have no effect
    unread    of a request without a search: further fields that have no effect but at a model's own server
    progress  whether the caller wants to see the search's rounds and stages
    cap       most generated tokens of a reply without a search
    """

    fields: Fields
    message: pb.SolveRequest | pb.StreamSolveRequest | None = None
    direct: Sequence[str] = ()
    passed: Mapping[str, Any] = field(default_factory=dict)
    prompt: Prompt | None = None
    ignored: Sequence[str] = ()
    unread: Sequence[str] = ()
    progress: bool = False
    cap: int | None = None


def read(body: Any, models: Sequence[str]) -> Chat:
    """Read a request's JSON. ``models``: names that may be asked for. Raises InvalidRequest."""
    if not isinstance(body, dict):
        raise malformed("", "the body must be a JSON object")
    given = {name: value for name, value in body.items() if value is not None}
    try:
        fields = Fields.model_validate(given)
    except ValidationError as error:
        raise _unfit(error) from error
    if fields.model not in models:
        known = ", ".join(models)
        raise InvalidRequest(
            "model", f"the model {fields.model[:100]!r} is not served; served are {known}", reason="MODEL_UNKNOWN"
        )
    check_count(len(fields.messages))
    direct, ignored = _sorted(fields.model_extra or {})
    messages = [_message(f"messages[{i}]", each, direct, ignored) for i, each in enumerate(fields.messages)]
    router = dict(fields.router)
    progress = router.pop("progress", False)
    if not isinstance(progress, bool):
        raise malformed("router.progress", "router.progress must be true or false")
    for name in router:
        if name not in _ROUTER_FIELDS:
            known = ", ".join(sorted((*_ROUTER_FIELDS, "progress")))
            raise malformed(f"router.{name[:100]}", f"router has no field {name[:100]!r}; it has {known}")
    if direct:
        cap = router.pop("max_generated_tokens", None)
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            raise malformed("router.max_generated_tokens", "router.max_generated_tokens must be a number from 1")
        _check_direct(given, messages)
        unused = [f"router.{name}" for name in (*router, *["progress"] * progress)]
        unused += [name for name in ignored if name in _UNUSED and name not in FIELDS]
        # The others are passed on, where the model has a server of its own.
        unread = [name for name in ignored if name not in unused]
        return Chat(fields, None, direct, passed_on(given), _prompt(messages), unused, unread, cap=cap)
    return Chat(fields, _search(fields, messages, router), ignored=ignored, progress=progress)


def as_written(field: str) -> str:
    """Return the name that a caller of a chat completion knows a field by."""
    name = field.removeprefix("options.")
    first = re.split(r"[.[]", name)[0]
    if first == "prompt":
        return "messages"
    return f"router.{name}" if first in _ROUTER_FIELDS else name


def _unfit(error: ValidationError) -> InvalidRequest:
    """Return the error for the first field that pydantic refuses."""
    first = error.errors(include_url=False)[0]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])[1:]
    name = name[:100]
    if first["type"] == "missing":
        return malformed(name, f"{name} is missing")
    if first["type"] == "extra_forbidden":
        return malformed(name, f"this server does not know the field {name}; leave it out")
    said = _REFUSED.get(first["type"]) or first["msg"].replace("Input should be", "must be")
    return malformed(name, f"{name} {said}, found {quoted(first['input'])}")


def _sorted(extra: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of fields that need the model alone, and of those without effect."""
    asked = {name: value for name, value in extra.items() if not (name in _NEUTRAL and _NEUTRAL[name](value))}
    if "modalities" in asked:
        raise InvalidRequest("modalities", "modalities: models here answer with text only", reason="NOT_SEARCHABLE")
    for name in asked:
        if name not in _NEEDS_MODEL and name not in _UNUSED:
            raise malformed(name, f"this server does not know the field {name[:100]!r}; leave it out")
    return [name for name in asked if name in _NEEDS_MODEL], [name for name in asked if name in _UNUSED]


def _message(where: str, given: Mapping[str, Any], direct: list[str], ignored: list[str]) -> dict[str, Any]:
    """Return a message's role and content, and add its other fields to ``direct`` and ``ignored``."""
    said = {name: value for name, value in given.items() if value is not None and value != []}
    role, content = said.pop("role", None), said.pop("content", given.get("content"))
    direct += [f"{where}.{name}" for name in _TOOL_FIELDS if name in said]
    if role in ("tool", "function"):
        direct.append(f"{where}.role")
    if isinstance(content, list) and any(isinstance(part, dict) and part.get("type") != "text" for part in content):
        direct.append(f"{where}.content")
    ignored += [f"{where}.{name}" for name in said if name in _UNUSED_IN_MESSAGES]
    if unknown := [name for name in said if name not in _TOOL_FIELDS and name not in _UNUSED_IN_MESSAGES]:
        name = f"{where}.{unknown[0][:100]}"
        raise malformed(name, f"this server does not know the field {name}; leave it out")
    return {"role": _ROLES.get(role, role) if isinstance(role, str) else role, "content": content}


def _check_direct(given: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise InvalidRequest for what searches refuse, too: an empty or too long prompt, and text that is not valid.

    A conversation may end with a tool's message here, which only the model's own server judges.
    """
    n = given.get("n", 1)
    if n != 1 and not (isinstance(n, int) and 1 <= n <= _MOST_ANSWERS):
        raise malformed("n", f"n must be 1 to {_MOST_ANSWERS}")
    texts = [_texts(message["content"]) for message in messages]
    read = messages[-1]["role"] == "user" and _is_text(messages[-1]["content"])
    check_texts(texts[-1] if read else None, sum(map(len, texts)))
    try:
        json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _half_a_pair() from error


def _texts(content: Any) -> str:
    """Return a message's text, that of all its parts together; empty where there is none."""
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "".join(text for text in parts if isinstance(text, str))


def _is_text(content: Any) -> bool:
    """Whether a message's content is text, be it empty, and nothing else, such as an image."""
    if isinstance(content, list):
        return all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    return content is None or isinstance(content, str)


def _prompt(messages: Sequence[Mapping[str, Any]]) -> Prompt | None:
    try:
        return Prompt.read(messages)
    except (ValueError, TypeError):
        return None


def _search(
    fields: Fields, messages: Sequence[Mapping[str, Any]], router: Mapping[str, Any]
) -> pb.SolveRequest | pb.StreamSolveRequest:
    try:
        prompt = Prompt.read(messages)
    except (ValueError, TypeError) as error:
        raise InvalidRequest("messages", f"messages: {error}", reason="PROMPT_INVALID") from error
    options = {name: value for name, value in router.items() if name in _OPTIONS}
    options["seed"] = fields.seed % (_UINT32 + 1)
    if fields.temperature is not None:
        options["temperature"] = fields.temperature
    if fields.longest is not None:
        options["max_tokens"] = fields.longest
    content = {name: value for name, value in router.items() if name in _REQUEST}
    message = parse(pb.StreamSolveRequest if fields.stream else pb.SolveRequest, content, "router", options)
    try:
        for each in prompt.messages:
            message.messages.add(role=each.role, content=each.text)
    except ValueError as error:
        raise _half_a_pair() from error
    return message  # type: ignore[no-any-return]


def _half_a_pair() -> InvalidRequest:
    return InvalidRequest("messages", "messages: half of a surrogate pair is not valid text", reason="PROMPT_INVALID")
