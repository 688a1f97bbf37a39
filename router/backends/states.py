"""Where in a model a hidden state is read."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

Position = Literal["last", "mean"]
_WRITTEN = re.compile(r"\(layer=(?P<layer>\d+(?:\.\d+)?), position=(?P<position>\w+(?:\+\w+)*)\)")


@dataclass(frozen=True, slots=True)
class State:
    """The hidden state of a prompt after some of the model's layers.

    layer     number of layers; a value below 1 is a share of all layers
    position  "last": at the prompt's last token; "mean": the mean over its tokens
    """

    layer: float = 0.75
    position: Position = "mean"

    def __post_init__(self) -> None:
        if self.layer <= 0 or (self.layer > 1 and self.layer != int(self.layer)):
            raise ValueError(f"layer={self.layer:g} is neither a number of layers nor a share of them between 0 and 1")
        if self.position not in get_args(Position):
            raise ValueError(f"position={self.position} is none of {', '.join(get_args(Position))}, last+mean")

    def after(self, layers: int) -> int:
        """Return how many of a model's ``layers`` come before the state. Raises ValueError where it has fewer."""
        if self.layer > layers:
            raise ValueError(f"layer={self.layer:g}, but the model has {layers} layers")
        return int(self.layer) if self.layer >= 1 else max(1, int(self.layer * (layers + 1)))


def read_states(text: str) -> tuple[State, ...]:
    """Read states from a text like ``(layer=16, position=last+mean)``. Raises ValueError."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is not written like (layer=16, position=last), with last, mean or last+mean")
    positions = found["position"].split("+")
    return tuple(State(float(found["layer"]), position) for position in positions)  # type: ignore[arg-type]
