"""What the difficulty model reads of a prompt. Named in the bundle; to add one: a function, and a line here."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.backends import Engines, Usage
from router.backends.registry import Capability
from router.errors import InvalidBundle
from router.prompt import Prompt

# (prompts, models, what that spends is added to) → one value a prompt: a text, or a vector of one length for all.
Read = Callable[[Sequence[Prompt], Engines, Usage], Awaitable[Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Features:
    """``vectors``: whether each prompt is a vector, and not a text; ``needs``: capability of the reference model."""

    read: Read
    vectors: bool
    needs: Capability | None = None


async def _text(prompts: Sequence[Prompt], engines: Engines, usage: Usage) -> list[str]:
    """The last message's text: what is asked."""
    return [prompt.question for prompt in prompts]


async def _hidden(prompts: Sequence[Prompt], engines: Engines, usage: Usage) -> list[list[float]]:
    """The reference model's hidden state at the prompt."""
    return await engines.main.embed(prompts, usage=usage)


_FEATURES: dict[str, Features] = {
    "text": Features(_text, vectors=False),
    "hidden": Features(_hidden, vectors=True, needs="hidden_states"),
}
FEATURES: Mapping[str, Features] = _FEATURES


def register(name: str, features: Features) -> None:
    """Make features known by the name that a bundle has for them."""
    _FEATURES[name] = features


def features_of(name: str) -> Features:
    """Raises InvalidBundle."""
    if name not in FEATURES:
        raise InvalidBundle(f"the bundle's difficulty model reads {name!r}; this router knows {', '.join(FEATURES)}")
    return FEATURES[name]
