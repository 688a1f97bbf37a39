"""What the difficulty model reads of a prompt. The bundle names it; to add one, write a function and a line here.

``hidden`` has settings: ``hidden(layer=16, position=last+mean)``, see ``backends.states``.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.backends import Engines, Usage
from router.backends.registry import Capability
from router.backends.states import State, read_states
from router.errors import InvalidBundle
from router.prompt import Prompt

# (prompts, models, usage to add the cost to) → one value per prompt: a text, or a vector; all of one length.
Read = Callable[[Sequence[Prompt], Engines, Usage], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Features:
    """How a kind of features is read.

    vectors  whether a prompt's features are a vector; else they are a text
    needs    capability that the reference model must have
    states   hidden states that make up the vector; () where it has other parts
    """

    read: Read
    vectors: bool
    needs: Capability | None = None
    states: tuple[State, ...] = ()


async def _text(prompts: Sequence[Prompt], engines: Engines, usage: Usage) -> list[str]:
    """Return each prompt's last message: what is asked."""
    return [prompt.question for prompt in prompts]


def _hidden(*states: State) -> Features:
    """Return features that are the reference model's hidden states at the prompt."""

    async def read(prompts: Sequence[Prompt], engines: Engines, usage: Usage) -> list[list[float]]:
        return await engines.main.embed(prompts, states, usage=usage)

    return Features(read, vectors=True, needs="hidden_states", states=states)


_FEATURES: dict[str, Features] = {
    "text": Features(_text, vectors=False),
    "hidden": _hidden(State()),
}
FEATURES: Mapping[str, Features] = _FEATURES


def register(name: str, features: Features) -> None:
    """Make features known by the name that bundles use for them."""
    _FEATURES[name] = features


def features_of(name: str) -> Features:
    """Return the features of this name. Raises InvalidBundle where it is unknown."""
    if name in FEATURES:
        return FEATURES[name]
    kind, bracket, settings = name.partition("(")
    if kind == "hidden" and bracket:
        try:
            return _hidden(*read_states(bracket + settings))
        except ValueError as error:
            raise InvalidBundle(f"the bundle's difficulty model reads {name!r}: {error}") from error
    raise InvalidBundle(f"the bundle's difficulty model reads {name!r}; this router knows {', '.join(FEATURES)}")


async def read_vectors(
    names: Sequence[str], prompts: Sequence[Prompt], engines: Engines, usage: Usage
) -> dict[str, NDArray[np.float32]]:
    """Return (n, d) vectors by name. All hidden states of a prompt are read in one pass. Raises InvalidBundle."""
    wanted = {name: features_of(name) for name in names}
    states = list(dict.fromkeys(state for features in wanted.values() for state in features.states))
    pieces = [
        np.asarray(await engines.main.embed(prompts[start : start + _AT_ONCE], states, usage=usage), dtype=np.float32)
        for start in range(0, len(prompts) if states else 0, _AT_ONCE)
    ]
    columns = dict(zip(states, np.split(np.concatenate(pieces), len(states), axis=1), strict=True)) if states else {}
    return {
        name: np.hstack([columns[state] for state in features.states])
        if features.states
        else np.asarray(await features.read(prompts, engines, usage), dtype=np.float32)
        for name, features in wanted.items()
    }


_AT_ONCE = 64  # prompts at a time, whose vectors are temporarily lists of Python numbers


def tried(name: str) -> list[str]:
    """Return the features that training compares for a name: for hidden states, several layers and positions."""
    if name != "hidden":
        return [name]
    return [f"hidden(layer={layer}, position={position})" for layer in _LAYERS for position in _POSITIONS]


_LAYERS = (0.35, 0.5, 0.6, 0.7, 0.8)  # shares of the model's depth: middle layers tell most
_POSITIONS = ("last", "mean", "last+mean")
