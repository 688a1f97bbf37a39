"""The last table of the demo: what a policy spent on some prompts, and what one arm for all would be expected to."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from router.v1 import router_pb2 as pb


@dataclass(frozen=True, slots=True)
class Ran:
    """One prompt that was solved: its decision, what it spent, and whether its answer is right."""

    decision: pb.Decision
    bill: pb.Bill
    right: bool

    @property
    def flops(self) -> float:
        return self.bill.generator_flops + self.bill.verifier_flops


@dataclass(frozen=True, slots=True)
class Expected:
    """An arm's expected results on all of the prompts, by the policy's measurements at their level probabilities.

    right  number of right answers
    """

    arm: str
    right: float
    tokens: float
    flops: float


def fixed_arms(bundle: pb.Bundle, ran: Sequence[Ran]) -> list[Expected]:
    """Return every arm that is no cascade, those most accurate on the tuning prompts first."""
    cells: dict[str, dict[int, pb.Cell]] = {}
    for cell in bundle.cells:
        if cell.arm.strategy != "cascade":
            cells.setdefault(cell.arm.text, {})[cell.level] = cell

    def tuned(levels: dict[int, pb.Cell]) -> float:
        return sum(cell.accuracy * cell.prompts for cell in levels.values())

    def on_all(arm: str, levels: dict[int, pb.Cell]) -> Expected:
        shares = [(share, levels[i + 1]) for each in ran for i, share in enumerate(each.decision.probabilities)]
        return Expected(
            arm,
            sum(share * cell.accuracy for share, cell in shares),
            sum(share * cell.cost.generated_tokens for share, cell in shares),
            sum(share * (cell.cost.generator_flops + cell.cost.verifier_flops) for share, cell in shares),
        )

    return [on_all(arm, levels) for arm, levels in sorted(cells.items(), key=lambda item: -tuned(item[1]))]


def best_within(arms: Sequence[Expected], tokens: float) -> Expected:
    """Return the first arm expected to write at most ``tokens``; where there is none, the one that writes fewest."""
    return next((arm for arm in arms if arm.tokens <= tokens), min(arms, key=lambda arm: arm.tokens))


def table(bundle: pb.Bundle, ran: Sequence[Ran]) -> Table:
    """Return a table of the policy's actual and expected results, and of the best fixed arm for as many tokens."""
    found = Table(title=f"the same {len(ran)} problems", title_justify="left", title_style="bold", box=None)
    found.add_column("")
    for name in ("right", "tokens", "FLOPs"):
        found.add_column(name, justify="right")
    found.add_column(" ")
    tokens = sum(each.bill.generated_tokens for each in ran)
    found.add_row(
        "the policy", str(sum(each.right for each in ran)), f"{tokens}", f"{sum(each.flops for each in ran):.2g}", "ran"
    )
    promised = [each.decision.expectation for each in ran if each.decision.HasField("expectation")]
    if len(promised) == len(ran):
        costs = [each.cost for each in promised]
        found.add_row(
            "",
            f"{sum(each.accuracy for each in promised):.1f}",
            f"{sum(cost.generated_tokens for cost in costs):.0f}",
            f"{sum(cost.generator_flops + cost.verifier_flops for cost in costs):.2g}",
            "as it was expected to",
        )
    if arms := fixed_arms(bundle, ran):
        best = best_within(arms, tokens)
        cells = f"{best.right:.1f}", f"{best.tokens:.0f}", f"{best.flops:.2g}"
        found.add_row(f"best fixed arm: {best.arm}", *cells, "expected; it did not run here")
    return found
