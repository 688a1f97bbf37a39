"""Kinds of verifiers that any engine's models can have. To add one: a module, and a line here.

What reads a model's insides (a process reward model, a likelihood) is the engines' own: see ``backends.registry``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from router.schema import read


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of verifier.

    module     has ``Options``, a dataclass of what models.json may say of it, and ``load(spec, options, generator)``;
               imported on use
    asks       it asks one of the bundle's models, whose name is the spec's ``model``
    runs_code  it needs --allow-code
    whole      it scores whole solutions only, not the steps of one that goes on
    scores     it scores at all
    """

    module: str
    asks: bool = False
    runs_code: bool = False
    whole: bool = True
    scores: bool = True


KINDS: Mapping[str, Kind] = {
    "none": Kind("router.backends.verifiers.none", scores=False),
    "judge": Kind("router.backends.verifiers.judge", asks=True),
    "tests": Kind("router.backends.verifiers.executed_tests", runs_code=True),
    "lowest_window": Kind("router.backends.verifiers.lowest_window", whole=False),
    "written_tests": Kind("router.backends.verifiers.written_tests", asks=True, runs_code=True),
}
_ENGINES = Kind("", whole=False)  # what the engines' own are like


def kind_of(name: str) -> Kind:
    return KINDS.get(name, _ENGINES)


def options_of(name: str, given: Mapping[str, Any]) -> Any:
    """The options of a kind. Raises ValueError naming what is wrong."""
    if name not in KINDS:
        if given:
            raise ValueError(f"verifier.options.{next(iter(given))}: a {name!r} verifier has no options")
        return None
    try:
        return read(import_module(KINDS[name].module).Options, dict(given))
    except ValueError as error:
        raise ValueError(f"verifier.options.{error}") from None


def filled(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options, those left out as they are by default: a bundle says what it was measured with."""
    options = options_of(name, given)
    return {} if options is None else asdict(options)
