"""The types that a report is made of, and what it says of plans and confidences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from router.schema import STRICT
from router.tuning.calibration import Calibration

# The figures that a reader looks for first. ``reasons`` says of those that are null why.
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
    "confidence_error",
    "average_budget_error",
    "average_budget_error_kept",
    "reasons",
)


class Part:
    """Base of everything in a report: when one is read, unknown keys are errors."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Estimate(Part):
    """A mean over prompts, ``low`` to ``high`` its interval; in the unit of what it is of."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Point(Part):
    """What one way to choose arms gives on the held-out prompts, and what it spends."""

    accuracy: float
    low: float
    high: float
    generations: float
    flops: float


@dataclass(frozen=True, slots=True)
class Way(Part):
    """One way to choose arms, which ones it takes, and what that gives."""

    chosen: str
    point: Point


@dataclass(frozen=True, slots=True)
class AtAverage(Part):
    """An average budget: the policy, and by name plainer ways that were chosen on the training prompts.

    best_fixed_arm      the arm that was most accurate of those that spent no more on average
    best_fixed_cascade  the same of cascades
    random_mix          the best mix of two arms, at what the policy spends
    shuffled_levels     the policy, each prompt with the level probabilities of another one, at what the policy spends
    larger_alone        one solution of the larger model, whatever it costs
    kept   the policy as a server runs it for one caller: what its calls spent moves what the next arm is chosen for;
           None: an arm that it takes then was not run
    gains  the policy's accuracy less theirs, prompt by prompt
    """

    budget: float
    policy: Point
    kept: Point | None
    ways: Mapping[str, Way]
    gains: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class PlanStage(Part):
    """One stage of a plan.

    threshold    the confidence that ends it; None: the last one
    reached      share of the prompts that come here;  ended  share of the prompts that end here
    accuracy     share of right answers among those that end here; None: none does
    generations  mean spend of those that end here, all stages included, in complete solutions
    """

    arm: str
    threshold: float | None
    reached: float
    ended: float
    accuracy: float | None
    generations: float | None


@dataclass(frozen=True, slots=True)
class Plan(Part):
    """What is run for a prompt that is surely at a level, measured on the held-out prompts that are likeliest there."""

    level: int
    budget: float
    arm: str
    prompts: int
    accuracy: float
    generations: float
    stages: tuple[PlanStage, ...]


@dataclass(frozen=True, slots=True)
class Trust(Calibration):
    """How confidences and outcomes agree on one answer a held-out prompt, chosen at an average budget."""

    budget: float
