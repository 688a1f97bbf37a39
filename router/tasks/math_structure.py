"""The structure of a mathematical answer: tuples, sets, intervals, equations, inequalities, and their parts.

The structure is read from the text here, and only parts are given to sympy. A library that read whole answers made
``(2, 1)`` the empty interval, and ``n = 2, 3, 4`` and ``n = 1, 2, 3`` the same False. ``structure`` reads an answer;
``spelling`` writes it so that equal answers are written alike.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol

from router.tasks import numerals
from router.tasks.notation import prose

Kind = Literal["leaf", "text", "tuple", "list", "named", "matrix", "equation", "inequality"]

_OPENING, _CLOSING = "([{", ")]}"
_END = r"(?![a-zA-Z])"  # end of a command
_NAMED_SET = re.compile(r"\\(?:emptyset|mathbb\s*\{?\s*[A-Z]\s*\}?)$")
_MATRIX = re.compile(
    r"\\begin\s*\{(?P<name>[pbvBV]?matrix|array)\}(?:\s*\{[clr|\s]*\})?(?P<rows>.*)\\end\s*\{(?P=name)\}$", re.S
)
_BASE = re.compile(r"(?=[0-9A-F]*\d)([0-9A-F]+)\s*_\s*(?:\{\s*(\d+)\s*\}|(\d+))$")
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+$")
_SEPARATOR = re.compile(r"[,;]|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])", re.I)
_RELATION = re.compile(rf"\\(?:le|ge|ne|in|approx){_END}|<=|>=|!=|:=|[<>=]")
_UNION = re.compile(rf"\\cup{_END}")
_SIGNS = re.compile(rf"\\(pm|mp){_END}")
_OPERATORS = {"<=": r"\le", ">=": r"\ge", "!=": r"\ne", ":=": "="}
_ORDERS = ("<", ">", r"\le", r"\ge")
_INDEX = r"(?:\s*_\s*(?:\w|\{\s*\w+\s*\}))?"
_GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|psi|omega)"
_VARIABLE = re.compile(rf"(?:[a-zA-Z]|{_GREEK}){_INDEX}$")
_CALL = re.compile(rf"(?:[a-zA-Z]|Pr|Var){_INDEX}(?:'+|\s*\^\s*\{{?\s*-?1\s*\}}?)?\s*\([^()=]*\)$")
_POINTS = re.compile(r"(?:m?\s*\\(?:angle|overline|triangle|arc)|m)?\s*\{?\s*[A-Z]{1,4}\s*\}?$")
_VARIABLES = re.compile(r"\(\s*[a-zA-Z]\s*(?:,\s*[a-zA-Z]\s*)+\)$")
_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d\s*\w\s*\}\s*\{\s*d\s*\w\s*\}$|[a-z]'+$")
_NAMES = (_VARIABLE, _CALL, _POINTS, _VARIABLES, _DERIVATIVE)
_WORD = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{3,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan cot sec csc log exp ln sqrt"
# Words that are mathematics also without a backslash.
_MATH_WORDS = frozenset(FUNCTIONS.split()) | {"infinity", "inf", "and"}
_SHORT_WORDS = re.compile(
    r"(?<![a-zA-Z\\])(?:am|an|as|be|by|do|he|if|is|it|me|my|no|of|on|so|to|up|us|we)(?![a-zA-Z])", re.I
)
_CONSTANTS = re.compile(rf"(?<![a-zA-Z])(?:{FUNCTIONS.replace(' ', '|')}|pi|e){_END}")


@dataclass(frozen=True)
class Node:
    """A part of an answer.

    kind   "leaf" is one expression, "text" is not mathematics, "list" has no order, "named" is the value of ``name``
    text   of a leaf or a text: itself; of a tuple: its brackets, as "(]"; of an inequality: its operator; of a list:
           how its parts are joined, where that matters: "or", "chain", "union", "signs"
    parts  its parts; of an equation or an inequality the two sides
    name   left side of an assignment: ``x = 5`` is the leaf 5 named x
    """

    kind: Kind
    text: str = ""
    parts: tuple["Node", ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Interval:
    """The solutions of an inequality: brackets, as "(]", and the spellings of the ends."""

    brackets: str
    low: str
    high: str

    def __str__(self) -> str:
        return f"{self.brackets[0]}{self.low}, {self.high}{self.brackets[1]}"


class Algebra(Protocol):
    """Spells the parts of an answer whose structure is known. Equal parts are spelled alike."""

    def leaf(self, text: str) -> str: ...
    def equation(self, left: str, right: str) -> str: ...
    def inequality(self, left: str, operator: str, right: str) -> str | Interval: ...


def structure(text: str) -> Node:
    """Return the structure of an answer in the notation of :func:`router.tasks.notation.plain`."""
    text = _ungrouped(text.strip())
    if numerals.read(text) is not None:
        return Node("leaf", text)
    if not text or not _balanced(text):
        return Node("text", text)
    for read in (_matrix, _union, _list, _relation, _bracketed, _named):
        if node := read(text):
            return node
    if is_words(text):
        return Node("text", text)
    if _SIGNS.search(text):
        return Node("list", "signs", tuple(Node("leaf", _signed(text, first)) for first in (True, False)))
    return Node("leaf", text)


def spelling(node: Node, algebra: Algebra) -> str:
    """Return one spelling for all equal answers."""
    return str(_spelled(node, algebra))


def is_words(text: str) -> bool:
    """Whether a text has words that are not names of functions, or has no symbol at all."""
    words = any(word.casefold() not in _MATH_WORDS for word in _WORD.findall(text))
    return words or bool(_SHORT_WORDS.search(text)) or not re.search(r"[0-9a-zA-Z\\]", text)


def as_text(text: str) -> str:
    """Spell what can't be read as mathematics: words without case; anything else with it, since a and A differ."""
    return prose(text) if is_words(text) else " ".join(text.split())


def _spelled(node: Node, algebra: Algebra) -> str | Interval:
    if not node.parts:
        return algebra.leaf(node.text) if node.kind == "leaf" else as_text(node.text)
    if node.kind == "equation":
        return algebra.equation(node.parts[0].text, node.parts[1].text)
    if node.kind == "inequality":
        return algebra.inequality(node.parts[0].text, node.text, node.parts[1].text)
    parts = [_spelled(part, algebra) for part in node.parts]
    if node.kind == "list":
        return _spelled_list(parts, node.text)
    around = {"tuple": (node.text[:1], node.text[1:]), "matrix": ("[", "]")}.get(node.kind, (f"{node.name} = ", ""))
    return f"{around[0]}{', '.join(map(str, parts))}{around[1]}"


def _spelled_list(parts: list[str | Interval], joined: str) -> str | Interval:
    intervals = [part for part in parts if isinstance(part, Interval)]
    if len(intervals) == len(parts) == 2 and joined != "or":
        return _both(*intervals, sure=joined == "chain") or _sorted(parts, r" \cup ")
    return _sorted(parts, r" \cup " if intervals or joined == "union" else ", ")


def _sorted(parts: list[str | Interval], between: str) -> str:
    return between.join(sorted(map(str, parts), key=lambda part: (len(part), part)))


def _both(one: Interval, other: Interval, *, sure: bool) -> Interval | None:
    """Join two inequalities that hold at once to one interval. ``sure``: their ends needn't be compared."""
    low, high = (one, other) if one.high == r"\infty" else (other, one)
    if low.high != r"\infty" or high.low != r"-\infty":
        return None
    try:
        if not sure and Fraction(low.low) >= Fraction(high.high):
            return None
    except ValueError:
        return None
    return Interval(low.brackets[0] + high.brackets[1], low.low, high.high)


def _matrix(text: str) -> Node | None:
    match = _MATRIX.match(text)
    if not match:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", match["rows"]) if row.strip()]
    return Node("matrix", parts=tuple(Node("tuple", "[]", tuple(map(structure, row))) for row in rows))


def _union(text: str) -> Node | None:
    parts = _cut(text, _UNION)
    return Node("list", "union", tuple(map(structure, parts))) if len(parts) > 1 else None


def _list(text: str) -> Node | None:
    separators = {match[0].lower() for match in _top_level(text, _SEPARATOR)}
    texts = _comma_parts(text, bracketed=False) if separators else []
    if len(texts) < 2:  # no separators, or only thousands separators
        return None
    parts = [each for part in map(structure, texts) for each in (part.parts if part.text == "signs" else [part])]
    if any(part.kind == "text" and is_words(part.text) for part in parts):
        return Node("text", text)
    names = [part.name for part in parts]
    joined = "or" if "or" in separators else ""
    related = any(part.kind in ("equation", "inequality", "named") for part in parts)
    if names[0] and not related and (not any(names[1:]) or len(set(names)) == 1):  # n = 2, 3, 4; x = 1 or x = 2
        return Node("list", joined, tuple(replace(part, name="") for part in parts), names[0])
    return Node(
        "list", joined, tuple(Node("named", parts=(part,), name=part.name) if part.name else part for part in parts)
    )


def _relation(text: str) -> Node | None:
    cuts = list(_top_level(text, _RELATION))
    if not cuts:
        return None
    sides = _cut(text, _RELATION)
    operators = [_OPERATORS.get(cut[0], cut[0]) for cut in cuts]
    if not all(sides):
        return structure(sides[1]) if sides[1:] and operators in (["="], [r"\approx"]) else Node("text", text)  # "= 5"
    if r"\approx" in operators:  # \sqrt{2} \approx 1.41: the left side is exact
        first = operators.index(r"\approx")
        return structure(text[: cuts[first].start()]) if first or not _is_name(sides[0]) else _equation(sides)
    if operators == [r"\in"] and _is_name(sides[0]):
        return _with_name(structure(sides[1]), sides[0])
    return _equation(sides) if set(operators) == {"="} else _inequality(sides, operators) or Node("text", text)


def _inequality(sides: list[str], operators: list[str]) -> Node | None:
    ordered = all(operator in _ORDERS for operator in operators) or operators == [r"\ne"]
    if not ordered or len(operators) > 2 or any(map(is_words, sides)):
        return None
    nodes = [Node("leaf", side) for side in sides]
    parts = tuple(Node("inequality", operator, tuple(nodes[i : i + 2])) for i, operator in enumerate(operators))
    return parts[0] if len(parts) == 1 else Node("list", "chain", parts)


def _equation(sides: list[str]) -> Node:
    first, last = sides[0], sides[-1]
    if _is_name(first) and not (_VARIABLE.match(first) and _VARIABLE.match(last)):
        return _with_name(structure(last), first)
    if not _has_variables(first):  # 45 + 42 = 87, and 5 = x
        return _with_name(structure(first), last) if _is_name(last) and len(sides) == 2 else structure(last)
    if len(sides) > 2 or is_words(last):
        return structure(last)
    return Node("equation", parts=(Node("leaf", first), Node("leaf", last)))


def _bracketed(text: str) -> Node | None:
    is_set = text.startswith(r"\{") and text.endswith(r"\}") and _closes(text[1:]) == len(text) - 2
    brackets = text[0] + text[-1]
    if not is_set and (brackets not in ("()", "[]", "(]", "[)", "{}") or _closes(text) != len(text) - 1):
        return None
    inner = text[2:-2].strip() if is_set else text[1:-1].strip()
    is_set = is_set or brackets == "{}"
    if not inner or (is_set and re.search(r"\\mid|[|:]", inner)):  # a set defined by a property
        return Node("text", r"\emptyset" if is_set and not inner else text)
    parts = tuple(structure(part) for part in _comma_parts(inner, bracketed=True))
    if any(part.kind == "text" and is_words(part.text) for part in parts):
        return Node("text", text)
    if is_set:
        return Node("list", parts=parts)
    if len(parts) == 1 and brackets == "()":
        return parts[0]
    return Node("tuple", brackets, parts)


def _named(text: str) -> Node | None:
    if _NAMED_SET.match(text) or _RATIO.match(text):
        return Node("text", re.sub(r"\s", "", text))
    base = _BASE.match(text)
    return Node("text", f"{base[1]}_{{{base[2] or base[3]}}}") if base else None


def _is_name(side: str) -> bool:
    """Whether a left side only names the right side: x, f(x), (x, y), AB, total cost."""
    return any(pattern.match(side) for pattern in _NAMES) or is_words(side)


def _has_variables(side: str) -> bool:
    return bool(re.search("[a-zA-Z]", _CONSTANTS.sub(" ", _COMMAND.sub(" ", side))))


def _with_name(node: Node, name: str) -> Node:
    return replace(node, name=node.name or re.sub(r"\s", "", name))


def _comma_parts(text: str, *, bracketed: bool) -> list[str]:
    """Return the parts of a list. ``1,234`` is one number, but two in brackets that have no other separator."""
    parts: list[str] = []
    start = 0
    may_group = not bracketed or ", " in text or ";" in text
    for cut in _top_level(text, _SEPARATOR):
        digits = re.search(r"(?<![\d.,])\d{1,3}(?:,\d{3})*$", text[max(start, cut.start() - 24) : cut.start()])
        if may_group and cut[0] == "," and digits and re.match(r"\d{3}(?!\d)", text[cut.end() : cut.end() + 4]):
            continue
        parts.append(text[start : cut.start()])
        start = cut.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _cut(text: str, separator: re.Pattern[str]) -> list[str]:
    parts, start = [], 0
    for cut in _top_level(text, separator):
        parts.append(text[start : cut.start()].strip())
        start = cut.end()
    return [*parts, text[start:].strip()]


def _top_level(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yield the matches outside all brackets."""
    depth = position = 0
    for match in pattern.finditer(text):
        between = text[position : match.start()]
        depth += sum(map(between.count, _OPENING)) - sum(map(between.count, _CLOSING))
        position = match.start()
        if depth == 0:
            yield match


def _balanced(text: str) -> bool:
    return _closes("(" + text + ")") == len(text) + 1


def _closes(text: str) -> int:
    """Return where the text's first bracket is closed, by any kind of bracket, as in intervals; -1: nowhere."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return i
    return -1


def _ungrouped(text: str) -> str:
    """Return the text without braces that only group."""
    while text.startswith("{") and _closes(text) == len(text) - 1 and not any(_top_level(text[1:-1], _SEPARATOR)):
        text = text[1:-1].strip()
    return text


def _signed(text: str, first: bool) -> str:
    r"""Return ``2 \pm 3`` as 2 + 3 or as 2 - 3."""
    return _SIGNS.sub(lambda match: "+" if (match[1] == "pm") == first else "-", text).strip().removeprefix("+").strip()
