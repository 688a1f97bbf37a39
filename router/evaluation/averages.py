"""Measures the policy at average budgets on held-out prompts: against simpler ways, its plans, its confidences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.evaluation.arms import arm_names, chosen, fixed, routed, shuffled_choices
from router.evaluation.curves import Curve, PerPrompt, between, estimate, mean_of, mixed
from router.evaluation.neighbours import BY_SIMILAR, Neighbours
from router.evaluation.parts import AtAverage, Plan, PlanStage, Trust, Way
from router.policy.keeping import Ledger
from router.policy.objectives import AverageBudget, mostly
from router.policy.table import LEVELS, Policy
from router.tuning.between import ROOM
from router.tuning.calibration import calibration
from router.tuning.candidates import trust
from router.tuning.cascades import Enumerated
from router.tuning.evidence import Measured
from router.tuning.nested import FIXED, beside
from strategies import Cascade, Single, Strategy, parse

AT = 16  # average budget at which plans are shown and confidences are judged; less where less can be spent
ORDERS = 10  # random orders of the prompts that are averaged over
Floats = NDArray[np.float64]


class Averages:
    """The policy's choices under average budgets on P held-out prompts.

    probabilities  (P, 5) level probabilities of the prompts
    """

    def __init__(self, measured: Measured, policy: Policy, probabilities: Floats):
        self.measured, self.policy, self.probabilities = measured, policy, probabilities
        self._columns = {arm: k for k, arm in enumerate(measured.arms)}
        self.least = policy.budget_points[0].generations if policy.budget_points else np.inf

    def run(self, budget: float) -> PerPrompt | None:
        """Return the results at an average budget; None where a chosen arm was not run on these prompts."""
        return routed(self.measured, self.policy, self.probabilities, AverageBudget(max(budget, self.least)))[0]

    def at(self, spent: float) -> PerPrompt | None:
        """Return the results where the policy spends this much on average on these prompts, whatever was asked for.

        It is a mix of the two budget points next to it; beyond the last one it is that one. None below the first, and
        where no point could be measured.
        """
        if not self.points or spent * ROOM < self._spent[0]:
            return None
        return between(self.points, self._spent, spent)

    @property
    def least_spent(self) -> float:
        """The least that the policy spends on average on these prompts; infinite: nothing could be measured."""
        return float(self._spent[0]) if self.points else np.inf

    def kept(self, budget: float) -> PerPrompt | None:
        """Return the results as for one caller of a server, which corrects for what earlier calls spent.

        See ``policy.keeping``. The prompts are called one after the other, in several orders that are averaged. None
        where a chosen arm was not run.
        """
        measured, rng = self.measured, np.random.default_rng(0)
        rows, found = self.probabilities.tolist(), []
        tables = [self.policy.for_task(task) for task in measured.tasks.tolist()]
        for _ in range(ORDERS):
            ledger, columns = Ledger(budget), np.zeros(len(rows), dtype=np.int64)
            for i in rng.permutation(len(rows)):
                promise = tables[i].decide(rows[i], AverageBudget(budget, ledger.factor, rng.random()))
                column = self._columns.get(promise.arm)
                if column is None:
                    return None
                columns[i], expected = column, promise.cost.generations
                ledger.begin(expected)
                ledger.end(expected, float(measured.generations[i, column]))
            found.append(chosen(measured, columns))
        return mean_of(found)

    def arms(self, budget: float) -> list[Strategy]:
        """Return the arm chosen for each prompt; between two budget points, at that of most prompts."""
        objective = mostly(self.policy, AverageBudget(max(budget, self.least)))
        picked = self.policy.decide_many(self.probabilities, objective, self.measured.tasks)
        return [self.policy.arms[k] for k in picked]

    def shuffled(self, spent: float, rng: np.random.Generator) -> PerPrompt | None:
        """Return the results where each prompt has another one's level probabilities, at a mean spend of ``spent``.

        Prompts are decided by the table of their own task, and the other one is of that table, too. The mean of many
        shuffles. Prices at which an arm was chosen that was not run on these prompts are left out; None: all are.
        """
        if not self._picked:
            return None
        return shuffled_choices(self.measured, self.policy, self._picked, spent, unit="generations", rng=rng)

    @cached_property
    def points(self) -> list[PerPrompt]:
        """The results at each budget point, by rising spend; empty: nothing could be measured."""
        found = [chosen(self.measured, columns) for columns in self._picked]
        return sorted(found, key=lambda runs: float(runs.generations.mean()))

    @cached_property
    def _spent(self) -> Floats:
        """Mean spend at each of these points."""
        return np.array([runs.generations.mean() for runs in self.points])

    @cached_property
    def _picked(self) -> list[NDArray[np.int64]]:
        """(P,) columns of the choices at each budget point, where all of them were run."""
        columns = np.array([self._columns.get(arm, -1) for arm in self.policy.arms])
        objectives = [AverageBudget(point.generations) for point in self.policy.budget_points]
        decided = [self.policy.decide_many(self.probabilities, each, self.measured.tasks) for each in objectives]
        return [columns[each] for each in decided if (columns[each] >= 0).all()]


@dataclass(frozen=True, slots=True)
class OnAverage:
    """What was measured at average budgets.

    rows        results at each average budget
    best_fixed  curves of "best_fixed_arm" and "best_fixed_cascade"
    plans       the policy's plan for each level at one average budget
    trust       how confidences agree with outcomes there; None: not measured
    """

    rows: tuple[AtAverage, ...]
    best_fixed: Mapping[str, Curve]
    plans: tuple[Plan, ...]
    trust: Trust | None


def on_average(
    averages: Averages,
    enumerated: Enumerated,
    tuned: Sequence[Mapping[str, Any]],
    draws: Floats,
    *,
    similar: Neighbours | None,
    confident: bool,
) -> OnAverage:
    """Measure the policy at the average budgets of ``tuned``, and its plans at the largest of them up to :data:`AT`.

    Where there is none, plans are those at the least budget.

    enumerated  the runs that cascades are replayed from
    tuned       rows of ``tuning.nested.compare``
    draws       (R, P) weights of R bootstrap resamples
    similar     the tuning prompts; None: they are not at hand
    confident   whether the bundle has a confidence model
    """
    rows, best_fixed = at_averages(averages, tuned, draws, similar)
    budget = max((row.budget for row in rows if row.budget <= AT), default=float(averages.least))
    trust = trusted(averages, enumerated, budget) if confident else None
    return OnAverage(tuple(rows), best_fixed, tuple(plans(averages, enumerated, budget)), trust)


def at_averages(
    averages: Averages, tuned: Sequence[Mapping[str, Any]], draws: Floats, similar: Neighbours | None
) -> tuple[list[AtAverage], dict[str, Curve]]:
    """Return a row for each average budget that ``router tune`` has compared ways at, and curves of the fixed ways."""
    measured = averages.measured
    names = arm_names(measured)
    rng = np.random.default_rng(0)
    rows: list[AtAverage] = []
    curves: dict[str, dict[float, PerPrompt]] = {name: {} for name in FIXED}
    for row in tuned:
        budget = float(row["budget"])
        asked, policy, kept = averages.run(budget), averages.at(budget), averages.kept(budget)
        if asked is None or policy is None or budget < averages.least:
            continue
        spent = float(policy.generations.mean())
        found: dict[str, tuple[str, PerPrompt]] = {}
        for name in FIXED:
            arm = row["chosen"][name]
            if arm in names:
                found[name] = arm, fixed(measured, names.index(arm))
        for name in ("random_mix", "confidence_only"):
            first, second = _mix(row, name)
            if first in names and second in names:
                both = [fixed(measured, names.index(arm)) for arm in (first, second)]
                arms = first if first == second else f"{first} or {second}"
                found[name] = arms, mixed(both[0], both[1], spent, "generations")
        shuffled = averages.shuffled(spent, rng)
        if shuffled is not None:
            found["shuffled_levels"] = "the policy's arms", shuffled
        if similar:
            found["nearest_neighbours"] = BY_SIMILAR, similar.at(budget, "generations")
        for name, points in curves.items():
            if name in found:
                points[budget] = found[name][1]
        gains = {}
        for name, (_, runs) in found.items():
            mine = averages.at(beside(name, float(runs.generations.mean()), budget))
            if mine:
                gains[name] = estimate(mine.accuracy - runs.accuracy, draws)
        ways = {name: Way(arm, runs.point(draws)) for name, (arm, runs) in found.items()}
        as_asked, as_kept = asked.point(draws), kept.point(draws) if kept else None
        rows.append(AtAverage(budget, policy.point(draws), as_asked, as_kept, ways, gains))
    return rows, dict(curves)


def larger_alone(measured: Measured) -> int | None:
    """Return the column of the arm with one solution by the largest model; None where it was not run."""
    setup = measured.setup
    sizes = {name: spec.parameters for name, spec in setup.models.items() if spec.parameters > setup.main.parameters}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if Single(model=name) in measured.arms:
            return measured.arms.index(Single(model=name))
    return None


def plans(averages: Averages, enumerated: Enumerated, budget: float) -> list[Plan]:
    """Return each table's plan for each level, measured on its prompts that are most probably at that level."""
    measured, policy = averages.measured, averages.policy
    likeliest = averages.probabilities.argmax(axis=1)
    objective = mostly(policy, AverageBudget(max(budget, averages.least)))
    own = {id(table): rows for rows, table in policy.tables(measured.tasks)}
    found = []
    for task, table in policy.by_task(measured.setup.tasks).items():
        of_table = own.get(id(table), np.arange(0))
        for i, level in enumerate(LEVELS):
            arm = table.decide([float(i == j) for j in range(len(LEVELS))], objective).arm
            rows = of_table[likeliest[of_table] == i]
            if arm not in measured.arms or not len(rows):
                continue
            runs = fixed(measured, measured.arms.index(arm)).on(rows)
            accuracy, spent = round(float(runs.accuracy.mean()), 4), round(float(runs.generations.mean()), 3)
            whole = PlanStage(str(arm), None, 1.0, 1.0, accuracy, spent)
            stages = _stages(arm, enumerated, measured, rows) or [whole]
            found.append(Plan(level, budget, str(arm), len(rows), accuracy, spent, tuple(stages), task))
    return found


def _stages(
    arm: Strategy, enumerated: Enumerated, measured: Measured, rows: NDArray[np.int64]
) -> list[PlanStage] | None:
    if not isinstance(arm, Cascade):
        return None
    runs = enumerated.runs(arm)
    if runs is None or runs.stages is None:
        return None
    worth, sample = measured.setup.worth, measured.sample_tokens[:, None]
    spent = sum(
        tokens / sample * worth[model or measured.setup.reference] for model, tokens in runs.generated_tokens.items()
    )
    ended_at = np.broadcast_to(runs.stages, runs.correct.shape)[rows]
    right, spent = runs.correct[rows], np.broadcast_to(np.asarray(spent), runs.correct.shape)[rows]
    found = []
    for i, (stage, threshold) in enumerate(zip(arm.stages, (*arm.thresholds, None), strict=True), start=1):
        here = ended_at == i
        found.append(
            PlanStage(
                str(stage),
                threshold,
                reached=round(float((ended_at >= i).mean()), 4),
                ended=round(float(here.mean()), 4),
                accuracy=round(float(right[here].mean()), 4) if here.any() else None,
                generations=round(float(spent[here].mean()), 3) if here.any() else None,
            )
        )
    return found


def trusted(averages: Averages, enumerated: Enumerated, budget: float) -> Trust | None:
    """Compare confidences with outcomes on one run of each prompt's arm; None where that is not possible."""
    sure, right = trust(enumerated, averages.arms(budget))
    known = ~np.isnan(sure) & (right >= 0)
    if known.sum() < 2:
        return None
    found = calibration(sure[known], right[known])
    return Trust(**{each.name: getattr(found, each.name) for each in fields(found)}, budget=budget)


def cascades_of(tuned: Sequence[Mapping[str, Any]]) -> list[Cascade]:
    """Return the cascades that the simpler ways would choose."""
    named = [row["chosen"]["best_fixed_cascade"] for row in tuned]
    named += [arm for row in tuned for arm in _mix(row, "confidence_only")]
    found = [parse(text) for text in dict.fromkeys(named) if text]
    return [arm for arm in found if isinstance(arm, Cascade)]


def _mix(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Return the two arms of a mix; empty where an older ``router tune`` did not choose it."""
    found = row["chosen"].get(name, {})
    return found.get("first", ""), found.get("second", "")
