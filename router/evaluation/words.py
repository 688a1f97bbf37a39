"""Writes a report's names and numbers as words for its readers."""

from collections.abc import Iterable

from markupsafe import Markup, escape

from router.evaluation.parts import NO_LARGER, Estimate, Point
from router.evaluation.report import Diagnosis, GapRecovered, Goal, MethodResult, Report, Times
from router.policy.words import OBJECTIVES, minus

CURVES = {
    "predicted": "policy, fixed budget",
    "predicted_average": "policy, average budget",
    "oracle": "policy on measured levels, fixed budget",
    "oracle_average": "policy on measured levels, average budget",
    "best_fixed": "best fixed arm or cascade",
}
WAYS = {
    "best_fixed_arm": "best fixed arm",
    "best_fixed_cascade": "best fixed cascade",
    "random_mix": "random mix of two arms",
    "shuffled_levels": "policy, levels shuffled",
    "larger_alone": "larger model alone",
    "level_only": "levels only, no cascades",
    "confidence_only": "confidence only, no levels",
    "arm_of_each_task": "one arm or cascade for each task, no levels",
    "nearest_neighbours": "best at similar prompts",
}
SHARES = {
    "share_of_large_cost": "one solution of the larger model",
    "share_of_best_of_n_cost": "the larger model's own best vote or choice",
}
MEASURES = {
    "savings_fixed_budget": "times fewer generations than weighted best-of-N, fixed budget",
    "savings_average_budget": "times fewer generations than weighted best-of-N, average budget",
    "gap_recovered": "gain on predicted levels ÷ gain on measured levels",
    "budgets_below_best_fixed": "fixed budgets at which the policy is clearly below the best fixed arm or cascade",
    "below_best_fixed": "average budgets and FLOPs at which the policy is clearly below the best fixed arm or cascade",
    "confidence_error": "calibration error of the confidences, beyond what perfect ones show by chance",
    "confidence_bins_off": "tenths of the confidence, of 100 or more answers, where it is clearly off the share right",
    "gain_over_best_fixed": "accuracy above the best fixed arm",
    "gain_over_best_fixed_cascade": "accuracy above the best fixed cascade",
    "gain_over_random_mix": "accuracy above the best random mix of two arms",
    "gain_over_shuffled_levels": "accuracy above the policy with shuffled levels",
    "accuracy_at_larger_cost": "accuracy at the larger model's cost, in generations",
    "accuracy_at_1.5_larger_cost": "accuracy at 1.5 times the larger model's cost, in generations",
    "cost_of_larger_accuracy": "cost of the larger model's accuracy, in generations, the larger model's = 1",
    "gain_at_large_cost": "accuracy above the larger model's at equal FLOPs",
    "share_of_large_cost": "cost of the larger model's accuracy, in FLOPs, the larger model's = 1",
    "share_of_best_of_n_cost": "cost of the accuracy of the larger model's own best vote or choice, in FLOPs, that = 1",
}
FIGURES = {
    "savings_against_best_fixed": "times fewer generations than the best fixed arm at its best",
    "savings_against_best_fixed_cascade": "times fewer generations than the best fixed cascade at its best",
    **{name: text for name, text in MEASURES.items() if "larger" in name},
    "apgr": "APGR: recovered share of the larger model's gain on the policy at its cheapest, mean over costs between",
    "cpt": "CPT: share of the costs between theirs at which so much of that gain is recovered",
}
PARTS = {
    "generator": "no sample is right",
    "verifier": "a sample is right, and another one is chosen",
    "estimator": "the level is predicted wrongly",
    "policy": "the level is known, and another arm would have been better",
}
STATISTICS = {
    "pass_rate": "pass rate: the share of a prompt's sampled solutions that are right",
    "mean_score": "mean score: the mean of the verifier's final scores of a prompt's sampled solutions",
}
QUALITIES = {
    "log_loss": "log-loss",
    "ece": "calibration error",
    "kappa": "kappa",
    "spearman": "rank correlation",
    "accuracy": "right level",
}


_Measured = Point | Estimate | MethodResult


def interval(found: _Measured | None) -> str:
    """Write a value with its interval: ``0.650 [0.537, 0.750]``."""
    return "not measured" if found is None else f"{value(found)} {bounds(found)}"


def value(found: _Measured) -> str:
    """Write a value: ``0.650``."""
    return minus(f"{found.value if isinstance(found, Estimate) else found.accuracy:.3f}")


def bounds(found: _Measured) -> str:
    """Write an interval: ``[0.537, 0.750]``."""
    return minus(f"[{found.low:.3f}, {found.high:.3f}]")


def difference(found: Estimate | None) -> str:
    """Write a difference with its interval: ``+0.012 [−0.010, 0.031]``."""
    return "not measured" if found is None else f"{signed(found)} {bounds(found)}"


def signed(found: Estimate) -> str:
    """Write a difference: ``+0.012``. 0 gets no sign."""
    text = minus(f"{found.value:+.3f}")
    return "0.000" if text[1:] == "0.000" else text


def times(found: Times | None) -> str:
    """Write ``4.20 [2.10, 6.00]``, to be followed by "times fewer"; or why there is no such number."""
    if found is None:
        return "not measured"
    if not found.times:
        return "not reached: 0"
    return f"{found.times:.2f} [{found.low:.2f}, {found.high:.2f}]"


def gap(found: GapRecovered) -> str:
    """Write the recovered share of the gap: ``0.95 [0.80, 1.10]``; or why there is none."""
    if found.value is None:
        return f"none: {found.reason}"
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def figures(report: Report) -> list[tuple[str, str]]:
    """Return :data:`FIGURES` as pairs of words and value, or the reason why there is none.

    Those that compare with a larger model are left out where there is none.
    """
    reasons = report.headline.get("reasons", {})
    found = []
    for name, text in FIGURES.items():
        figure = report.headline.get(name)
        if isinstance(figure, float):
            found.append((text, f"{figure:.3f}"))
        elif figure and "value" in figure:
            found.append((text, interval(Estimate(**figure))))
        elif not figure and reasons.get(name, NO_LARGER) != NO_LARGER:
            found.append((text, f"none: {reasons[name]}"))
        elif figure:
            shares = (f"{share}: {'not reached' if cost is None else f'{cost:.2f}'}" for share, cost in figure.items())
            found.append((text, ", ".join(shares)))
    return found


def goal(found: Goal) -> str:
    """Write what a goal is about: ``accuracy above the best fixed arm, average budget 8``."""
    text = MEASURES[found.measure]
    if not found.measure.startswith("gain_over"):
        return text
    return f"{text}, " + (f"average budget {found.budget}" if found.budget else "mean over average budgets")


def arm(text: str) -> Markup:
    """Write an arm as HTML that breaks lines only at its parentheses and underscores."""
    return Markup(escape(text).replace("(", Markup("(<wbr>")).replace("_", Markup("_<wbr>")))


def objective(kind: str, value: float) -> str:
    """Write an objective: ``target accuracy 0.9``."""
    return f"{OBJECTIVES.get(kind, kind)} {value:g}"


def curve(name: str) -> str:
    return CURVES.get(name, name)


def edges(found: Iterable[float]) -> str:
    """Write the edges of levels: ``0.742, 0.32, 0.133, 0.0391``."""
    return ", ".join(f"{edge:.3g}" for edge in found)


def two_digits(found: Iterable[float]) -> str:
    """Write numbers with two digits: ``0.65 0.76``."""
    return " ".join(f"{each:.2f}" for each in found)


def arms_of(report: Report) -> list[str]:
    """Return every arm of the report, once."""
    return list(dict.fromkeys(row.arm for row in report.per_level))


def in_short(report: Report) -> list[str]:
    """Return the main results of the report, a sentence each."""
    doubts = [f"{text[0].upper()}{text[1:]}." for text in report.warnings]
    return [
        *doubts,
        *_against_best_fixed(report),
        *_by_task(report),
        *_plans(report),
        *_saved(report),
        limits(report.diagnosis),
        _levels(report),
    ]


def _against_best_fixed(report: Report) -> list[str]:
    lines = []
    for kind in ("fixed", "average"):
        field = "predicted_minus_best_fixed" if kind == "fixed" else "predicted_average_minus_best_fixed"
        found = [getattr(row, field) for row in report.budgets]
        found = [each for each in found if each]
        more, less = sum(each.low > 0 for each in found), sum(each.high < 0 for each in found)
        article = "a" if kind == "fixed" else "an"
        lines.append(
            f"Under {article} {kind} budget the policy is clearly more accurate than the best fixed arm or cascade at "
            f"{more} of {len(found)} budgets, clearly less accurate at {less}. At {len(found) - more - less} there is "
            "no clear difference."
        )
    return lines


def _by_task(report: Report) -> list[str]:
    """Say whether tasks have tables of their own, and what these are worth."""
    found = report.by_task
    if found is None:
        return []
    tasks = ", ".join(found.prompts)
    has = f"The policy has a table for each task ({tasks})" if found.served else f"One table serves all tasks ({tasks})"
    return [
        f"{has}. By cross-validation on the training prompts, a table for each changes accuracy by "
        f"{difference(found.at_equal_flops)} at equal FLOPs and by {difference(found.within_budgets)} within fixed "
        "budgets."
    ]


def _plans(report: Report) -> list[str]:
    """Say what cascades, confidence and levels are worth at average budgets. Losses are reported like gains."""
    lines = _beside_larger(report)
    for row in report.averages:
        gains = "; ".join(f"{difference(gain)} over the {WAYS[name]}" for name, gain in row.gains.items())
        lines.append(
            f"At an average budget of {row.budget:g} the policy is right on {value(row.policy)} for "
            f"{row.policy.generations:.1f} generations{': ' * bool(gains)}{gains}."
        )
    if report.trust:
        lines.append(
            f"The calibration error of its answers' confidences is {report.trust.error:.3f}, where perfect ones would "
            f"show {report.trust.chance:.3f} by chance."
        )
    return lines


def _beside_larger(report: Report) -> list[str]:
    lines = []
    gain = report.headline.get("gain_at_large_cost")
    if gain:
        found = Estimate(gain["value"], gain["low"], gain["high"])
        lines.append(
            f"At the FLOPs of one solution of the larger model the policy is more accurate by {difference(found)}; a "
            f"perfect choice among all attempts would be by {gain['ceiling']:+.3f}."
        )
    for name, whose in SHARES.items():
        share = report.headline.get(name)
        if not share:
            continue
        reached = f"{share['value']:.2f} of its FLOPs" if share["value"] is not None else "no FLOPs that were measured"
        high = "never" if share["high"] is None else f"{share['high']:.2f}"
        low = "never" if share["low"] is None else f"{share['low']:.2f}"
        ceiling = "" if share["ceiling"] is None else f"; a perfect choice takes {share['ceiling']:.2f}"
        lines.append(
            f"The policy is as accurate as {whose} ({share['of']}, {share['accuracy']:.3f}) at {reached} [{low}, "
            f"{high}]{ceiling}."
        )
    return lines


def _saved(report: Report) -> list[str]:
    found = {policy: by_reference["weighted_best_of_n"] for policy, by_reference in report.savings.items()}
    target = found["predicted"].target
    if target is None:
        return []
    if found["predicted"].generations is None:
        arm, reason = found["predicted"].arm, found["predicted"].reason
        return [f"What the policy saves against {arm} can't be told: {reason}."]
    policies = ("predicted", "predicted_average", "best_fixed")
    fixed, average, best = (times(found[policy].generations) for policy in policies)
    return [
        "Weighted best-of-N is a vote on N solutions in which the verifier's scores count. At its best its accuracy is "
        f"{target.accuracy:.3f}, with {target.generations:g} solutions a prompt. For that accuracy the policy needs "
        f"{fixed} times fewer under a fixed budget and {average} times fewer under an average budget. The best fixed "
        f"arm or cascade needs {best} times fewer; what it saves as well is not due to the prediction of levels."
    ]


def limits(diagnosis: Diagnosis) -> str:
    """Say which part loses most."""
    lost = getattr(diagnosis, diagnosis.limit)
    text = f"Most accuracy is lost at the {diagnosis.limit}: {interval(lost)} at a budget of {diagnosis.budget}"
    if diagnosis.runner_up is None or diagnosis.margin is None:
        return text + "."
    clear = "clearly more" if diagnosis.margin.low > 0 else "but not clearly more"
    second = getattr(diagnosis, diagnosis.runner_up)
    return f"{text}, {clear} than at the {diagnosis.runner_up}: {interval(second)}."


def _levels(report: Report) -> str:
    return (
        f"The difficulty model finds the measured one of the five levels for {report.difficulty.accuracy:.0%} of the "
        "held-out prompts."
    )
