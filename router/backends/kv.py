"""Keys and values of a causal model in process: prefilled, decoded as one batch, kept for later."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from router.backends import Usage

CACHED_TOKENS = 100_000  # kept for the next rounds of all searches: 23 KB a token for the embedded model in bfloat16
PREFILL_TOKENS = 4_096  # prefilled at once, padding included
ROOM = 32  # columns that a batch can grow before it is copied

KeyValues = torch.Tensor  # of one prefix: [layers, 2, heads, tokens, head size]
T = TypeVar("T")
PrefixKey = tuple[int, tuple[int, ...]]  # id of a ledger, tokens


def prefill(model: Any, prefixes: Sequence[tuple[int, ...]]) -> tuple[list[KeyValues], torch.Tensor]:
    """Keys and values of each prefix, computed as one left-padded batch, and the last hidden states [rows, size]."""
    longest = max(map(len, prefixes))
    ids = torch.tensor([[0] * (longest - len(prefix)) + list(prefix) for prefix in prefixes])
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    mask = (torch.arange(longest)[None] >= (longest - lengths)[:, None]).long()
    cached = DynamicCache()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    read = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cached)
    kept = [row_of(cached, i, slice(longest - len(prefix), longest)) for i, prefix in enumerate(prefixes)]
    return kept, read.last_hidden_state[:, -1]


def row_of(cache: DynamicCache, row: int, columns: slice) -> KeyValues:
    """Keys and values of one row of transformers' cache, copied."""
    layers = [torch.stack((layer.keys[row, :, columns], layer.values[row, :, columns])) for layer in cache.layers]
    return torch.stack(layers)


class Batch:
    """Keys and values of prefixes that grow together, one column a step; left-padded, so all end at one column.

    Rows are added, copied and removed in place. Only when the room runs out is the whole batch copied.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []  # tokens of each row
        self._columns = 0
        self._store: torch.Tensor | None = None  # [layers, 2, rows, heads, columns, head size], with room in both

    def add(self, prefix: KeyValues) -> None:
        """Append a row."""
        tokens = prefix.shape[-2]
        if self._store is None or tokens > self._columns or len(self) == self._store.shape[2]:
            self._make_room(prefix, max([tokens, *self.lengths]))
        assert self._store is not None
        self._store[:, :, len(self), :, self._columns - tokens : self._columns] = prefix
        self.lengths.append(tokens)

    def copy(self, row: int) -> None:
        """Append a row equal to ``row``."""
        self.add(self.take(row))

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self) - 1
        if row < last:
            assert self._store is not None
            self._store[:, :, row] = self._store[:, :, last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def take(self, row: int) -> KeyValues:
        """A view of a row: copy what is to outlive the next change."""
        assert self._store is not None
        return self._store[:, :, row, :, self._columns - self.lengths[row] : self._columns]

    def step(self, model: Any, tokens: Sequence[int]) -> torch.Tensor:
        """Grow each row by its token; returns the logits after it, [rows, vocabulary]."""
        assert self._store is not None
        if self._columns == self._store.shape[-2]:
            self._make_room(self.take(0), max(self.lengths))
        end = self._columns
        lengths = torch.tensor(self.lengths)
        logits: torch.Tensor = model(
            input_ids=torch.tensor(tokens)[:, None],
            attention_mask=(torch.arange(end + 1)[None] >= (end - lengths)[:, None]).long(),
            position_ids=lengths[:, None],
            past_key_values=Cache(layers=[_Layer(layer[:, : len(self)], end) for layer in self._store]),
        ).logits[:, -1]
        self._columns += 1
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def __len__(self) -> int:
        return len(self.lengths)

    def _make_room(self, like: KeyValues, columns: int) -> None:
        """Copy the last ``columns`` columns into a store with room for more rows and columns."""
        layers, two, heads, _, size = like.shape
        rows = (
            max(16, 2 * len(self)) if self._store is None or len(self) == self._store.shape[2] else self._store.shape[2]
        )
        # Zeros, not empty: what is masked is multiplied by 0, and garbage may be NaN.
        store = torch.zeros((layers, two, rows, heads, columns + ROOM, size), dtype=like.dtype)
        if self._store is not None and len(self):
            kept = min(columns, self._columns)
            store[:, :, : len(self), :, columns - kept : columns] = self._store[
                :, :, : len(self), :, self._columns - kept : self._columns
            ]
        self._store, self._columns = store, columns


class _Layer(DynamicLayer):
    """One layer of a batch as transformers' cache: a step writes its column in place instead of copying all others."""

    def __init__(self, store: torch.Tensor, end: int):
        """``store``: [2, rows, heads, columns, head size], filled up to column ``end``."""
        super().__init__()
        self.lazy_initialization(store[0], store[1])
        self._store = store
        self.keys, self.values = store[0, :, :, :end], store[1, :, :, :end]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        self._store[0, :, :, start:end], self._store[1, :, :, start:end] = key_states, value_states
        self.keys, self.values = self._store[0, :, :, :end], self._store[1, :, :, :end]
        return self.keys, self.values


def join(prefixes: Sequence[KeyValues]) -> DynamicCache:
    """A left-padded batch of prefixes as transformers' cache."""
    columns = max(prefix.shape[-2] for prefix in prefixes)
    rows = torch.stack([pad(prefix, (0, 0, columns - prefix.shape[-2], 0)) for prefix in prefixes], dim=2)
    return DynamicCache([(keys, values) for keys, values in rows])


def prefill_chunks(keys: list[PrefixKey]) -> Iterator[list[PrefixKey]]:
    """Runs of keys, shortest prefix first, that fit a prefill of PREFILL_TOKENS when padded to their longest."""
    chunk: list[PrefixKey] = []
    for key in keys:
        if chunk and (len(chunk) + 1) * len(key[1]) > PREFILL_TOKENS:
            yield chunk
            chunk = []
        chunk.append(key)
    if chunk:
        yield chunk


class PrefixCache(Generic[T]):
    """What was computed of prefixes, least recently used first to go, up to CACHED_TOKENS tokens.

    Keys start with the id of the call's ledger, which the entry keeps alive so that the id stays its own: a search
    finds only what it paid for itself, and its bill depends on nothing that ran before it.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[PrefixKey, tuple[Usage, T]] = OrderedDict()
        self._tokens = 0

    def get(self, key: PrefixKey) -> T | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][1]

    def put(self, key: PrefixKey, ledger: Usage, value: T) -> None:
        """Copy what is a view: it would keep the whole batch alive that it was computed in."""
        if key not in self._entries:
            self._tokens += len(key[1])
        self._entries[key] = ledger, value
        while self._tokens > CACHED_TOKENS:
            (_, prefix), _ = self._entries.popitem(last=False)
            self._tokens -= len(prefix)
