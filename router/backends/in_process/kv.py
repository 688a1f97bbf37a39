"""Keys and values of a causal model in process: prefilled, decoded as one batch, kept for later."""

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from router.backends import Usage


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is computed at once, and how much is kept.

    rows     most rows of a batch that candidates still join
    spread   tokens by which the lengths of rows in one block may differ; all are padded to the longest
    sampled  rows of logits that tokens are drawn from at once
    scored   candidates that a verifier scores at once
    prefill  tokens read at once, padding included
    cached   most tokens kept for the next rounds of all searches: 23 KB each for the embedded model in bfloat16
    """

    rows: int
    spread: int
    sampled: int
    scored: int
    prefill: int
    cached: int


# On two cores throughput levels off at 256 rows, and to sample more than 16 at once takes each pass over the vocabulary
# out of the cache, three times as slow. A GPU takes as long for a thousand rows of a small model as for one, so that
# several products in the place of one would cost it more than padding.
SIZES = {
    "cpu": Sizes(rows=256, spread=64, sampled=16, scored=16, prefill=4_096, cached=100_000),
    "cuda": Sizes(rows=1024, spread=2**30, sampled=256, scored=256, prefill=65_536, cached=125_000),
}

KeyValues = torch.Tensor  # of one prefix: [layers, 2, heads, tokens, head size]
T = TypeVar("T")
PrefixKey = tuple[int, tuple[int, ...]]  # id of a ledger, tokens


def prefill(model: Any, prefixes: Sequence[tuple[int, ...]]) -> tuple[list[KeyValues], torch.Tensor]:
    """Compute keys and values of prefixes as one left-padded batch; return them and last hidden states [rows, size]."""
    longest, device = max(map(len, prefixes)), model.device
    ids = torch.tensor([[0] * (longest - len(prefix)) + list(prefix) for prefix in prefixes], device=device)
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
    mask = (torch.arange(longest, device=device)[None] >= (longest - lengths)[:, None]).long()
    cached = DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    read = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cached)
    kept, last = [slice(longest - len(prefix), longest) for prefix in prefixes], read.last_hidden_state[:, -1]
    return rows_of(cached, kept), last


def rows_of(cache: DynamicCache, columns: Sequence[slice]) -> list[KeyValues]:
    """Return a copy of each row of transformers' cache, reduced to the row's ``columns``."""
    return [
        torch.stack([torch.stack((layer.keys[row, :, kept], layer.values[row, :, kept])) for layer in cache.layers])
        for row, kept in enumerate(columns)
    ]


def join(prefixes: Sequence[KeyValues]) -> DynamicCache:
    """Return the prefixes as one left-padded batch in transformers' cache."""
    columns = max(prefix.shape[-2] for prefix in prefixes)
    rows = torch.stack([pad(prefix, (0, 0, columns - prefix.shape[-2], 0)) for prefix in prefixes], dim=2)
    return DynamicCache([(keys, values) for keys, values in rows])


class PrefixCache(Generic[T]):
    """Keeps what was computed for prefixes, up to ``room()`` tokens; drops the least recently used first.

    Keys start with the id of the search's ledger (its ``Usage``). So a search finds only what it paid for itself, and
    its bill does not depend on earlier searches. Its entries are dropped when it has ended and its ledger is gone.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._entries: OrderedDict[PrefixKey, T] = OrderedDict()
        self._ledgers: dict[int, weakref.ref[Usage]] = {}
        self._ended: deque[int] = deque()  # ids of ledgers that are gone; a new one may get the same id later
        self._tokens = 0

    def get(self, key: PrefixKey) -> T | None:
        self.drop_ended()
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: PrefixKey, ledger: Usage, value: T) -> None:
        """Keep a value. Pass a copy of what is a view, which would keep its whole batch in memory."""
        self.drop_ended()
        own = key[0]
        if own not in self._ledgers:
            ended = self._ended
            self._ledgers[own] = weakref.ref(ledger, lambda _: ended.append(own))
        if key not in self._entries:
            self._tokens += len(key[1])
        self._entries[key] = value
        room = self._room()
        while self._tokens > room:
            (_, prefix), _ = self._entries.popitem(last=False)
            self._tokens -= len(prefix)

    def drop_ended(self) -> None:
        """Drop the entries of searches that have ended."""
        ended = set()
        while self._ended:
            ended.add(self._ended.popleft())
        if not ended:
            return
        for own in ended:
            self._ledgers.pop(own, None)
        for key in [key for key in self._entries if key[0] in ended]:
            del self._entries[key]
            self._tokens -= len(key[1])

    def clear(self) -> None:
        self._entries.clear()
        self._tokens = 0
