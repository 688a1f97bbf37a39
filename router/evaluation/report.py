"""What an evaluation measured, as types; ``evaluation.json`` is the same, field for field.

Accuracies are shares of right answers, 0 to 1. Intervals are 95%, by bootstrap over the held-out prompts.
``generations`` are what was sampled on average for a prompt, in complete solutions of the reference
model; ``flops`` are
2 * parameters * tokens for a prompt, of every model that took part. The names of curves:

majority, beam_search(m=4), ...  one strategy with its parameters, at rising budgets
best_fixed          the arm that is best for all prompts alike at each budget, chosen on the training prompts
predicted           the policy under a fixed budget for each prompt, on predicted levels
predicted_average   the same under an average budget over the prompts
oracle, oracle_average   the same two on measured levels: those that a prompt's own attempts put it in
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from difficulty.compare import Quality
from router.errors import InvalidFile
from router.evaluation.parts import HEADLINE, AtAverage, Estimate, Part, Plan, Point, Trust
from router.schema import read


@dataclass(frozen=True, slots=True)
class CurvePoint(Point):
    """A point at its budget, in complete solutions."""

    budget: float


@dataclass(frozen=True, slots=True)
class AtBudget(Part):
    """One budget; None: not measured there. Differences are paired: prompt by prompt."""

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
    reached  share of the resamples in which it is; the interval counts the others as 0 times
    """

    times: float
    low: float
    high: float
    reached: float


@dataclass(frozen=True, slots=True)
class TimesAt(Part):
    """How many times less is spent, for the accuracy of the reference at one of its budgets."""

    budget: float
    generations: float
    flops: float


@dataclass(frozen=True, slots=True)
class Saving(Part):
    """What one policy saves against one reference strategy, for the reference's highest accuracy.

    arm, target  the reference where it is most accurate; None where it was not measured
    by_budget    the same saving for the reference at each of its budgets
    reason       why there is nothing to save, where that is so
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
    predicted, oracle  both gains in accuracy, mean over the budgets at which all three were measured
    reason             why there is no value
    """

    value: float | None
    low: float | None
    high: float | None
    predicted: Estimate | None
    oracle: Estimate | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Diagnosis(Part):
    """Where accuracy is lost, at the largest budget. Each loss is what would be won if that part made no mistake.

    budget            complete solutions
    perfect_selector  accuracy of whoever recognises a right answer among that many samples (pass@N)
    selected          accuracy of the verifier's choice among the same samples, best-of-N or weighted, the better one
    generator         1 - perfect_selector: no sample is right
    verifier          perfect_selector - selected
    estimator         the policy on measured levels - on predicted ones
    policy            the best arm for each measured level, known afterwards - the policy on measured levels
    levels            the policy on measured levels - the best fixed arm: what knowing the level is worth
    never_sampled     share of the prompts with no right attempt
    verifier_closes   share of the gap between majority and the perfect selector that the verifier closes
    limit, runner_up  which of generator, verifier, estimator and policy loses most, and second most
    margin            how much more the first loses; not clear where the interval holds 0
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
    """What somebody wants of a measure in ``router.evaluation.goals.MEASURES``.

    at_least, at_most   of its value; None: no such wish
    low_at_least        of the lower end of its interval
    """

    measure: str
    at_least: float | None = None
    at_most: float | None = None
    low_at_least: float | None = None


@dataclass(frozen=True, slots=True)
class GoalResult(Part):
    """Whether a goal is met.

    value       what was measured; None: nothing was
    limited_by  of a missed goal: estimator, policy, verifier or generator
    because     the measurement that shows it
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
    """One arm on the prompts of one measured level; ``curve`` is the curve that it is a point of."""

    level: int
    arm: str
    curve: str
    budget: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Choice(Part):
    """What the policy runs for a prompt whose level is certain; numbers as measured on the training prompts.

    objective  budget (for each prompt) or average_budget;  budget its value, in complete solutions
    """

    objective: str
    budget: int
    level: int
    arm: str
    accuracy: float
    generations: float


@dataclass(frozen=True, slots=True)
class MethodResult(Part):
    """One way to make and read the policy's table, cross-validated on the training prompts, mean over budgets."""

    method: str
    accuracy: float
    low: float
    high: float
    minus_best_fixed: Estimate


@dataclass(frozen=True, slots=True)
class ObjectiveResult(Part):
    """What one objective gives on the held-out prompts.

    kind, value       target_accuracy, price_per_flop, ... and its value
    expected          the accuracy that the policy expected, mean over the prompts
    measured          what came of it
    sufficient        of a target accuracy: share of the prompts on which an arm is known to reach it
    where_sufficient  accuracy on those
    """

    kind: str
    value: float
    expected: float
    measured: Point
    sufficient: float | None
    where_sufficient: Estimate | None


@dataclass(frozen=True, slots=True)
class Chains(Part):
    """``n`` attempts of one prompt as ``chains`` parallel chains, at one measured level; chains = n: no revision."""

    n: int
    chains: int
    level: int
    arm: str
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class GroupPoint(Point):
    """The policy without the larger model, on one group of prompts at one budget."""

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
    """The comparison where so many tokens are written in service for each token trained on.

    ratio    tokens written / tokens trained on
    allowed  complete solutions that the small model may write for one of the larger one
    spent    what it wrote: less, where no larger budget was measured
    """

    ratio: float
    allowed: float
    spent: float
    groups: tuple[GroupComparison, ...]


@dataclass(frozen=True, slots=True)
class LargerModel(Part):
    """More work by the reference model against one solution by a larger one.

    model, arm   the larger model's name, and the arm that it writes one solution by
    size_ratio   its parameters / the reference model's
    flops_ratio  FLOPs of its solution / of one sample
    """

    model: str
    arm: str
    size_ratio: float
    flops_ratio: float
    curve: tuple[GroupPoint, ...]
    comparisons: tuple[AtEqualFlops, ...]


@dataclass(frozen=True, slots=True)
class CandidateQuality(Quality, Part):
    """A difficulty model, out of fold on the training prompts; ``milliseconds`` to predict one prompt."""

    milliseconds: float


@dataclass(frozen=True, slots=True)
class LevelCounts(Part):
    """(5,) prompts at levels 1 to 5, by their own attempts and by the likeliest predicted level."""

    oracle: tuple[int, ...]
    predicted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LeftOut(Part):
    """What could not be measured, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report(Part):
    """One bundle on held-out prompts.

    bundle               name@digest
    statistic            what levels are quintiles of: pass_rate or mean_score
    prompts              how many were held out and measured;  attempts_per_prompt at least so many each
    goals                one result a goal; None where no goals were given
    savings              by policy (predicted, predicted_average, oracle, best_fixed), then by reference strategy
    gap_recovered        by reference strategy
    curves               by name, see the module's docstring
    choices              by objective, budget and level
    method, methods      how the policy's table is made and read, and what else was tried
    revisions, larger    empty, None: not measured
    difficulty           the served difficulty model on the held-out prompts
    candidates           every difficulty model that was tried, by name, best first
    warnings             what the attempts are too few to tell
    averages             the policy beside plainer ways to choose, at average budgets
    validated            the same by nested cross-validation on the training prompts, as ``router tune`` measured it
    plans                what the policy runs at each level at an average budget, stage by stage
    trust                how the answers' confidences and the outcomes agree; None: not measured
    headline             what a reader looks for first, by name; in evaluation.json each is a key of its own
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
    plans: tuple[Plan, ...] = ()
    trust: Trust | None = None
    headline: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        return {**found, **found.pop("headline")}

    def to_json(self) -> str:
        return json.dumps(self.as_json(), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Inverse of :meth:`to_json`; raises InvalidFile naming what is wrong."""
        try:
            found = json.loads(text)
            headline = {name: found.pop(name) for name in HEADLINE if name in found}
            report: Report = read(cls, {**found, "headline": headline})
        except ValueError as error:
            raise InvalidFile(f"no evaluation.json of this version: {error}") from error
        return report
