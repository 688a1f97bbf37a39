"""Reads arms from text, and knows the strategies by name."""

from collections.abc import Mapping
from dataclasses import fields

from strategies.cascade import Cascade
from strategies.strategy import InvalidArm, Strategy, is_name

_STRATEGIES: dict[str, type[Strategy]] = {}
STRATEGIES: Mapping[str, type[Strategy]] = _STRATEGIES  # by the name in an arm's text
LONGEST_TEXT = 1000  # characters of an arm
_LONGEST_NUMBER = 24  # characters: enough for any float between 0 and 1


def register(*strategies: type[Strategy]) -> None:
    """Make strategies known to the parser, and so to files, commands and the service."""
    for strategy in strategies:
        _STRATEGIES[strategy.name] = strategy


def parse(text: str) -> Strategy:
    """Read an arm: ``beam_search(n=16, m=4)``, or a cascade ``single @0.7 > majority(n=4, model=large)``.

    ``str`` of an arm is the inverse. Raises InvalidArm.
    """
    if len(text) > LONGEST_TEXT:
        raise InvalidArm("strategy", f"an arm has at most {LONGEST_TEXT} characters, this has {len(text)}")
    parts = text.split(">")
    if len(parts) == 1 and "@" not in text:
        return _arm(text, text)
    stages, thresholds = [], []
    for part in parts:
        arm, at, threshold = part.partition("@")
        stages.append(_arm(arm, text))
        if at:
            thresholds.append(_number("confidence", threshold.strip(), float, text))
    if len(thresholds) != len(parts) - 1 or "@" in parts[-1]:
        raise InvalidArm(
            "strategy",
            f"can't read cascade {_quoted(text)}; each stage but the last has the confidence that ends it: "
            "single @0.7 > beam_search(n=4, m=4) @0.7 > single(model=large)",
        )
    return Cascade(stages=tuple(stages), thresholds=tuple(thresholds))


def _arm(text: str, whole: str) -> Strategy:
    name, bracket, rest = text.strip().partition("(")
    name, rest = name.rstrip(), rest.rstrip()
    if not is_name(name) or (bracket and not rest.endswith(")")):
        raise InvalidArm("strategy", f"can't read arm {_quoted(whole)}; write it like beam_search(n=16, m=4)")
    if name not in STRATEGIES:
        raise InvalidArm("strategy", f"unknown strategy {_quoted(name)}; known: {', '.join(STRATEGIES)}")
    strategy = STRATEGIES[name]
    types = {each.name: str if each.name == "model" else type(each.default) for each in fields(strategy)}
    values: dict[str, int | float | str] = {}
    for part in filter(None, (word.strip() for word in rest.removesuffix(")").split(","))):
        option, equals, value = (word.strip() for word in part.partition("="))
        if not equals or option in values:
            raise InvalidArm(
                "strategy", f"can't read {_quoted(part)} in arm {_quoted(whole)}; write it like {name}(n=16)"
            )
        if option not in types:
            takes = ", ".join(types)
            raise InvalidArm(option, f"{name} takes no {_quoted(option)}; it takes {takes}")
        values[option] = value if types[option] is str else _number(option, value, types[option], whole)
    return strategy(**values)  # type: ignore[arg-type]  # each value has its field's type


def _number(name: str, value: str, kind: type, whole: str) -> float:
    digits = "0123456789" if kind is int else "0123456789.e-"
    try:
        if len(value) > _LONGEST_NUMBER or not set(value) <= set(digits):
            raise ValueError
        number: float = kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number like 0.95"
        raise InvalidArm(name, f"{name} must be {wanted}, got {_quoted(value)} in arm {_quoted(whole)}") from None
    return number


def _quoted(text: str) -> str:
    """Return the text quoted for an error message, cut to one line."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
