"""The types of an evaluation report. ``evaluation.json`` has the same fields.

Accuracies are shares of right answers, 0 to 1. Intervals are 95%, by bootstrap over the held-out prompts.
``generations`` are the mean spend on a prompt, in complete solutions of the reference model. ``flops`` are
2 * parameters * tokens for a prompt, over all models that took part. The names of curves:

majority, beam_search(m=4), ...  one strategy with its parameters, at rising budgets
best_fixed          the arm or cascade that is best for all prompts alike at each budget, chosen on the training prompts
predicted           the policy under a fixed budget for each prompt, on predicted levels
predicted_average   the same under an average budget over the prompts
oracle, oracle_average   the same two on measured levels, which come from the prompt's own attempts
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from difficulty.compare import Quality
from router.errors import InvalidFile
from router.evaluation.parts import (
    HEADLINE,
    AtAverage,
    AtFlops,
    ByTask,
    Choice,
    Estimate,
    OfTask,
    Part,
    Plan,
    Point,
    Trust,
)
from router.schema import read


@dataclass(frozen=True, slots=True)
class CurvePoint(Point):
    """A point of a curve, with its budget in complete solutions."""

    budget: float


@dataclass(frozen=True, slots=True)
class AtBudget(Part):
    """Results at one budget; None: not measured there. Differences are paired by prompt."""

    budget: int
    best_fixed_arm: str
    majority: Point | None
    best_of_n: Point | None
    weighted_best_of_n: Point | None
    best_fixed: Point | None
    predicted: Point | None
    oracle: Point | None
    predicted_average: Point | None
    oracle_average: Point | None
    predicted_minus_best_fixed: Estimate | None
    predicted_average_minus_best_fixed: Estimate | None


@dataclass(frozen=True, slots=True)
class Times(Part):
    """How many times less is spent for the same accuracy.

    times    0: the accuracy is never reached
    reached  share of the resamples in which it is reached; the interval counts the others as 0 times
    """

    times: float
    low: float
    high: float
    reached: float


@dataclass(frozen=True, slots=True)
class TimesAt(Part):
    """How many times less is spent for the accuracy that the reference has at one of its budgets."""

    budget: float
    generations: float
    flops: float


@dataclass(frozen=True, slots=True)
class Saving(Part):
    """What one policy saves against one reference strategy, for the reference's highest accuracy.

    arm, target  the reference's most accurate arm, and its results; None where it was not measured
    by_budget    the same saving for the reference at each of its budgets
    reason       why there is no saving, if there is none
    """

    arm: str | None
    target: Point | None
    generations: Times | None
    flops: Times | None
    by_budget: tuple[TimesAt, ...]
    reason: str | None


@dataclass(frozen=True, slots=True)
class GapRecovered(Part):
    """The gain on predicted levels over a reference strategy, as a share of the gain on measured levels.

    value              None where even measured levels gain nothing
    predicted, oracle  the gains in accuracy on predicted and on measured levels, mean over the budgets at which both
                       and the reference were measured
    reason             why there is no value, if there is none
    """

    value: float | None
    low: float | None
    high: float | None
    predicted: Estimate | None
    oracle: Estimate | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Diagnosis(Part):
    """Where accuracy is lost, at the largest budget. Each loss is the accuracy gained if that part made no mistake.

    budget            in complete solutions
    perfect_selector  accuracy of a selector that recognises a right answer among that many samples (pass@N)
    selected          accuracy of the verifier's choice among the same samples, the better of best-of-N and weighted
    generator         1 - perfect_selector: no sample is right
    verifier          perfect_selector - selected
    estimator         the policy on measured levels - on predicted ones
    policy            the best arm for each measured level in hindsight - the policy on measured levels
    levels            the policy on measured levels - the best fixed arm or cascade: what knowing the level is worth
    never_sampled     share of the prompts with no right attempt
    verifier_closes   share of the gap between majority and the perfect selector that the verifier closes
    limit, runner_up  which of generator, verifier, estimator and policy loses most, and second most
    margin            how much more the first loses; it is not significant where the interval contains 0
    """

    budget: int
    perfect_selector: float
    selected: float | None
    generator: Estimate
    verifier: Estimate | None
    estimator: Estimate | None
    policy: Estimate | None
    levels: Estimate | None
    never_sampled: float
    verifier_closes: float | None
    limit: str
    runner_up: str | None
    margin: Estimate | None


@dataclass(frozen=True, slots=True)
class Goal(Part):
    """A goal for a measure in ``router.evaluation.goals.MEASURES``.

    at_least, at_most   bounds of its value; None: no bound
    low_at_least        lower bound of the lower end of its interval; None: no bound
    budget              average budget of a gain; None: the gain's mean over all average budgets, without an interval
    """

    measure: str
    at_least: float | None = None
    at_most: float | None = None
    low_at_least: float | None = None
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class GoalResult(Part):
    """Whether a goal is met.

    value       the measured value; None: not measured
    limited_by  what limits a missed goal: estimator, policy, generator, or verifier, which is all that tells right
                answers from wrong ones, confidences too; None: not told apart
    because     the measurement that shows what limits it, or why there is no value; None: the value says it all
    """

    goal: Goal
    value: float | None
    low: float | None
    high: float | None
    met: bool
    limited_by: str | None
    because: str | None


@dataclass(frozen=True, slots=True)
class LevelAccuracy(Part):
    """One arm's results on the prompts of one measured level. ``curve``: the curve that the arm is a point of."""

    level: int
    arm: str
    curve: str
    budget: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class MethodResult(Part):
    """The results of one way to make and use the policy's table.

    Cross-validated on the training prompts; means over budgets.
    """

    method: str
    accuracy: float
    low: float
    high: float
    minus_best_fixed: Estimate


@dataclass(frozen=True, slots=True)
class ObjectiveResult(Part):
    """The results of one objective on the held-out prompts.

    kind, value       target_accuracy, price_per_flop, ... and its value
    expected          the accuracy that the policy expected, mean over the prompts
    measured          the measured results
    sufficient        for a target accuracy: share of the prompts on which an arm is expected to reach it
    where_sufficient  accuracy on those prompts
    answered          for a target accuracy: share of the answers whose confidence reaches it; a caller may have the
                      others refused. None: not measured
    where_answered    share of right ones among these answers; None: there are none
    """

    kind: str
    value: float
    expected: float
    measured: Point
    sufficient: float | None
    where_sufficient: Estimate | None
    answered: float | None = None
    where_answered: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Chains(Part):
    """Results of ``n`` attempts in ``chains`` parallel chains, at one measured level; chains = n: no revision."""

    n: int
    chains: int
    level: int
    arm: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GroupPoint(Point):
    """Results of the policy without the larger model, on one group of prompts at one budget."""

    group: str
    budget: float


@dataclass(frozen=True, slots=True)
class GroupComparison(Part):
    """Accuracies on one group of prompts: the policy without the larger model, the larger model, their difference."""

    group: str
    prompts: int
    policy: Estimate
    larger: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class AtEqualFlops(Part):
    """The comparison at one ratio of tokens written in service to tokens trained on.

    ratio    tokens written / tokens trained on
    allowed  complete solutions that the small model may write for one by the larger model
    spent    complete solutions that it wrote; fewer where no larger budget was measured
    """

    ratio: float
    allowed: float
    spent: float
    groups: tuple[GroupComparison, ...]


@dataclass(frozen=True, slots=True)
class LargerModel(Part):
    """The comparison of more work by the reference model with one solution by a larger one.

    model, arm   the larger model's name, and the arm with one solution by it
    size_ratio   the larger model's parameters / the reference model's
    flops_ratio  FLOPs of the larger model's solution / FLOPs of one sample by the reference model
    """

    model: str
    arm: str
    size_ratio: float
    flops_ratio: float
    curve: tuple[GroupPoint, ...]
    comparisons: tuple[AtEqualFlops, ...]


@dataclass(frozen=True, slots=True)
class CandidateQuality(Quality, Part):
    """A difficulty model's quality, out of fold on the training prompts. ``milliseconds``: to predict one prompt."""

    milliseconds: float


@dataclass(frozen=True, slots=True)
class LevelCounts(Part):
    """(5,) numbers of prompts at levels 1 to 5, by their own attempts (oracle) and by the likeliest predicted level."""

    oracle: tuple[int, ...]
    predicted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LeftOut(Part):
    """What could not be measured, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report(Part):
    """The evaluation of one bundle on held-out prompts.

    bundle               name@digest
    statistic            what levels are quintiles of: pass_rate or mean_score
    prompts              number of held-out prompts measured
    attempts_per_prompt  least number of attempts at a prompt
    goals                a result for each goal; None where no goals were given
    savings              by policy (predicted, predicted_average, oracle, best_fixed), then by reference strategy
    gap_recovered        by reference strategy
    curves               by name, see the module's docstring
    choices              by objective, task, budget and level
    method, methods      how the policy's table is made and used, and all ways that were tried
    by_task              what a table for each task is worth; None where there is one task
    revisions, larger    empty, or None: not measured
    difficulty           quality of the served difficulty model on the held-out prompts
    candidates           quality of every difficulty model that was tried, by name, best first
    warnings             results for which there are too few attempts
    averages             the policy and simpler ways to choose, at average budgets
    validated            the same by nested cross-validation on the training prompts, as ``router tune`` measured it
    at_flops             the policy and simpler ways to choose, at equal FLOPs
    tasks                a row for each task; empty where there is one task
    plans                the policy's plan for each level at an average budget, stage by stage
    trust                how confidences agree with outcomes; None: not measured
    headline             the figures that a reader looks for first, by name; keys of their own in evaluation.json
    """

    bundle: str
    statistic: str
    prompts: int
    attempts_per_prompt: int
    goals: tuple[GoalResult, ...] | None
    budgets: tuple[AtBudget, ...]
    savings: Mapping[str, Mapping[str, Saving]]
    gap_recovered: Mapping[str, GapRecovered]
    diagnosis: Diagnosis
    curves: Mapping[str, tuple[CurvePoint, ...]]
    per_level: tuple[LevelAccuracy, ...]
    choices: tuple[Choice, ...]
    method: str
    methods: tuple[MethodResult, ...]
    objectives: tuple[ObjectiveResult, ...]
    revisions: tuple[Chains, ...]
    larger: LargerModel | None
    difficulty: Quality
    candidates: Mapping[str, CandidateQuality]
    levels: LevelCounts
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...] = ()
    averages: tuple[AtAverage, ...] = ()
    validated: tuple[dict[str, Any], ...] = ()
    at_flops: tuple[AtFlops, ...] = ()
    tasks: tuple[OfTask, ...] = ()
    plans: tuple[Plan, ...] = ()
    trust: Trust | None = None
    by_task: ByTask | None = None
    headline: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        return {**found, **found.pop("headline")}

    def to_json(self) -> str:
        return json.dumps(self.as_json(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Read the text that :meth:`to_json` writes. Raises InvalidFile, which names what is wrong."""
        try:
            found = json.loads(text)
            headline = {name: found.pop(name) for name in HEADLINE if name in found}
            report: Report = read(cls, {**found, "headline": headline})
        except ValueError as error:
            raise InvalidFile(f"this is no evaluation.json of this version: {error}") from error
        return report
