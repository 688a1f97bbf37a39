"""Reading prefixes in pieces, so that other candidates get their next token while a long prefix is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from router.backends import Usage
from router.backends.in_process.kv import KeyValues, prefill, rows_of

PIECE = 256  # tokens of a long prefix that are read at once


@dataclass(eq=False, slots=True)
class Reading:
    """A prefix of which ``read`` tokens have been read into ``cache``; ``kv``: keys and values, once it is ``done``."""

    tokens: tuple[int, ...]
    usage: Usage
    kv: KeyValues | None = None
    done: bool = False
    cache: Any = None
    read: int = 0

    @property
    def left(self) -> int:
        return len(self.tokens) - self.read


def read_piece(model: Any, unread: Sequence[Reading], most: int) -> Iterator[tuple[Reading, int]]:
    """Read the first of the unread prefixes; yield each that was read, with how many of its tokens.

    Short prefixes are read whole, as many at once as fit ``most`` tokens with their padding. Of a long prefix one piece
    is read, by itself.
    """
    together: list[Reading] = []
    for reading in unread:
        if reading.left > PIECE or reading.cache is not None:
            if not together:
                yield reading, _continue(model, reading)
                return
            continue
        longest = max([len(reading.tokens), *(len(each.tokens) for each in together)])
        if together and (len(together) + 1) * longest > most:
            break
        together.append(reading)
    if together:
        kept, _ = prefill(model, [reading.tokens for reading in together])
        for reading, kv in zip(together, kept, strict=True):
            reading.kv, reading.done = kv, True
            yield reading, len(reading.tokens)


def _continue(model: Any, reading: Reading) -> int:
    """Read the next piece of one prefix; return its number of tokens."""
    piece = reading.tokens[reading.read : reading.read + PIECE]
    reading.cache, _ = extended(model, reading.cache, piece)
    reading.read += len(piece)
    if reading.left == 0:
        reading.kv, reading.done = whole(reading.cache), True
        reading.cache = None
    return len(piece)


def whole(cache: Any) -> KeyValues:
    """Return the keys and values in transformers' cache of one prefix."""
    (kv,) = rows_of(cache, [slice(None)])
    return kv


def extended(model: Any, cache: Any, piece: Sequence[int], **options: Any) -> tuple[Any, Any]:
    """Read ``piece`` after a prefix; return transformers' cache with both, and the model's output on the piece.

    cache  the prefix's, which is changed; None: the prefix is empty
    """
    start = 0 if cache is None else cache.get_seq_length()
    device = model.device
    output = model(
        input_ids=torch.tensor([list(piece)], device=device),
        position_ids=torch.arange(start, start + len(piece), device=device)[None],
        attention_mask=torch.ones((1, start + len(piece)), dtype=torch.long, device=device),
        past_key_values=cache,
        use_cache=True,
        **options,
    )
    return output.past_key_values, output


def bytes_a_token(model: Any) -> int:
    """Return the bytes of one token's keys and values."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)
