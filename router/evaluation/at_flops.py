"""The policy by a price of a FLOP on held-out prompts, beside plainer ways to choose at the same FLOPs.

Generations count a prompt's solutions in units of its own: a short one of code weighs as much as a long one of
mathematics. Over prompts of several kinds, and beside a larger model, what is spent is FLOPs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from difficulty.compare import measure as measure_difficulty
from router.evaluation.arms import chosen, fixed, shuffled_choices
from router.evaluation.averages import larger_alone
from router.evaluation.curves import PerPrompt, between, estimate, mixed, spend_to_match
from router.evaluation.held_out import pass_rates
from router.evaluation.neighbours import BY_SIMILAR, Neighbours
from router.evaluation.parts import NO_LARGER, AtFlops, OfTask, Way
from router.evaluation.perfect import Perfect
from router.policy.objectives import PricePerFlop
from router.policy.table import LEVELS, Policy
from router.tuning.between import ROOM
from router.tuning.evidence import Measured, resamples
from router.tuning.nested import mix
from strategies import Cascade, Majority, Sampling, Strategy

BESIDE_LARGER = (0.33, 0.5, 0.65, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0)  # of one solution of the larger model
ALONE = (1, 2, 4, 8, 16, 32)  # of one sample of the reference model, where there is no larger one
_PRICES = 80
Floats = NDArray[np.float64]


class Priced:
    """The policy's choices at P prompts under many prices of a FLOP, by rising mean FLOPs.

    extra  (P,) FLOPs that predicting the levels takes; 0 where nothing is predicted
    """

    def __init__(self, measured: Measured, policy: Policy, probabilities: Floats, extra: Floats | float):
        self._measured, self._extra = measured, extra
        columns = {arm: k for k, arm in enumerate(measured.arms)}
        self._columns = np.array([columns[arm] for arm in policy.arms])
        self._policy, self._probabilities = policy, probabilities
        cheapest = min(cell.cost.flops for cell in policy.cells)
        found: dict[bytes, tuple[float, NDArray[np.int64]]] = {}
        for price in np.geomspace(10, 1e-5, _PRICES) / cheapest:
            picked = self._at(float(price))
            found[picked.tobytes()] = float(measured.flops[np.arange(len(picked)), picked].mean()), picked
        self._picked = [picked for _, picked in sorted(found.values(), key=lambda each: each[0])]
        self.points = [chosen(measured, picked, extra) for picked in self._picked]
        self.spent = np.array([runs.flops.mean() for runs in self.points])

    def _at(self, price: float) -> NDArray[np.int64]:
        found = self._policy.decide_many(self._probabilities, PricePerFlop(price), self._measured.tasks)
        picked: NDArray[np.int64] = self._columns[found]
        return picked

    def at_price(self, price: float) -> PerPrompt:
        """Its choices where a FLOP costs so much."""
        return chosen(self._measured, self._at(price), self._extra)

    @property
    def least(self) -> float:
        return float(self.spent[0])

    def at(self, flops: float) -> PerPrompt:
        """A random mix of the two nearest prices at these mean FLOPs; beyond its ends the nearer end."""
        return between(self.points, self.spent, flops)

    def shuffled(self, flops: float, rng: np.random.Generator) -> PerPrompt:
        """Each prompt with the choice for another one of its table, mean of many shuffles, at these mean FLOPs."""
        how: dict[str, Any] = {"unit": "flops", "rng": rng, "extra_flops": self._extra}
        return shuffled_choices(self._measured, self._policy, self._picked, flops, **how)

    def cost_of(self, target: PerPrompt, draws: Floats) -> Floats:
        """(R,) mean FLOPs at which it is as accurate as ``target``, on each of (R, P) resamples; infinite: never."""
        accuracy = np.stack([draws @ runs.accuracy for runs in self.points], axis=1)
        spent = np.stack([draws @ runs.flops for runs in self.points], axis=1)
        goals = draws @ target.accuracy
        costs = [spend_to_match(x, y, goal) for x, y, goal in zip(spent, accuracy, goals, strict=True)]
        return np.array([np.inf if cost is None else cost for cost in costs])


def knowing_tasks_alone(measured: Measured, policy: Policy) -> Priced:
    """For each task one arm or cascade, chosen like the policy's, as if every prompt were its task's mean prompt."""
    shares = np.zeros((len(measured.prompts), len(LEVELS)))
    for rows, table in policy.tables(measured.tasks):
        of_levels = np.array([cell.prompts for cell in table.cells]).reshape(len(LEVELS), -1).sum(axis=1)
        shares[rows] = of_levels / of_levels.sum()
    tasks = {name: table.cells for name, table in policy.tasks.items()}
    means = Policy(policy.cells, policy.default, worth=policy.worth, tasks=tasks)  # by all levels, not the likeliest
    return Priced(measured, means, shares, 0.0)


@dataclass(frozen=True, slots=True)
class Plain:
    """Ways to choose one arm, or a mix of two, for all prompts alike: by what the policy's table measured of arms.

    accuracy, flops  (arms,) mean over the training prompts
    """

    arms: tuple[Strategy, ...]
    accuracy: Floats
    flops: Floats

    @classmethod
    def of(cls, policy: Policy) -> "Plain":
        numbers = [(cell.accuracy, cell.cost.flops, cell.prompts) for cell in policy.cells]
        accuracy, flops, prompts = np.array(numbers).reshape(len(LEVELS), len(policy.arms), 3).transpose(2, 0, 1)
        shares = prompts / prompts.sum(axis=0)
        accuracy, flops = (shares * accuracy).sum(axis=0), (shares * flops).sum(axis=0)
        return cls(policy.arms, accuracy, flops)

    def best(self, flops: float, *, cascades: bool) -> Strategy | None:
        """The most accurate one within these mean FLOPs; None where none is."""
        within = [
            k for k, arm in enumerate(self.arms) if isinstance(arm, Cascade) == cascades and self.flops[k] <= flops
        ]
        return self.arms[max(within, key=lambda k: self.accuracy[k])] if within else None

    def mix(self, flops: float, *, cascades: bool) -> tuple[Strategy, Strategy]:
        """The two that are most accurate together at these mean FLOPs."""
        some = [k for k, arm in enumerate(self.arms) if cascades or not isinstance(arm, Cascade)]
        low, high, _ = mix(self.accuracy[some], self.flops[some], flops)
        return self.arms[some[low]], self.arms[some[high]]


@dataclass(frozen=True, slots=True)
class InFlops:
    """What was measured against FLOPs.

    shares   by name: value, low, high, reached, ceiling, and the accuracy and FLOPs of what is matched; or a reason
    perfect  what a perfect choice among all attempts gives
    """

    rows: tuple[AtFlops, ...]
    tasks: tuple[OfTask, ...]
    shares: Mapping[str, Mapping[str, Any] | None]
    reasons: Mapping[str, str]
    perfect: Perfect


def in_flops(
    attempts: pd.DataFrame,
    measured: Measured,
    policy: Policy,
    probabilities: Floats,
    *,
    statistics: pd.Series,
    edges: Sequence[float],
    extra: Floats,
    similar: Neighbours | None,
    draws: Floats,
) -> InFlops:
    """Compare the policy with plainer ways to choose at equal mean FLOPs.

    probabilities  (P, 5) of the prompts' levels
    statistics     (P,) pass rate or mean score by prompt_id;  edges  the four edges between levels, in its units
    extra          (P,) FLOPs of predicting levels
    similar        the tuning prompts; None: they are not at hand
    draws          (R, P) bootstrap weights
    """
    here = policy.with_default(PricePerFlop(0.0)).only(lambda arm: arm in measured.arms)
    assert here is not None  # one sample is measured wherever anything is
    ways = _Ways.of(measured, here, probabilities, extra, similar)
    unit = _Unit.of(ways)
    perfect = Perfect(attempts, measured.prompts, measured.setup, ways.larger_model)
    rng = np.random.default_rng(0)
    shares = ALONE if ways.larger is None else BESIDE_LARGER
    rows = [_row(share, unit, ways, perfect=perfect, draws=draws, rng=rng) for share in shares]
    found, reasons = shares_of_larger(
        measured, ways.policy, ways.larger_runs, model=ways.larger_model, perfect=perfect, draws=draws
    )
    of_tasks = _by_task(
        measured,
        ways.policy.at(unit.flops),
        ways.plainer(unit.flops, unit.expected, rng),
        sampled=pass_rates(attempts, measured.prompts),
        probabilities=probabilities,
        statistics=statistics,
        edges=edges,
    )
    return InFlops(tuple(row for row in rows if row), of_tasks, found, reasons, perfect)


@dataclass(frozen=True, slots=True)
class _Ways:
    """The policy, and plainer ways to choose.

    policy      under many prices of a FLOP
    by_task     for each task one arm or cascade; None: tasks have no tables of their own
    level_only  the policy without cascades; None: it has no other arms
    plain       one arm, or a mix of two, for all prompts
    larger      column of one solution by the larger model; None: none was run
    similar     the best arms at similar tuning prompts; None: these are not at hand
    """

    measured: Measured
    policy: Priced
    by_task: Priced | None
    level_only: Priced | None
    plain: Plain
    larger: int | None
    similar: Neighbours | None

    @classmethod
    def of(
        cls, measured: Measured, policy: Policy, probabilities: Floats, extra: Floats, similar: Neighbours | None
    ) -> "_Ways":
        """``policy`` has measured arms only; for the arrays see :func:`in_flops`."""
        without_cascades = policy.only(lambda arm: not isinstance(arm, Cascade))
        return cls(
            measured=measured,
            policy=Priced(measured, policy, probabilities, extra),
            by_task=knowing_tasks_alone(measured, policy) if policy.tasks else None,
            level_only=Priced(measured, without_cascades, probabilities, extra) if without_cascades else None,
            plain=Plain.of(policy),
            larger=larger_alone(measured),
            similar=similar,
        )

    @property
    def larger_runs(self) -> PerPrompt | None:
        return None if self.larger is None else fixed(self.measured, self.larger)

    @property
    def larger_model(self) -> str | None:
        return None if self.larger is None else next(iter(self.measured.arms[self.larger].models))

    def plainer(self, flops: float, expected: float, rng: np.random.Generator) -> dict[str, tuple[str, PerPrompt]]:
        """Return what each plainer way takes and gives at these mean FLOPs, by the names of ``parts.AtFlops``.

        expected  the same FLOPs by the policy's table: plain ways are chosen by it
        """
        found: dict[str, tuple[str, PerPrompt]] = {}
        for name, cascades in (("best_fixed_arm", False), ("best_fixed_cascade", True)):
            arm = self.plain.best(expected, cascades=cascades)
            if arm is not None:
                found[name] = str(arm), self._run(arm)
        found["random_mix"] = self._mix(flops, expected, cascades=False)
        found["confidence_only"] = self._mix(flops, expected, cascades=True)
        if self.by_task:
            found["arm_of_each_task"] = "by its table, at one price of a FLOP", self.by_task.at(flops)
        if self.level_only:
            found["level_only"] = "the policy without cascades", self.level_only.at(flops)
        spent = float(self.policy.at(flops).flops.mean())  # less than allowed where no price spends as much
        found["shuffled_levels"] = "the policy's arms", self.policy.shuffled(spent, rng)
        if self.similar:
            found["nearest_neighbours"] = BY_SIMILAR, self.similar.at(expected, "flops")
        if self.larger is not None:
            found["larger_alone"] = str(self.measured.arms[self.larger]), fixed(self.measured, self.larger)
        return found

    def _mix(self, flops: float, expected: float, *, cascades: bool) -> tuple[str, PerPrompt]:
        first, second = self.plain.mix(expected, cascades=cascades)
        if first == second:
            return str(first), self._run(first)
        return f"{first} or {second}", mixed(self._run(first), self._run(second), flops, "flops")

    def _run(self, arm: Strategy) -> PerPrompt:
        return fixed(self.measured, self.measured.arms.index(arm))


@dataclass(frozen=True, slots=True)
class _Unit:
    """Mean FLOPs of one solution of the larger model; where there is none, of one sample of the reference model.

    flops  as measured;  expected  by the policy's table, else as measured
    """

    flops: float
    expected: float

    @classmethod
    def of(cls, ways: _Ways) -> "_Unit":
        measured, plain = ways.measured, ways.plain
        column = measured.arms.index(Majority(n=1)) if ways.larger is None else ways.larger
        flops = float(measured.flops[:, column].mean())
        arm = measured.arms[column]
        return cls(flops, float(plain.flops[plain.arms.index(arm)]) if arm in plain.arms else flops)


def _row(
    share: float, unit: _Unit, ways: _Ways, *, perfect: Perfect, draws: Floats, rng: np.random.Generator
) -> AtFlops | None:
    """Return the comparison at this share of the unit; None where the policy can't spend so little."""
    flops, policy = share * unit.flops, ways.policy
    if flops * ROOM < policy.least:
        return None
    found = ways.plainer(flops, share * unit.expected, rng)
    gains = {}
    for name, (_, runs) in found.items():
        spent = float(runs.flops.mean())
        if spent * ROOM >= policy.least:
            gains[name] = estimate(policy.at(spent).accuracy - runs.accuracy, draws)
    points = {name: Way(arm, runs.point(draws)) for name, (arm, runs) in found.items()}
    return AtFlops(share, policy.at(flops).point(draws), points, gains, perfect.at(flops))


def shares_of_larger(
    measured: Measured, priced: Priced, larger: PerPrompt | None, *, model: str | None, perfect: Perfect, draws: Floats
) -> tuple[dict[str, Any], dict[str, str]]:
    """``share_of_large_cost`` and ``share_of_best_of_n_cost``: what share of its cost gives its accuracy; and reasons.

    larger, model  one solution of the larger model at each prompt, and its name
    """
    targets: dict[str, tuple[str, PerPrompt]] = {}
    found: dict[str, Any] = {"share_of_large_cost": None, "share_of_best_of_n_cost": None}
    if larger is None:
        return found, dict.fromkeys(found, NO_LARGER)
    targets["share_of_large_cost"] = "one solution of the larger model", larger
    pooled = [k for k, arm in enumerate(measured.arms) if isinstance(arm, Sampling) and arm.models == {model}]
    reasons = {}
    if pooled:
        means = measured.accuracy.mean(axis=0).round(9)
        best = max(pooled, key=lambda k: (means[k], -measured.flops[:, k].mean()))
        targets["share_of_best_of_n_cost"] = str(measured.arms[best]), fixed(measured, best)
    else:
        reasons["share_of_best_of_n_cost"] = "the larger model has no pool of samples"
    everyone = np.full((1, draws.shape[1]), 1 / draws.shape[1])
    for name, (arm, target) in targets.items():
        at, cost = float(target.accuracy.mean()), float(target.flops.mean())
        spread = priced.cost_of(target, draws) / (draws @ target.flops)
        value = float(priced.cost_of(target, everyone)[0] / cost)
        ceiling = perfect.cost_of(at)
        low, high = np.quantile(spread, [0.025, 0.975], method="inverted_cdf")
        best_of_all = max(float(runs.accuracy.mean()) for runs in priced.points)
        if not np.isfinite(value):
            reasons[name] = f"the policy's highest accuracy {best_of_all:.4f} stays below {at:.4f}"
        numbers = {"value": value, "low": low, "high": high}
        found[name] = {
            **{key: round(float(each), 4) if np.isfinite(each) else None for key, each in numbers.items()},
            "reached": round(float(np.isfinite(spread).mean()), 3),
            "of": arm,
            "accuracy": round(at, 4),
            "flops": round(cost),
            "ceiling": None if ceiling is None else round(ceiling / cost, 4),
        }
    return found, reasons


def _by_task(
    measured: Measured,
    mine: PerPrompt,
    plainer: Mapping[str, tuple[str, PerPrompt]],
    *,
    sampled: Floats,
    probabilities: Floats,
    statistics: pd.Series,
    edges: Sequence[float],
) -> tuple[OfTask, ...]:
    """Return a row for each task; none where there is one task.

    mine     what the policy gives;  plainer  what plainer ways take and give, by name
    sampled  (P,) share of right samples of the reference model
    """
    tasks = measured.tasks.tolist()
    if len(set(tasks)) < 2:
        return ()
    shown = {name: way for name, way in plainer.items() if name not in ("random_mix", "shuffled_levels")}
    found = []
    for name in dict.fromkeys(tasks):
        rows = np.flatnonzero(measured.tasks == name)
        draws = resamples(len(rows), np.random.default_rng(0))
        quality = measure_difficulty(probabilities[rows], statistics.loc[measured.prompts[rows]].to_numpy(), edges)
        found.append(
            OfTask(
                name,
                len(rows),
                round(float(sampled[rows].mean()), 4),
                mine.on(rows).point(draws),
                {way: Way(arm, runs.on(rows).point(draws)) for way, (arm, runs) in shown.items()},
                {way: estimate((mine.accuracy - runs.accuracy)[rows], draws) for way, (_, runs) in shown.items()},
                round(quality.spearman, 4),
                round(quality.kappa, 4),
                round(float((probabilities[rows] @ np.array(LEVELS)).mean()), 3),
            )
        )
    return tuple(found)
