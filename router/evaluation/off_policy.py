"""Estimates what a policy that never served would have been worth, from the logged decisions of one that did.

The new policy's arms must have been explored: the log tells nothing about an arm that was not. The estimators are in
:mod:`router.evaluation.estimators`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.attempts.served import sift
from router.errors import InvalidFile, InvalidRequest
from router.evaluation.estimators import Logged, Values, effective_size, estimators, importance, intervals, predict
from router.outcomes import tables as database
from router.policy.objectives import AverageBudget, objective_of
from router.policy.table import Policy
from router.prompt import Prompt
from strategies import InvalidArm, parse

FEWEST = 30  # smallest effective sample size, in decisions, at which an estimate's interval can be trusted
SPENT = ("flops", "generated_tokens", "seconds")
STOPPED = ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # statuses of calls that their own limits ended without an answer
_WANTED = (
    *("at", "method", "bundle", "prompt", "messages", "prompt_sha256", "probabilities", "arm", "propensity", "code"),
    *("levels_by", "task"),
    *("objective", "objective_value", "objective_given", "choice", "explore", *SPENT, "correct", "score"),
)
Predict = Callable[[Sequence[Prompt]], NDArray[np.float64]]  # prompts → (n, 5) level probabilities


def estimate(
    url: str,
    policy: Policy,
    *,
    levels_by: str | None = None,
    predict_levels: Predict | None = None,
    outcome: str = "correct",
    unsupported: float = 0.05,
    seed: int = 0,
) -> dict[str, Any]:
    """Return all that the log tells about the policy, ready for JSON.

    levels_by       digest of the policy's difficulty model; None: that of the latest decision is assumed
    predict_levels  predicts levels for decisions made on another model's levels; None: these are left out
    outcome         "correct" or "score". A call that its own deadline or cap ended without an answer counts as 0
    unsupported     the largest share of decisions that may go to arms without support

    decisions    number of decisions in the log
    left_out     reason → how many of them were not used
    used         how many were used
    refused      share of the decisions whose objective the policy would refuse
    unsupported  share: how many of the others would go to an arm that the serving policy could not take or never took;
                 arms: which. All that follows is about the rest
    changed      share for which the new policy takes another arm than the serving policy's choice
    effective    effective sample size of the new policy's estimates, in decisions
    outcome      mean outcomes. logged: as it happened, exploring included; before: the serving policy without
                 exploring; dr, snips, ips, direct: the new policy; gain: new less before, by dr. Each has value, low
                 and high, a 95% interval
    cost         the same for flops, generated_tokens and seconds of a call: logged, before, dr, gain
    warnings     reasons to doubt the estimates

    Outcomes are assumed to be missing by chance, so calls with an outcome stand for those without.

    Raises InvalidRequest where the database can't be read, holds no explored decisions, or lacks support.
    """
    frame = pd.DataFrame(database.read(url, _WANTED), columns=list(_WANTED))
    known, left_out = sift(frame, _unusable(frame, outcome, by_task=bool(policy.tasks)))
    known, more = sift(known, _foreign(known, levels_by, predict_levels is not None))
    left_out |= more
    known, more = sift(known.assign(weight=_weights(known, outcome)), _unknown(known, outcome))
    left_out |= more
    if known[outcome].isna().all():
        raise InvalidRequest("outcomes", _nothing(len(frame), left_out, frame, outcome), reason="UNSPECIFIED")
    known = known.reset_index(drop=True)
    model = levels_by or known["levels_by"].iloc[-1]
    probabilities = _levels(known, model, predict_levels)
    target, refusals = _decided(policy, known, probabilities)
    refused = target == ""
    supported = _supported(known, target, policy.worth) | refused
    lacking = known.assign(target=target)[~supported]
    share = len(lacking) / max(1, int((~refused).sum()))
    report: dict[str, Any] = {
        "decisions": len(frame),
        "left_out": left_out,
        "bundles": sorted(known["bundle"].unique()),
        "first": str(known["at"].min()),
        "last": str(known["at"].max()),
        "refused": float(refused.mean()),
        "unsupported": {"share": share, "arms": lacking["target"].value_counts(normalize=True).mul(share).to_dict()},
    }
    use = np.flatnonzero(supported & ~refused)
    if share > unsupported or not len(use):
        raise InvalidRequest("policy", _refusal(report, refusals), reason="UNSPECIFIED")
    report |= _measured(known.iloc[use], probabilities[use], target[use], outcome, seed)
    report["warnings"] = _warnings(report, refusals)
    return report


def _unusable(frame: pd.DataFrame, outcome: str, *, by_task: bool) -> dict[str, pd.Series]:
    failed = ~frame["code"].isin(("OK", *STOPPED))
    return {
        "only routed, nothing was run": frame["method"] == "Route",
        "with an arm that the caller pinned, or its conversation kept": frame["propensity"].isna(),
        "of an earlier version, which did not record what was asked": frame["objective"].isna()
        | (frame["task"].isna() & by_task),
        "made without exploring": frame["explore"].fillna(0) == 0,
        "failed for no reason of the arm's": failed & frame[outcome].isna(),
    }


def _unknown(frame: pd.DataFrame, outcome: str) -> dict[str, pd.Series]:
    return {f"without an outcome ({outcome})": frame[outcome].isna() & ~frame["code"].isin(STOPPED)}


def _weights(frame: pd.DataFrame, outcome: str) -> pd.Series:
    """Weigh decisions: answered calls with an outcome stand for those without; stopped calls stand for themselves."""
    answered = ~frame["code"].isin(STOPPED)
    told = frame.loc[answered, outcome].notna().mean() if answered.any() else 1.0
    return answered.map({True: 1 / told if told else 1.0, False: 1.0})


def _foreign(frame: pd.DataFrame, levels_by: str | None, predicted: bool) -> dict[str, pd.Series]:
    if frame.empty:
        return {}
    other = frame["levels_by"] != (levels_by or frame["levels_by"].iloc[-1])
    if not predicted:
        return {"on another difficulty model's levels": other}
    return {
        "on another difficulty model's levels, without the prompt to predict them again": other & frame["prompt"].isna()
    }


def _nothing(decisions: int, left_out: Mapping[str, int], frame: pd.DataFrame, outcome: str) -> str:
    told = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
    advice = "serve with --explore and --outcomes, and call RecordOutcome"
    other = "score" if outcome == "correct" else "correct"
    if frame[outcome].isna().all() and frame[other].notna().any():
        advice = f"outcomes were recorded as {other}: use --reward {other}"
    return f"of the log's {decisions} decisions none can be used ({told or 'it is empty'}); {advice}"


def _levels(known: pd.DataFrame, model: str, predict_levels: Predict | None) -> Values:
    """Return the (n, 5) level probabilities by the policy's difficulty model."""
    probabilities = np.array(known["probabilities"].tolist(), dtype=float)
    other = np.flatnonzero(known["levels_by"] != model)
    if len(other):
        assert predict_levels
        asked = known.iloc[other]
        prompts = [
            Prompt.read(messages if isinstance(messages, list) else text)
            for text, messages in zip(asked["prompt"], asked["messages"], strict=True)
        ]
        probabilities[other] = predict_levels(prompts)
    return probabilities


def _decided(policy: Policy, known: pd.DataFrame, probabilities: Values) -> tuple[NDArray[np.object_], dict[str, int]]:
    """Return (n,) the arms that the policy would take, "" where it refuses the objective, and refusal → how many."""
    target = np.full(len(known), "", dtype=object)
    refusals: dict[str, int] = {}
    given = known["objective_given"].astype(bool)
    kinds = known["objective"].where(given, policy.default.kind)
    values = known["objective_value"].where(given, policy.default.value)
    digests = known["prompt_sha256"].tolist()
    tables = [policy.for_task(task) for task in known["task"]]
    for (kind, value), rows in known.groupby([kinds, values]).indices.items():
        try:
            objective = objective_of(kind, float(value))
            for row in rows:
                drawn = objective
                if isinstance(objective, AverageBudget):
                    drawn = objective.drawn_by(digests[row])
                target[row] = str(drawn.runs(tables[row].decide(probabilities[row].tolist(), drawn).arm))
        except InvalidRequest as error:
            refusals[str(error)] = len(rows)
    return target, refusals


def _supported(known: pd.DataFrame, target: NDArray[np.object_], worth: Mapping[str, float]) -> NDArray[np.bool_]:
    """Return (n,) whether the serving policy could have taken the target arm.

    It could where the arm was its choice, or one that its bundle is seen to explore, within the budget asked for.
    """
    offered = {bundle: set(arms) for bundle, arms in known.groupby("bundle")["arm"]}
    limits = known["objective_value"].where(known["objective"] == "budget", np.inf)
    budgets = {arm: _budget(arm, worth) for arm in set(target) - {""}}
    return np.array(
        [
            arm == choice or (arm in offered[bundle] and budgets[arm] <= limit)
            for arm, choice, bundle, limit in zip(target, known["choice"], known["bundle"], limits, strict=True)
        ]
    )


def _budget(arm: str, worth: Mapping[str, float]) -> float:
    try:
        return parse(arm).budget(worth)
    except InvalidArm as error:
        raise InvalidFile(f"the outcome log has an arm that this version does not know: {error}") from error


def _refusal(report: Mapping[str, Any], refusals: Mapping[str, int]) -> str:
    if report["refused"] == 1:
        return f"the policy would refuse every call in the log: {next(iter(refusals))}"
    lacking = report["unsupported"]
    return (
        f"{lacking['share']:.1%} of the decisions would go to arms that were never explored for them "
        f"({_shares(lacking['arms'])}): the log can't value this policy. Serve with these arms in the bundle and "
        "--explore; or, where others are left, value it on those by a larger --unsupported"
    )


def _shares(arms: Mapping[str, float]) -> str:
    return ", ".join(f"{arm} {share:.1%}" for arm, share in arms.items())


def _measured(
    known: pd.DataFrame, probabilities: Values, target: NDArray[np.object_], outcome: str, seed: int
) -> dict[str, Any]:
    names = {arm: i for i, arm in enumerate(sorted({*known["arm"], *known["choice"], *target}))}
    taken, before, new = (
        np.array([names[arm] for arm in arms], dtype=np.int64) for arms in (known["arm"], known["choice"], target)
    )
    log = Logged(
        probabilities,
        taken,
        known["propensity"].to_numpy(dtype=float),
        pd.factorize(known["prompt_sha256"])[0],
        known["weight"].to_numpy(dtype=float),
    )
    if log.prompt.max() == 0:
        raise InvalidRequest(
            "outcomes", "all usable decisions are at one prompt: that can't value a policy", reason="UNSPECIFIED"
        )
    counts = log.weight * importance(log, new)
    happened = np.column_stack([known[outcome].astype(float).fillna(0.0), *(known[name] for name in SPENT)])
    expected = predict(log, happened, [new, before, taken], seed=seed)
    ratios: dict[tuple[str, str], tuple[Values, Values]] = {}
    for name, values, of_new, of_before, of_taken in zip(
        (outcome, *SPENT), happened.T, *(e.T for e in expected), strict=True
    ):
        estimates = estimators(log, values, new, of_new, of_taken)
        old = estimators(log, values, before, of_before, of_taken)["dr"]
        if name != outcome:
            estimates = {"dr": estimates["dr"]}
        estimates |= {
            "logged": (log.weight * values, log.weight),
            "before": old,
            "gain": (estimates["dr"][0] - old[0], log.weight),
        }
        ratios |= {(name, each): ratio for each, ratio in estimates.items()}
    tables: dict[str, dict[str, Any]] = {name: {} for name in (outcome, *SPENT)}
    for (name, each), found in intervals(ratios, log.prompt, seed=seed).items():
        tables[name][each] = found
    return {
        "used": len(known),
        "prompts": int(log.prompt.max()) + 1,
        "changed": float(np.average(before != new, weights=log.weight)),
        "effective": effective_size(counts),
        "balance": intervals({"w": (counts, log.weight)}, log.prompt, confidence=0.99, seed=seed)["w"],
        "outcome": {"of": outcome, **tables.pop(outcome)},
        "cost": tables,
    }


def _warnings(report: Mapping[str, Any], refusals: Mapping[str, int]) -> list[str]:
    found = [f"{count} calls would be refused by the new policy: {refusal}" for refusal, count in refusals.items()]
    lacking, balance = report["unsupported"], report["balance"]
    if lacking["share"]:
        found.append(
            f"{lacking['share']:.1%} of the decisions would go to arms that were never explored for them "
            f"({_shares(lacking['arms'])}); all values are about the others"
        )
    if report["effective"] < FEWEST:
        found.append(
            f"the effective sample size is {report['effective']:.0f} decisions, too few for these intervals; explore "
            "more, or longer"
        )
    elif not balance["low"] <= 1 <= balance["high"]:
        found.append(
            f"the weights' mean is {balance['value']:.2f} [{balance['low']:.2f}, {balance['high']:.2f}] and should be "
            "1: outcomes are recorded more often for some arms than for others, or probabilities are wrong"
        )
    if len(report["bundles"]) > 1:
        found.append("several bundles decided; `before` stands for the bundle that made each decision")
    return found
