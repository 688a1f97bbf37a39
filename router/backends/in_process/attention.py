"""Attention for decoding on a CPU, registered with transformers as ``grouped``.

torch's fused kernel spends most of a decoding step on queries of one token (6 times these two products' time), and
transformers' eager attention first repeats the keys and values for every head that shares them.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

GROUPED = "grouped"


def grouped_query_attention(  # noqa: PLR0917  the signature that transformers calls
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """query [rows, heads, tokens, size], key and value [rows, groups, columns, size], mask as transformers adds it.

    Returns [rows, tokens, heads, size]. The heads of a group are further queries of one product.
    """
    rows, heads, tokens, size = query.shape
    groups, columns = key.shape[1:3]
    # Flattened by hand: the broadcasting product would copy keys and values that are views of a larger store.
    products = torch.bmm(query.reshape(rows * groups, -1, size), key.flatten(0, 1).transpose(1, 2))
    scores = products.view(rows, groups, -1, tokens, columns).float() * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None]
    weights = scores.softmax(-1).to(value.dtype).view(products.shape)
    mixed = torch.bmm(weights, value.flatten(0, 1))
    return mixed.view(rows, heads, tokens, size).transpose(1, 2), None


AttentionInterface.register(GROUPED, grouped_query_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
