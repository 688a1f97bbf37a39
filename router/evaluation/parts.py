"""Types shared by all parts of a report, and those for average budgets, plans and confidences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from router.schema import STRICT
from router.tuning.calibration import Calibration

# Names of the figures that a reader looks for first. ``reasons`` says why a figure is null.
HEADLINE = (
    "gain_over_best_fixed",
    "gain_over_best_fixed_cascade",
    "gain_over_random_mix",
    "gain_over_shuffled_levels",
    "savings_average_budget",
    "savings_fixed_budget",
    "savings_best_fixed",
    "savings_against_best_fixed",
    "savings_against_best_fixed_cascade",
    "accuracy_at_larger_cost",
    "accuracy_at_1.5_larger_cost",
    "cost_of_larger_accuracy",
    "apgr",
    "cpt",
    "share_of_large_cost",
    "share_of_best_of_n_cost",
    "gain_at_large_cost",
    "difficulty_ceiling",
    "confidence_error",
    "below_best_fixed",
    "average_budget_error",
    "average_budget_error_kept",
    "reasons",
)
NO_LARGER = "no larger model was run"  # the reason of figures that compare with one


class Part:
    """Base class of everything in a report. When a report is read, unknown keys are errors."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Estimate(Part):
    """A mean over prompts, with its interval from ``low`` to ``high``, in the unit of the averaged values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point(Part):
    """Accuracy and spend of one way to choose arms, as means over the held-out prompts."""

    accuracy: float
    low: float
    high: float
    generations: float
    flops: float


@dataclass(frozen=True, slots=True)
class Way(Part):
    """One way to choose arms: the arms it takes, as text, and its results."""

    chosen: str
    point: Point


@dataclass(frozen=True, slots=True)
class AtAverage(Part):
    """Results at one average budget: the policy, and by name simpler ways that were chosen on the training prompts.

    best_fixed_arm      the most accurate arm, no cascade, that spends no more on average
    best_fixed_cascade  the most accurate cascade that spends no more on average
    random_mix          the best mix of two arms, at what the policy spends
    confidence_only     the best mix of two arms, cascades among them, at what the policy spends
    shuffled_levels     the policy, each prompt with the level probabilities of another one, at what the policy spends
    nearest_neighbours  of the policy's arms the one that was best at similar training prompts; only where these are at
                        hand
    policy  where it spends just the budget on these prompts, or the most that it can
    asked   the policy asked for this budget, without a correction of what it then spends on these prompts
    kept    the policy as a server runs it for one caller, correcting for what earlier calls spent; None: an arm that it
            then takes was not run
    gains   the policy's accuracy less that of each way, paired by prompt; for the spending see ``tuning.nested.beside``
    """

    budget: float
    policy: Point
    asked: Point
    kept: Point | None
    ways: Mapping[str, Way]
    gains: Mapping[str, Estimate]

    @property
    def name(self) -> str:
        return f"average budget {self.budget:g}"


@dataclass(frozen=True, slots=True)
class AtFlops(Part):
    """Mean FLOPs that a prompt may take: the policy by a price of a FLOP, and plainer ways as in :class:`AtAverage`.

    share    of one solution of the larger model; where there is none, of one sample of the reference model
    ways     best_fixed_arm, best_fixed_cascade, random_mix, shuffled_levels; larger_alone, one solution of the larger
             model; confidence_only, the best mix of any two arms, cascades among them; level_only, the policy without
             cascades; where tasks have tables of their own arm_of_each_task, for each task the arm or cascade that its
             table prefers at one price of a FLOP, a mix of the two nearest prices; nearest_neighbours where the
             training prompts are at hand
    gains    the policy's accuracy at what the way spends, less the way's, prompt by prompt
    perfect  accuracy of a perfect choice among all attempts at these FLOPs
    """

    share: float
    policy: Point
    ways: Mapping[str, Way]
    gains: Mapping[str, Estimate]
    perfect: float

    @property
    def name(self) -> str:
        return f"{self.share:g} times the FLOPs"


@dataclass(frozen=True, slots=True)
class OfTask(Part):
    """The prompts of one task, where all prompts together take what one solution of the larger model does.

    sample      share of right samples of the reference model
    ways        as in :class:`AtFlops`, but for random_mix and shuffled_levels
    gains       the policy's accuracy less that of each way; over all tasks together they spend the same, but not here
    spearman, kappa  of the predicted levels within the task
    mean_level  that is predicted
    """

    task: str
    prompts: int
    sample: float
    policy: Point
    ways: Mapping[str, Way]
    gains: Mapping[str, Estimate]
    spearman: float
    kappa: float
    mean_level: float


@dataclass(frozen=True, slots=True)
class Choice(Part):
    """The policy's arm for a prompt whose level is certain, with its results on the training prompts.

    objective  budget (for each prompt) or average_budget
    budget     the objective's value, in complete solutions
    task       whose table it is of; empty: of all tasks that have none of their own
    """

    objective: str
    budget: int
    level: int
    arm: str
    accuracy: float
    generations: float
    task: str = ""


@dataclass(frozen=True, slots=True)
class ByTask(Part):
    """What a table for each task is worth beside one for all, by cross-validation on the training prompts.

    method, instead_of  how the tables are made and read, and the best single one
    prompts  number of training prompts, by task with a table
    gain     in accuracy, mean of the next two: at equal mean FLOPs, and within fixed budgets
    """

    served: bool
    method: str
    instead_of: str
    prompts: Mapping[str, int]
    gain: Estimate
    at_equal_flops: Estimate
    within_budgets: Estimate


@dataclass(frozen=True, slots=True)
class PlanStage(Part):
    """One stage of a plan.

    threshold    the confidence that ends the plan here; None: the last stage
    reached      share of the prompts that reach this stage
    ended        share of the prompts that end here
    accuracy     share of right answers among prompts that end here; None: none does
    generations  mean spend of prompts that end here, over all their stages, in complete solutions
    """

    arm: str
    threshold: float | None
    reached: float
    ended: float
    accuracy: float | None
    generations: float | None


@dataclass(frozen=True, slots=True)
class Plan(Part):
    """The policy's arm for a prompt certain to be at a level, measured on prompts that are most probably at it.

    task  as in :class:`Choice`
    """

    level: int
    budget: float
    arm: str
    prompts: int
    accuracy: float
    generations: float
    stages: tuple[PlanStage, ...]
    task: str = ""


@dataclass(frozen=True, slots=True)
class Trust(Calibration):
    """How confidences agree with outcomes, on one answer for each held-out prompt at an average budget."""

    budget: float
