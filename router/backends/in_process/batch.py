"""Keys and values of prefixes that are decoded together, and the forward pass that predicts their next tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from router.backends.in_process.kv import KeyValues

# Tensors are padded to a few shapes. torch prepares a product for each new shape, which takes a fifth of a step's time,
# and keeps what it prepared, gigabytes in the end.
COLUMNS = 32  # a block's width is a multiple of this; a copied block gets room for as many more columns
ROWS = 16  # a batch of more than FEW rows is computed with a multiple of this many
FEW = 64


class Batch:
    """Prefixes that grow together, a token a step. Rows are added, copied and removed in place.

    Rows of about equal length lie in one block, since attention reads a whole block with its padding.
    """

    def __init__(self, spread: int) -> None:
        """spread: tokens by which the lengths of a block's rows may differ."""
        self._spread = spread
        self._blocks: list[_Block] = []
        self._places: list[tuple[_Block, int]] = []  # for each row: its block, and its index there

    def add(self, prefix: KeyValues) -> None:
        """Append a row."""
        tokens = prefix.shape[-2]
        block = next((each for each in self._blocks if each.accepts(tokens, self._spread)), None)
        if block is None:
            block = _Block()
            self._blocks.append(block)
        block.add(prefix)
        block.owners.append(len(self))
        self._places.append((block, len(block) - 1))

    def copy(self, row: int) -> None:
        """Append a row equal to ``row``."""
        self.add(self.take(row))

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        block, place = self._places[row]
        block.remove(place)
        if place < len(block):
            self._places[block.owners[place]] = block, place
        elif not len(block):
            self._blocks.remove(block)
        last = self._places.pop()
        if row < len(self):
            self._places[row] = last
            last[0].owners[last[1]] = row

    def take(self, row: int) -> KeyValues:
        """Return a view of a row. It changes with the batch, so copy it to keep it."""
        block, place = self._places[row]
        return block.take(place)

    def step(self, model: Any, tokens: Sequence[int]) -> tuple[torch.Tensor, list[int]]:
        """Append a token to each row; return logits [rows in any order, vocabulary] and the index of each row's."""
        for block in self._blocks:
            block.prepare()
        device = model.device
        # Aligned at their ends, as one batch would be: what a model masks by distance stays right.
        end = max(block.end for block in self._blocks)
        width = max(end - block.end + block.width for block in self._blocks)
        ids: list[int] = []
        ends: list[int] = []
        places: dict[_Block, int] = {}
        for block in self._blocks:
            places[block] = len(ids)
            ids += [tokens[owner] for owner in block.owners]
            ends += block.lengths
        idle = [0] * (-len(self) % ROWS if len(self) > FEW else 0)  # rows that only pad the batch to a known shape
        lengths, columns = torch.tensor(ends + idle, device=device), torch.arange(width, device=device)[None]
        logits: torch.Tensor = model(
            input_ids=torch.tensor(ids + idle, device=device)[:, None],
            attention_mask=((columns >= (end - lengths)[:, None]) & (columns <= end)).long(),
            position_ids=lengths[:, None],
            past_key_values=Cache(layers=[_Layer(layer, self._blocks, end, width) for layer in self._layers()]),
        ).logits[:, -1]
        for block in self._blocks:
            block.grow()
        return logits, [places[block] + place for block, place in self._places]

    def _layers(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield for each layer the blocks' keys and values, [2, rows, heads, columns, head size]."""
        return zip(*(block.filled() for block in self._blocks), strict=True)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(eq=False, slots=True)
class _Block:
    """Rows of about equal length, left-padded, so that all end at one column.

    owners   index of each row in the batch
    lengths  tokens of each row
    end      number of filled columns
    """

    owners: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    end: int = 0
    _store: torch.Tensor | None = None  # [layers, 2, rows, heads, columns, head size], with spare rows and columns

    @property
    def width(self) -> int:
        return self.store.shape[-2]

    @property
    def store(self) -> torch.Tensor:
        assert self._store is not None
        return self._store

    def filled(self) -> torch.Tensor:
        """Return the rows' keys and values, [layers, 2, rows, heads, columns, head size]."""
        return self.store[:, :, : len(self)]

    def accepts(self, tokens: int, spread: int) -> bool:
        return max(*self.lengths, tokens) - min(*self.lengths, tokens) <= spread

    def add(self, prefix: KeyValues) -> None:
        tokens = prefix.shape[-2]
        if self._store is None or tokens > self.end or len(self) == self._store.shape[2]:
            self._make_room(prefix, max([tokens, *self.lengths]))
        self.store[:, :, len(self), :, self.end - tokens : self.end] = prefix
        self.lengths.append(tokens)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self) - 1
        if row < last:
            self.store[:, :, row] = self.store[:, :, last]
            self.lengths[row] = self.lengths[last]
            self.owners[row] = self.owners[last]
        self.lengths.pop()
        self.owners.pop()

    def take(self, row: int) -> KeyValues:
        return self.store[:, :, row, :, self.end - self.lengths[row] : self.end]

    def prepare(self) -> None:
        """Make room for one more column."""
        if self.end == self.width:
            self._make_room(self.take(0), max(self.lengths))

    def grow(self) -> None:
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _make_room(self, like: KeyValues, columns: int) -> None:
        """Copy the last ``columns`` columns into a store with room for more rows and columns."""
        layers, two, heads, _, size = like.shape
        rows = len(self) + max(ROWS, len(self) // 4)  # not twice as many: that would be twice the memory
        width = columns + COLUMNS + -columns % COLUMNS
        # Zeros, not empty: what is masked is multiplied by 0, and garbage may be NaN.
        store = torch.zeros((layers, two, rows, heads, width, size), dtype=like.dtype, device=like.device)
        if self._store is not None:
            kept = min(columns, self.end)
            store[:, :, : len(self), :, columns - kept : columns] = self._store[
                :, :, : len(self), :, self.end - kept : self.end
            ]
        self._store, self.end = store, columns

    def __len__(self) -> int:
        return len(self.lengths)


class _Layer(DynamicLayer):
    """One layer of a batch as transformers' cache: a step writes its column in place instead of copying all others.

    The attention gets keys and values as :class:`Blocks`, spare columns included, which its mask leaves out. A product
    over all columns reads the store in place; one over a part of them would first copy it, three times as slow.
    """

    def __init__(self, stores: Sequence[torch.Tensor], blocks: Sequence[_Block], end: int, width: int):
        super().__init__()
        self.lazy_initialization(stores[0], stores[0])
        self._stores = stores
        self._ends = [block.end for block in blocks]
        self._end, self._width = end, width

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        start = 0
        for store, end in zip(self._stores, self._ends, strict=True):
            rows = slice(start, start + store.shape[1])
            store[0, :, :, end : end + 1] = key_states[rows]
            store[1, :, :, end : end + 1] = value_states[rows]
            start = rows.stop
        first = [self._end - end for end in self._ends]
        return Blocks([store[0] for store in self._stores], first), Blocks([store[1] for store in self._stores], first)

    def get_seq_length(self) -> int:
        return self._end

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._width, 0


@dataclass(frozen=True, slots=True)
class Blocks:
    """Keys or values of one layer.

    tensors  one for each block, [rows, groups, columns, size]; rows in the order of the queries, which may be more
    first    for each block, the mask's column that is the block's first
    """

    tensors: list[torch.Tensor]
    first: list[int]
