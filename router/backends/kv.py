"""Keys and values of a causal model in process: prefilled, joined into a batch, extended in place, kept for later."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from router.backends import Usage

CACHED_TOKENS = 16_000  # prefixes kept for the next round of a search: 46 KB a token for the embedded model
PREFILL_TOKENS = 4_096  # prefilled at once, padding included
ROOM = 8  # columns that a batch can grow before it is copied

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]  # one pair a layer, each [rows, heads, columns, head size]
PrefixKey = tuple[int, tuple[int, ...]]  # id of a ledger, tokens


def prefill(model: Any, prefixes: Sequence[tuple[int, ...]]) -> list[KeyValues]:
    """Keys and values of each prefix, [1, heads, length, head size] a layer, computed as one left-padded batch."""
    longest = max(map(len, prefixes))
    ids = torch.tensor([[0] * (longest - len(prefix)) + list(prefix) for prefix in prefixes])
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    mask = (torch.arange(longest)[None] >= (longest - lengths)[:, None]).long()
    cached = DynamicCache()
    model(input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), past_key_values=cached)
    return [
        [
            # Cloned: a view would keep the whole padded batch alive for as long as this prefix is cached.
            (layer.keys[i : i + 1, :, -len(prefix) :].clone(), layer.values[i : i + 1, :, -len(prefix) :].clone())
            for layer in cached.layers
        ]
        for i, prefix in enumerate(prefixes)
    ]


class GrowingLayer(DynamicLayer):
    """One layer's cache with room for ROOM more columns: a step writes in place instead of copying it all."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.lazy_initialization(keys, values)
        self._stores = [pad(keys, (0, 0, 0, ROOM)), pad(values, (0, 0, 0, ROOM))]
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self._stores[0].shape[2]:
            self._stores = [pad(store, (0, 0, 0, max(ROOM, key_states.shape[2]))) for store in self._stores]
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, start:end] = states
        self.keys, self.values = (store[:, :, :end] for store in self._stores)
        return self.keys, self.values


def take(layers: list[GrowingLayer], rows: list[int], columns: int) -> KeyValues:
    """Some rows' last ``columns`` columns, copied."""
    index = torch.tensor(rows, dtype=torch.long)
    return [(layer.keys[index, :, -columns:], layer.values[index, :, -columns:]) for layer in layers]


def join(parts: Sequence[KeyValues]) -> KeyValues:
    """Concatenate along the rows, padded on the left to the longest."""
    columns = max(part[0][0].shape[2] for part in parts)

    def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([pad(tensor, (0, 0, columns - tensor.shape[2], 0)) for tensor in tensors])

    return [(stack([kv[0] for kv in layer]), stack([kv[1] for kv in layer])) for layer in zip(*parts, strict=True)]


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


class PrefixCache:
    """Least-recently-used prefixes, up to CACHED_TOKENS tokens.

    Keys start with the id of the call's ledger, which the entry keeps alive so that the id stays its own: a search
    finds only what it paid for itself, and its bill depends on nothing that ran before it.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[PrefixKey, tuple[Usage, KeyValues]] = OrderedDict()
        self._tokens = 0

    def get(self, key: PrefixKey) -> KeyValues | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][1]

    def put(self, key: PrefixKey, ledger: Usage, kv: KeyValues) -> None:
        if key not in self._entries:
            self._entries[key] = ledger, kv
            self._tokens += len(key[1])
        while self._tokens > CACHED_TOKENS:
            (_, prefix), _ = self._entries.popitem(last=False)
            self._tokens -= len(prefix)
