"""Which goals were met, and which of estimator, policy, verifier and generator limits those that were not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.evaluation.curves import REFERENCES, Curve, Runs, savings
from router.tuning.evidence import interval

# What is wanted of the headline's number, and of the lower end of its interval.
GOALS = {"savings_fixed_budget": (4.0, 2.0), "savings_average_budget": (8.0, None), "gain_kept": (0.9, None)}


def limits(
    *,
    headlines: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    oracle_selector: Runs,
    fixed: Mapping[str, Curve],
    policies: Mapping[str, Curve],
    hindsight: Curve,
    draws: NDArray[np.float64],
) -> dict[str, Any]:
    """Goals, gaps and readings. A goal that oracle levels would meet is missed by the estimator; one that the best arms
    in hindsight would meet, by the policy's choices; beyond that it is the verifier's or the generator's."""
    majority = max_of(fixed.get("majority", {}))
    by_scores = [runs for name in ("weighted_best_of_n", "best_of_n") if (runs := max_of(fixed.get(name, {})))]
    selected = max(by_scores, key=lambda runs: float(runs.accuracy.mean()), default=None)
    predicted, oracle, best_fixed = (max_of(policies[name]) for name in ("predicted", "oracle", "best_fixed"))
    gaps: dict[str, Any] = {
        "generator": interval(1 - oracle_selector.accuracy, draws),
        "never_sampled": round(float((oracle_selector.accuracy == 0).mean()), 4),
    }
    pairs: dict[str, tuple[Runs | None, Runs | None]] = {
        "verifier": (oracle_selector, selected),
        "estimator": (oracle, predicted),
        "policy": (max_of(hindsight), oracle),
        "levels": (oracle, best_fixed),
    }
    gaps |= {name: interval(a.accuracy - b.accuracy, draws) for name, (a, b) in pairs.items() if a and b}
    if selected and majority:
        room = float((oracle_selector.accuracy - majority.accuracy).mean())
        gain = float((selected.accuracy - majority.accuracy).mean())
        gaps["verifier_closes"] = round(gain / room, 4) if room > 0 else None
    below = [row["budget"] for row in rows if (row["predicted_minus_best_fixed"] or {"high": 0})["high"] < 0]
    values = {name: _value(headlines[name]) for name in GOALS}
    goals: list[dict[str, Any]] = [
        {"goal": name, "wanted": wanted, "above": above, **values[name]} for name, (wanted, above) in GOALS.items()
    ]
    goals = [goal | {"met": _enough(goal, goal)} for goal in goals]
    goals.append({"goal": "never_below_best_fixed", "wanted": 0, "value": len(below), "met": not below})
    readings = []
    for goal in goals:
        if goal["met"]:
            continue
        if goal["goal"].startswith("savings"):
            known = "oracle_average" if goal["goal"] == "savings_average_budget" else "oracle"
            tried = {"estimator": policies[known], "policy": hindsight}
            reached = {name: _value(savings(points, fixed, draws)) for name, points in tried.items()}
            limit = next((name for name, value in reached.items() if _enough(goal, value)), None)
            if limit is None:
                found = gaps.get("verifier", {"accuracy": 0})["accuracy"]
                limit = "verifier" if found > gaps["generator"]["accuracy"] else "generator"
            why = (
                f"with oracle levels it would be {_shown(reached['estimator'])}, with the best arm of each of them in "
                f"hindsight {_shown(reached['policy'])}; a perfect selector among all samples is right on "
                f"{oracle_selector.accuracy.mean():.3f}"
                + (f", the verifier's choice among them on {selected.accuracy.mean():.3f}" if selected else "")
            )
        elif goal["goal"] == "gain_kept":
            limit = "policy" if goal["value"] is None else "estimator"
            why = headlines["gain_kept"][REFERENCES[0]].get(
                "reason"
            ) or "oracle levels gain {oracle[accuracy]:.3f}, predicted ones {predicted[accuracy]:.3f}".format(
                **headlines["gain_kept"][REFERENCES[0]]
            )
        else:
            limit, why = "policy", f"significantly below at budgets {', '.join(map(str, below))}"
        readings.append({"goal": goal["goal"], "limit": limit, "because": why})
    return {"goals": goals, "gaps_at_largest_budget": gaps, "missed": readings}


def max_of(points: Curve) -> Runs | None:
    """The curve's point at its largest budget."""
    return points[max(points)] if points else None


def _enough(goal: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    if found["value"] is None or found["value"] < goal["wanted"]:
        return False
    return bool(goal["above"] is None or found["low"] >= goal["above"])


def _shown(found: Mapping[str, Any]) -> str:
    return (
        "not measured" if found["value"] is None else f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    )


def _value(headline: Mapping[str, Any]) -> dict[str, Any]:
    """A headline's number with its interval: times fewer generations, or the gain kept against weighted best-of-N."""
    if REFERENCES[0] in headline:
        kept = headline[REFERENCES[0]]
        return {"value": kept["value"], "low": kept.get("low"), "high": kept.get("high")}
    found = headline.get("generations")
    if not found:
        return {"value": None, "low": None, "high": None}
    return {"value": found["times"], "low": found["low"], "high": found["high"]}
