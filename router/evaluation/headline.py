"""Computes the figures that a reader looks for first. A figure that can't be measured is null, with a reason."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.evaluation.arms import fixed
from router.evaluation.at_flops import InFlops
from router.evaluation.averages import Averages, larger_alone
from router.evaluation.causes import GAINS
from router.evaluation.curves import Curve, PerPrompt, estimate, saving, spend_to_match
from router.evaluation.parts import HEADLINE, NO_LARGER, AtAverage, AtFlops, Trust
from router.evaluation.report import Saving
from router.tuning.nested import FIXED

BUDGETS = (8, 16, 32)  # average budgets at which gains are reported
_SAVED = {
    "savings_average_budget": "predicted_average",
    "savings_fixed_budget": "predicted",
    "savings_best_fixed": "best_fixed",
}
_OF_LARGER = ("accuracy_at_larger_cost", "accuracy_at_1.5_larger_cost", "cost_of_larger_accuracy", "apgr", "cpt")
_GRID = 20  # number of costs between those of the cheapest arm and of the larger model
_SHARES = (0.5, 0.8)  # shares of the accuracy gap between these two
Floats = NDArray[np.float64]


def headline(
    averages: Averages,
    rows: Sequence[AtAverage],
    *,
    savings: Mapping[str, Mapping[str, Saving]],
    fixed_curves: Mapping[str, Curve],
    policy_curve: Curve,
    trust: Trust | None,
    spent: InFlops,
    noise: float | None,
    draws: Floats,
) -> dict[str, Any]:
    """Return all figures in ``parts.HEADLINE`` by name.

    rows          results of ``averages.at_averages``
    fixed_curves  curves of "best_fixed_arm" and "best_fixed_cascade" over average budgets
    policy_curve  the policy's curve over average budgets
    noise         rank correlation that a perfect difficulty model would have
    """
    found: dict[str, Any] = dict.fromkeys(HEADLINE)
    reasons: dict[str, str] = {}
    by_budget = {row.budget: row for row in rows}
    for name, way in GAINS.items():
        found[name], missing = _gains(by_budget, way)
        if missing:
            reasons[name] = (
                f"not measured at an average budget of {', '.join(missing)}: no policy spends as much, or the chosen "
                "arms were not run on these prompts"
            )
    saved, unsaved = _savings(savings, policy_curve, fixed_curves, draws)
    found |= saved
    reasons |= unsaved
    column = larger_alone(averages.measured)
    if column is None:
        reasons |= dict.fromkeys(_OF_LARGER, NO_LARGER)
    else:
        beside, missing_beside = _beside(averages, fixed(averages.measured, column), draws)
        found |= beside
        reasons |= missing_beside
    if trust is None:
        reasons["confidence_error"] = "the bundle has no confidence model, or the chosen arms can't be replayed"
    else:
        found["confidence_error"] = {"value": trust.error, "chance": trust.chance, "chance_high": trust.chance_high}
    found |= spent.shares
    reasons |= spent.reasons
    found["gain_at_large_cost"] = _at_large_cost(spent)
    if found["gain_at_large_cost"] is None:
        reasons["gain_at_large_cost"] = "no larger model was run, or the policy spends more than one solution of it"
    found["below_best_fixed"] = _below(rows, spent)
    found["difficulty_ceiling"] = noise
    if noise is None:
        reasons["difficulty_ceiling"] = "takes four attempts a prompt, and prompts that differ"
    off = {f"{row.budget:g}": round(row.asked.generations / row.budget - 1, 4) for row in rows}
    found["average_budget_error"] = off or None
    kept = {f"{row.budget:g}": round(row.kept.generations / row.budget - 1, 4) for row in rows if row.kept}
    found["average_budget_error_kept"] = kept or None
    for name in ("average_budget_error", "average_budget_error_kept"):
        if not found[name]:
            reasons[name] = "no average budget was measured"
    found["reasons"] = reasons
    return found


def _savings(
    savings: Mapping[str, Mapping[str, Saving]], policy_curve: Curve, fixed_curves: Mapping[str, Curve], draws: Floats
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the savings by name, and reasons for those that are not measured.

    They are against weighted best-of-N, or a majority vote where no verifier scored: ``of`` names it. Then against the
    best fixed arm and the best fixed cascade.
    """
    measured: dict[str, Saving] = {}
    for name, policy in _SAVED.items():
        weighted, majority = savings[policy]["weighted_best_of_n"], savings[policy]["majority"]
        measured[name] = weighted if weighted.arm else majority
    found = {name: (times := _times(each)) and times | {"of": each.arm} for name, each in measured.items()}
    for way in FIXED:
        name = f"savings_against_{way.removesuffix('_arm')}"
        measured[name] = saving(policy_curve, way, fixed_curves.get(way, {}), draws)
        found[name] = _times(measured[name])
    reasons = {
        name: each.reason or "not measured on these attempts"
        for name, each in measured.items()
        if each.generations is None or each.reason
    }
    return found, reasons


def _times(found: Saving) -> dict[str, Any] | None:
    times = found.generations
    return {"value": times.times, "low": times.low, "high": times.high} if times and times.times else None


def _at_large_cost(spent: InFlops) -> dict[str, float] | None:
    """What the policy gains on the larger model alone at the same FLOPs; a perfect choice is the ceiling."""
    row = next((each for each in spent.rows if each.share == 1 and "larger_alone" in each.gains), None)
    if row is None:
        return None
    gain, larger = row.gains["larger_alone"], row.ways["larger_alone"].point.accuracy
    ceiling = round(row.perfect - larger, 4)
    return {"value": gain.value, "low": gain.low, "high": gain.high, "ceiling": ceiling}


def _below(rows: Sequence[AtAverage], spent: InFlops) -> list[dict[str, Any]]:
    """Where the policy is clearly less accurate than the best fixed arm or cascade, as the rows compare them."""
    compared: list[AtAverage | AtFlops] = [*rows, *spent.rows]
    return [
        {"at": row.name, "way": way, "value": gain.value, "low": gain.low, "high": gain.high}
        for row in compared
        for way in FIXED
        if (gain := row.gains.get(way)) and gain.high < 0
    ]


def _gains(rows: Mapping[float, AtAverage], way: str) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the policy's gain over another way at each budget, and the budgets at which it was not measured."""
    gains: dict[str, Any] = {}
    for budget in BUDGETS:
        row = rows.get(float(budget))
        gain = row.gains.get(way) if row else None
        gains[str(budget)] = {"value": gain.value, "low": gain.low, "high": gain.high} if gain else None
    missing = [budget for budget, gain in gains.items() if gain is None]
    return None if len(missing) == len(gains) else gains, missing


def _beside(averages: Averages, larger: PerPrompt, draws: Floats) -> tuple[dict[str, Any], dict[str, str]]:
    """Compare the policy with the larger model alone; also the reasons for what can't be compared.

    Figures are the policy's accuracy where it really spends what the larger model does and 1.5 times that, the cost at
    which it is as accurate, and RouteLLM's (arXiv 2406.18665, section 4). APGR is the recovered share of the accuracy
    gap between the policy at its cheapest and the larger model, averaged over the costs between; what was recovered at
    a lower cost counts as recovered. CPT is the share of that cost range at which 50% and 80% of the gap are recovered.
    """
    cost = float(larger.generations.mean())
    found: dict[str, Any] = dict.fromkeys(_OF_LARGER)
    reasons: dict[str, str] = {}
    for name, at in (("accuracy_at_larger_cost", cost), ("accuracy_at_1.5_larger_cost", 1.5 * cost)):
        runs = averages.at(at)
        value = estimate(runs.accuracy, draws) if runs else None
        found[name] = {"value": value.value, "low": value.low, "high": value.high} if value else None
        if value is None:
            reasons[name] = f"the policy can't spend as little as {at:.1f} generations on average"
    grid = np.linspace(averages.least_spent, cost, _GRID).tolist() if averages.least_spent <= cost else []
    curve = [runs for runs in map(averages.at, grid) if runs is not None]
    if len(curve) < 2:
        unmeasured = dict.fromkeys(("cost_of_larger_accuracy", "apgr", "cpt"), "the larger model is the cheapest arm")
        return found, reasons | unmeasured
    spent = np.array([runs.generations.mean() for runs in curve])
    accuracy = np.maximum.accumulate([runs.accuracy.mean() for runs in curve])
    weak, strong = float(curve[0].accuracy.mean()), float(larger.accuracy.mean())
    matched = spend_to_match(spent.tolist(), accuracy.tolist(), strong)
    if matched is None:
        reasons["cost_of_larger_accuracy"] = (
            f"up to the larger model's generations the policy reaches {accuracy[-1]:.3f}, less than its {strong:.3f}"
        )
    else:
        found["cost_of_larger_accuracy"] = round(matched / cost, 3)
    if strong <= weak or spent[-1] <= spent[0]:
        gap = "the larger model is no more accurate than the policy at its cheapest: there is no gap to recover"
        return found, reasons | dict.fromkeys(("apgr", "cpt"), gap)
    recovered = (accuracy - weak) / (strong - weak)
    shares = (spent - spent[0]) / (cost - spent[0])
    found["apgr"] = round(float(np.trapezoid(recovered, shares) / (shares[-1] - shares[0])), 3)
    costs = {goal: spend_to_match(shares.tolist(), recovered.tolist(), goal) for goal in _SHARES}
    found["cpt"] = {f"{goal:.0%}": None if at is None else round(at, 3) for goal, at in costs.items()}
    return found, reasons
