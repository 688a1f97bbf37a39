"""Hidden states of a prompt. The model is run only up to the last layer that is wanted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from transformers import DynamicCache

from router.backends.in_process.prefill import PIECE, extended
from router.backends.states import State
from router.errors import InvalidRequest


class _Enough(Exception):
    """The last layer that is wanted was run."""


def layers_of(model: Any) -> Sequence[Any]:
    """Return the model's layers, first to last."""
    wanted = model.config.num_hidden_layers
    lists: list[Any] = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return next(layers for layers in lists if len(layers) == wanted)


def read_hidden(model: Any, ids: Sequence[int], states: Sequence[State]) -> Iterator[list[float] | None]:
    """Read a prompt piece by piece. Yield None after each piece and, at the end, its states as one vector.

    model  a language model without its vocabulary's head

    Raises InvalidRequest where the model has too few layers.
    """
    layers = layers_of(model)
    try:
        after = [state.after(len(layers)) for state in states]
    except ValueError as error:
        raise InvalidRequest("features", f"the bundle reads hidden({error}", reason="UNSPECIFIED") from error
    cache = DynamicCache()  # made here, since a forward pass that is cut short returns none
    sums: dict[int, torch.Tensor] = {}
    last: dict[int, torch.Tensor] = {}
    for start in range(0, len(ids), PIECE):
        with _captured(layers, set(after)) as found, suppress(_Enough):
            extended(model, cache, ids[start : start + PIECE])
        for layer, hidden in found.items():
            summed = hidden[0].float().sum(0)
            sums[layer] = sums[layer] + summed if layer in sums else summed
            last[layer] = hidden[0, -1].float()
        yield None
    vectors = [
        last[layer] if state.position == "last" else sums[layer] / len(ids)
        for state, layer in zip(states, after, strict=True)
    ]
    yield torch.cat(vectors).tolist()


@contextmanager
def _captured(layers: Sequence[Any], wanted: set[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Collect hidden states during a forward pass: [1, tokens, size] by the number of layers before them."""
    found: dict[int, torch.Tensor] = {}

    def kept(number: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output
            if number == max(wanted):
                raise _Enough

        return layers[number - 1].register_forward_hook(hook)

    handles = [kept(number) for number in wanted]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
