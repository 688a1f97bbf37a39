"""Kinds of verifiers that work with any engine. To add one, write its module and a line here.

Verifiers that need a model's hidden states or logits (process reward model, likelihood) belong to the engines: see
``backends.registry``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from router.schema import read


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of verifier.

    module     a module with ``Options``, a dataclass of its settings in models.json, and
               ``load(spec, options, generator)``; imported on use
    asks       whether it asks one of the bundle's models, named by the spec's ``model``
    runs_code  whether it needs --allow-code
    whole      whether it scores whole solutions only, not the steps of an unfinished one
    scores     whether it gives scores at all
    findings   whether it says what is wrong with a solution
    """

    module: str
    asks: bool = False
    runs_code: bool = False
    whole: bool = True
    scores: bool = True
    findings: bool = False


KINDS: Mapping[str, Kind] = {
    "none": Kind("router.backends.verifiers.none", scores=False),
    "judge": Kind("router.backends.verifiers.judge", asks=True),
    "tests": Kind("router.backends.verifiers.executed_tests", runs_code=True, findings=True),
    "lowest_window": Kind("router.backends.verifiers.lowest_window", whole=False),
    "written_tests": Kind("router.backends.verifiers.written_tests", asks=True, runs_code=True, findings=True),
}
_ENGINES = Kind("", whole=False)  # stands for all kinds that belong to the engines


def kind_of(name: str) -> Kind:
    return KINDS.get(name, _ENGINES)


def options_of(name: str, given: Mapping[str, Any]) -> Any:
    """Return the options of a kind, checked. Raises ValueError, which names what is wrong."""
    if name not in KINDS:
        if given:
            raise ValueError(f"verifier.options.{next(iter(given))}: a {name!r} verifier has no options")
        return None
    try:
        return read(import_module(KINDS[name].module).Options, dict(given))
    except ValueError as error:
        raise ValueError(f"verifier.options.{error}") from None


def filled(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options, with defaults for those left out, since a bundle records what it was measured with."""
    options = options_of(name, given)
    return {} if options is None else asdict(options)
