"""Converts bills to complete solutions of the reference model, where no sample tells their length at the prompt."""

from collections.abc import Mapping, Sequence

from router.policy.table import LEVELS, Policy
from router.solving.bill import Bill


def solution_tokens(policy: Policy, reference: str) -> tuple[float, ...]:
    """(5,) mean tokens of a solution of the reference model at each level, from the arms that use no other model."""
    own = [cell for cell in policy.cells if cell.arm.models <= {None, reference}] or list(policy.cells)
    tokens, solutions = [0.0] * len(LEVELS), [0.0] * len(LEVELS)
    for cell in own:
        tokens[cell.level - 1] += cell.cost.generated_tokens
        solutions[cell.level - 1] += cell.cost.generations
    return tuple(max(a, 1.0) / max(b, 1e-9) for a, b in zip(tokens, solutions, strict=True))


def generations(bill: Bill, worth: Mapping[str, float], tokens: Sequence[float], weights: Sequence[float]) -> float:
    """Return what was generated, in solutions of the reference model; other models' tokens count as they are worth.

    tokens  (5,) from :func:`solution_tokens`;  weights  (5,) weight of each level
    """
    written = sum(
        usage.generated_tokens * worth.get(model, 1.0)
        for (model, role), usage in bill.lines.items()
        if role == "generator"
    )
    return written / sum(weight * each for weight, each in zip(weights, tokens, strict=True))
