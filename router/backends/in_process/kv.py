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
    """How much is computed at once, and kept.

    rows     candidates join a batch while it has fewer rows
    spread   tokens by which rows differ that lie side by side, padded to one length: a product of them reads them all
    sampled  rows of logits that tokens are drawn from at once
    scored   candidates that a verifier is asked for at once
    prefill  tokens read at once, padding included
    cached   tokens kept for the next rounds of all searches, at most: 23 KB each for the embedded model in bfloat16
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
    """Keys and values of each prefix, computed as one left-padded batch, and the last hidden states [rows, size]."""
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
    """Those columns of each row of transformers' cache, copied."""
    return [
        torch.stack([torch.stack((layer.keys[row, :, kept], layer.values[row, :, kept])) for layer in cache.layers])
        for row, kept in enumerate(columns)
    ]


def join(prefixes: Sequence[KeyValues]) -> DynamicCache:
    """A left-padded batch of prefixes as transformers' cache."""
    columns = max(prefix.shape[-2] for prefix in prefixes)
    rows = torch.stack([pad(prefix, (0, 0, columns - prefix.shape[-2], 0)) for prefix in prefixes], dim=2)
    return DynamicCache([(keys, values) for keys, values in rows])


class PrefixCache(Generic[T]):
    """What was computed of prefixes, least recently used first to go, up to ``room()`` tokens.

    Keys start with the id of the call's ledger: a search finds only what it paid for itself, and its bill depends on
    nothing that ran before it. What is kept for a search goes when the search has ended, and its ledger with it.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._entries: OrderedDict[PrefixKey, T] = OrderedDict()
        self._ledgers: dict[int, weakref.ref[Usage]] = {}
        self._ended: deque[int] = deque()  # ids of ledgers that are gone, before another can have the same
        self._tokens = 0

    def get(self, key: PrefixKey) -> T | None:
        self.drop_ended()
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def put(self, key: PrefixKey, ledger: Usage, value: T) -> None:
        """Copy what is a view: it would keep the whole batch alive that it was computed in."""
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
        """What was kept for searches that have ended."""
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
