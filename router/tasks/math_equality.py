"""When two mathematical answers are equal: one key for all equal answers.

Numbers, fractions, and tuples, lists, sets and intervals of them are decided here, exactly and at once. What needs
algebra goes to sympy in a worker process (router.tasks.math_symbols). What can't be decided is compared as text, so
that doubtful answers are different, never equal.
"""

import re

from router.tasks import numerals, workers
from router.tasks.math_structure import Interval, Node, as_text, spelling, structure
from router.tasks.notation import plain, prose

TOO_LARGE = ""  # what math_symbols.spell returns for it
LONGEST = 300  # characters of an answer that is still read as mathematics
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}

_INFINITY = {"\\infty": "\\infty", "+\\infty": "\\infty", "-\\infty": "-\\infty"} | {
    f"{sign}{word}": f"{spelled}\\infty"
    for sign, spelled in (("", ""), ("+", ""), ("-", "-"))
    for word in ("infinity", "inf", "oo")
}
_SYMBOL = re.compile(r"[a-zA-Z]$")
_TOWER = re.compile(r"\d+(?:\^\d+){2,}")


class Refused(Exception):
    """An expression that can't be read or decided."""


class TooLarge(Refused):
    """An expression that would take too long to compute: towers of powers, long products."""


class NeedsAlgebra(Refused):
    """An expression that only sympy can decide."""


class Simple:
    """Spells what needs no algebra; raises NeedsAlgebra for the rest. See router.tasks.math_structure.Algebra."""

    def leaf(self, text: str) -> str:
        number = numerals.read(text)
        if number is not None:
            return str(number)
        bare = re.sub(r"\s", "", text)
        if bare in _INFINITY:
            return _INFINITY[bare]
        return bare if _SYMBOL.match(bare) and bare not in "ei" else self.expression(text)

    def inequality(self, left: str, operator: str, right: str) -> str | Interval:
        for variable, order, end in ((left, operator, right), (right, FLIPPED.get(operator, operator), left)):
            number = numerals.read(end)
            if _SYMBOL.match(variable) and order in FLIPPED and number is not None:
                return solved(order, str(number))
        return self.relation(left, operator, right)

    def expression(self, text: str) -> str:
        raise NeedsAlgebra(text)

    def equation(self, left: str, right: str) -> str:
        raise NeedsAlgebra(left)

    def relation(self, left: str, operator: str, right: str) -> str | Interval:
        raise NeedsAlgebra(left)


def solved(operator: str, end: str) -> Interval:
    """Return the interval of all x with ``x operator end``."""
    if operator in ("<", r"\le"):
        return Interval("(" + (")" if operator == "<" else "]"), r"-\infty", end)
    return Interval(("(" if operator == ">" else "[") + ")", end, r"\infty")


async def key(answer: str) -> str:
    """Return one spelling for all equal answers; empty for decoration without an answer."""
    text = plain(answer[: 4 * LONGEST])
    if len(text) > LONGEST:
        return prose(answer)
    node = structure(text)
    try:
        return spelling(node, Simple())
    except NeedsAlgebra:
        pass
    except RecursionError:
        return as_text(text)
    if too_large(text):
        workers.note_text()
        return as_text(text)
    try:
        spelled = await workers.run("router.tasks.math_symbols:spell", answer)
    except workers.LimitReached:
        return as_text(text)
    if spelled == TOO_LARGE:
        workers.note_text()
    return str(spelled or as_text(text))


async def equal(answer: str, reference: str) -> bool:
    """Whether an answer, as written or as its key, equals the reference."""
    wanted = await key(reference)
    if not wanted or _names_differ(answer, reference):
        return False
    if answer == wanted or await key(answer) == wanted:
        return True
    one, other = plain(answer), plain(reference)
    if max(len(one), len(other)) > LONGEST or too_large(one) or too_large(other) or not _algebraic(one, other):
        return False
    try:
        return bool(await workers.run("router.tasks.math_symbols:same", answer, reference))
    except workers.LimitReached:
        return False


def too_large(text: str) -> bool:
    """Whether a text holds a number too large to compute: factorials of thousands, towers of powers."""
    if re.search(r"\d{4}\s*!|!\s*!\s*!", text):
        return True
    for tower in _TOWER.findall(re.sub(r"[{}\s]", "", text)):
        height = 1
        for step in reversed(tower.split("^")[1:]):
            if len(step) > 4 or height > 20 or int(step) ** height > 10_000:
                return True
            height = int(step) ** height
    return False


def _algebraic(one: str, other: str) -> bool:
    """Whether sympy may help to compare the two: at least one is neither a plain number nor words."""
    return any(_needs_algebra(structure(text)) for text in (one, other))


def _needs_algebra(node: Node) -> bool:
    try:
        spelling(node, Simple())
    except Refused:
        return True
    return False


def _names_differ(answer: str, reference: str) -> bool:
    """Whether both answers name a variable and the names differ: x = 1 and y = 1."""
    names = [structure(plain(each[:LONGEST])).name for each in (answer, reference)]
    if not all(names):
        return False
    calls = ["(" in name for name in names]
    letters = [re.match(r"[a-zA-Z](?=[(_]|$)", name) for name in names]
    return calls[0] == calls[1] and all(letters) and names[0][0] != names[1][0]
