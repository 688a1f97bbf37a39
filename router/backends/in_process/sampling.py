"""Draws tokens from logits, each draw with a random number of its own."""

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

BLOCK = 64  # tokens of the vocabulary whose weights are summed first
_BELOW = 1 - 2**-52  # a number of 64 bits times this is smaller, whatever the rounding


def sample(
    logits: torch.Tensor,
    temperatures: Sequence[float],
    numbers: Sequence[Sequence[float]],
    at_once: int,
    order: Sequence[int] | None = None,
) -> list[list[tuple[int, float]]]:
    """Draw for each row one token per random number; return each token with its log-probability at temperature 1.

    logits        [rows, vocabulary]
    temperatures  one for each row; 0 is greedy
    numbers       for each row any count of random numbers in [0, 1)
    at_once       rows that are computed together: each takes memory of the vocabulary's size
    order         for each row the index of its logits; None: the same order

    Inverse transform sampling: a number draws the same token whatever other rows there are.
    """
    drawn: list[list[tuple[int, float]]] = []
    for start in range(0, len(numbers), at_once):
        few = slice(start, start + at_once)
        drawn += _sample(logits[few if order is None else order[few]].float(), temperatures[few], numbers[few])
    return drawn


def confidences(logits: torch.Tensor, top: int, at_once: int) -> list[float]:
    """Return each row's mean negative log-probability, at temperature 1, of its ``top`` likeliest tokens, in nats."""
    found: list[float] = []
    for start in range(0, len(logits), at_once):
        few = logits[start : start + at_once].float()
        likeliest = few.topk(min(top, few.shape[1])).values
        found += (few.logsumexp(-1) - likeliest.mean(-1)).tolist()
    return found


def _sample(
    logits: torch.Tensor, temperatures: Sequence[float], numbers: Sequence[Sequence[float]]
) -> list[list[tuple[int, float]]]:
    """Draw as :func:`sample`. Weights are summed in blocks; a draw searches the blocks' running sums, then one block.

    Running sums over a vocabulary of 150,000 would take as long as a quarter of a small model's forward pass.
    """
    device, rows = logits.device, len(numbers)
    largest = logits.amax(-1, keepdim=True)
    less = logits - largest
    if rest := -logits.shape[1] % BLOCK:
        less = pad(less, (0, rest), value=-torch.inf)
    weights = less.exp()
    log_total = weights.sum(-1).log()  # at temperature 1
    divisors = torch.tensor([[temperature or 1.0] for temperature in temperatures], device=device)
    blocks = torch.div(less, divisors, out=weights).exp_().view(rows, -1, BLOCK)
    ends = blocks.sum(-1).cumsum(-1, dtype=torch.float64)

    widest = max(map(len, numbers))
    padded = [[*row, *[0.0] * (widest - len(row))] for row in numbers]
    draws = torch.tensor(padded, device=device, dtype=torch.float64).clamp(max=_BELOW) * ends[:, -1:]
    block = torch.searchsorted(ends, draws, right=True).clamp(max=ends.shape[1] - 1)
    begins = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(rows, device=device)[:, None], block].cumsum(-1, dtype=torch.float64)
    # Blocks are summed in 32 bits, their tokens in 64: a number between the sums draws the block's last likely token.
    left = torch.minimum(draws - begins, inside[..., -1] * _BELOW)
    drawn = block * BLOCK + torch.searchsorted(inside, left[..., None], right=True)[..., 0].clamp(max=BLOCK - 1)

    tokens = drawn
    greedy = [row for row, temperature in enumerate(temperatures) if temperature == 0]
    if greedy:  # only where needed: the search for the maximum takes as long as all else
        tokens[greedy] = less[greedy].argmax(-1, keepdim=True)
    log_probs = less.gather(1, tokens) - log_total[:, None]
    return [
        list(zip(row_tokens, row_log_probs, strict=True))[: len(row)]
        for row, row_tokens, row_log_probs in zip(numbers, tokens.tolist(), log_probs.tolist(), strict=True)
    ]
