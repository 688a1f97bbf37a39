"""Attention for decoding on a CPU, registered with transformers as ``grouped``.

With queries of one token, torch's fused kernel takes 6 times as long as the two plain products used here, which is
most of a decoding step. transformers' eager attention first repeats the keys and values for every head that shares
them.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from router.backends.in_process.batch import Blocks

GROUPED = "grouped"


def grouped_query_attention(  # noqa: PLR0917  the signature that transformers calls
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | Blocks,
    value: torch.Tensor | Blocks,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Return the attention's output, [rows, tokens, heads, size].

    query [rows, heads, tokens, size], key and value [rows, groups, columns, size], mask as transformers adds it.
    """
    if not isinstance(key, Blocks) or not isinstance(value, Blocks):
        assert isinstance(key, torch.Tensor)
        assert isinstance(value, torch.Tensor)
        return _attend(query, key, value, attention_mask, scaling).transpose(1, 2), None
    assert attention_mask is not None
    mixed = torch.zeros_like(query)
    start = 0
    for keys, values, first in zip(key.tensors, value.tensors, key.first, strict=True):
        rows = slice(start, start + len(keys))
        mask = attention_mask[rows, ..., first : first + keys.shape[2]]
        mixed[rows] = _attend(query[rows], keys, values, mask, scaling)
        start = rows.stop
    return mixed.transpose(1, 2), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float
) -> torch.Tensor:
    """Return [rows, heads, tokens, size]. The heads of a group are further queries of one product."""
    rows, heads, tokens, size = query.shape
    groups, columns = key.shape[1:3]
    # Flattened by hand: the broadcasting product would copy keys and values that are views of a larger store.
    products = torch.bmm(query.reshape(rows * groups, -1, size), key.flatten(0, 1).transpose(1, 2))
    scores = products.view(rows, groups, -1, tokens, columns)
    masked = scores * scaling if mask is None else mask[:, :, None].add(scores, alpha=scaling)
    weights = masked.softmax(-1).view(products.shape)  # summed in 32 bits, whatever the type
    return torch.bmm(weights, value.flatten(0, 1)).view(rows, heads, tokens, size)


AttentionInterface.register(GROUPED, grouped_query_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
