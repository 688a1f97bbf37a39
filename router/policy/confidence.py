"""The probability that an answer is right, given all that is known with it: a small calibrated logistic model.

It is a logistic function of named features: the prompt's level probabilities; the verifier's score of the solution, and
of the best solution with another answer; the answer's lead in the vote; the solution's length, and how probable its
tokens were to the model that wrote it; how much was written to find it; and, for each model, how many stages gave this
answer and how many gave another. What is missing (a bundle may have no verifier) counts as unknown, not as zero. Tasks
may have weights of their own: a long solution means another thing in code than in arithmetic. Where an engine gives no
log-probabilities, weights learned without them and the length are used. The same code serves one call and replays
thousands of runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from router.errors import InvalidBundle
from router.schema import STRICT, Finite, Name, loads, read
from strategies import AskConfidence, Sampling, Strategy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from strategies.replaying.records import Seen

    Floats = NDArray[np.float64]

_EDGE = 0.002  # scores and leads are kept this far from 0 and 1


@dataclass(frozen=True)
class Confidence:
    """A fitted model: ``weights`` by feature, in log-odds per unit of the feature, and ``bias`` in log-odds.

    voting  names of the strategies whose votes it learned from; for other strategies no votes were recorded
    tasks   weights and bias for prompts of single tasks, by the task's name
    plain   weights and bias for solutions whose length or log-probability is unknown; None: these have no weights
    """

    __pydantic_config__ = STRICT

    weights: Mapping[str, Finite]
    bias: Finite
    voting: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    tasks: Mapping[str, "Weights"] = field(default_factory=dict)
    plain: "Weights | None" = None

    def for_task(self, name: str | None) -> "Confidence":
        """Return the model for prompts of a task: its own, or that of all tasks where it has none."""
        own = self.tasks.get(name) if name else None
        return Confidence(own.weights, own.bias, self.voting, plain=self.plain) if own else self

    @property
    def reads_log_probs(self) -> bool:
        """Whether it uses log-probabilities, which engines give only where they are asked for."""
        return self.plain is not None

    def of(self, probabilities: Sequence[float], wanted: AskConfidence) -> list[float]:
        """Return the probability that each stage's answer is right, 0 where it has none.

        probabilities  (5,) of levels 1 to 5
        """
        import numpy as np

        from strategies.replaying.records import Seen
        from strategies.stopping import lead

        codes: dict[str, int] = {}
        numbers = count()
        seen = []
        for stage in wanted.stages:
            best = stage.result.best
            answer = None if best is None else best.answer
            if answer is not None and answer not in codes:
                codes[answer] = next(numbers)
            told = (best.score, lead(stage.result.candidates), best.log_prob, len(best.text)) if best else (None,) * 4
            numbers_of = [np.array([np.nan if each is None else each]) for each in told]
            seen.append(Seen(np.array([-1 if answer is None else codes[answer]]), *numbers_of))
        arms = [stage.arm for stage in wanted.stages]
        return [float(each[0]) for each in self.of_many(np.array([probabilities]), arms, seen)]

    def of_many(self, probabilities: "Floats", arms: Sequence[Strategy], seen: "Sequence[Seen]") -> "list[Floats]":
        """Return the same for arrays of runs, one array per stage.

        probabilities  (..., 5) of the levels; the leading dimensions broadcast with the runs' shape
        """
        import numpy as np

        found = []
        for i, each in enumerate(seen):
            values = features(probabilities, arms, seen, i, self.voting)
            logit = _logit(self, values)
            if self.plain:
                logit = np.where(has_length_and_log_prob(each), logit, _logit(self.plain, values))
            found.append(np.where(each.answer < 0, 0.0, 1 / (1 + np.exp(-logit))))
        return found

    def dumps(self) -> str:
        """Return the model as JSON, one feature per line."""
        parts = [f'"voting": {json.dumps(list(self.voting))}', _written(self)]
        if self.plain:
            parts.append(f'"plain": {{{_written(self.plain)}}}')
        if self.tasks:
            own = (f" {json.dumps(name)}: {{{_written(each)}}}" for name, each in self.tasks.items())
            parts.append('"tasks": {\n ' + ",\n ".join(own) + "\n }")
        return "{" + ",\n ".join(parts) + "}\n"

    @classmethod
    def loads(cls, text: str | bytes) -> "Confidence":
        """Read what ``dumps`` wrote. Raises InvalidBundle, naming what is wrong; unknown keys are errors."""
        try:
            found: Confidence = read(cls, loads(text))
        except (ValueError, OverflowError) as error:
            raise InvalidBundle(f"confidence: {error}") from error
        return found


@dataclass(frozen=True)
class Weights:
    """As in :class:`Confidence`."""

    __pydantic_config__ = STRICT

    weights: Mapping[str, Finite]
    bias: Finite


def _written(model: Confidence | Weights) -> str:
    weights = ",\n  ".join(f"{json.dumps(name)}: {weight:.6g}" for name, weight in model.weights.items())
    return f'"bias": {model.bias:.6g}, "weights": {{\n  {weights}\n }}'


def _logit(model: Confidence | Weights, values: "Mapping[str, Floats]") -> Any:
    logit: Any = model.bias
    for name, each in values.items():
        weight = model.weights.get(name)
        if weight is not None:
            logit = logit + weight * each
    return logit


def has_length_and_log_prob(seen: "Seen") -> "NDArray[np.bool_]":
    """Return whether a solution's length and log-probability are known, run by run."""
    import numpy as np

    return ~(np.isnan(seen.log_prob) | np.isnan(seen.length))


def features(
    probabilities: "Floats", arms: Sequence[Strategy], seen: "Sequence[Seen]", i: int, voting: Sequence[str]
) -> "dict[str, Floats]":
    """Return what is known of the answer of stage ``i``, as arrays by feature name.

    An unknown feature is 0, and its "known" feature is 0, too; lengths and log-probabilities have no such feature, see
    :func:`has_length_and_log_prob`. Scores and leads are log-odds, lengths binary logarithms of characters; the level
    counts from the middle one, so from -2 to 2.
    """
    import numpy as np

    zero = np.zeros(seen[i].answer.shape)
    level = probabilities @ np.arange(-2.0, 3.0)
    solution = {
        "log-probability": np.nan_to_num(seen[i].log_prob),
        "length": np.log2(1.0 + np.nan_to_num(seen[i].length)),
    }
    return {
        **{f"level {k}": zero + probabilities[..., k - 1] for k in (1, 2, 4, 5)},
        **_scores(arms, seen, i, level),
        **_lead(arms[i], seen[i], voting, level),
        **solution,
        **_of_models(arms, seen, i, level, solution),
    }


def _scores(arms: Sequence[Strategy], seen: "Sequence[Seen]", i: int, level: "Floats") -> "dict[str, Floats]":
    """Return the best score of the stage's answer and of other answers, and how much was written to find them."""
    import numpy as np

    answered = [each.answer >= 0 for each in seen]
    scored = [has & ~np.isnan(each.score) for has, each in zip(answered, seen, strict=True)]
    same = [has & (each.answer == seen[i].answer) for has, each in zip(answered, seen, strict=True)]

    def best(those: "Sequence[NDArray[np.bool_]]") -> "tuple[Floats, NDArray[np.bool_]]":
        """Return the log-odds of the highest score among some of the stages (0 without one), and where there is one."""
        some = np.any(those, axis=0)
        top = np.max([np.where(mask, each.score, 0.0) for mask, each in zip(those, seen, strict=True)], axis=0)
        return np.where(some, _log_odds(top), 0.0), some

    score, has_score = best([mine & has for mine, has in zip(same, scored, strict=True)])
    rival, has_rival = best([~mine & has for mine, has in zip(same, scored, strict=True)])
    written = np.log2(sum(sum(arm.solutions.values()) for arm in arms))
    return {
        "score": score,
        "score known": has_score.astype(float),
        "score by level": score * level,
        "score by written": score * written,
        "rival's score": rival,
        "rival's score known": has_rival.astype(float),
        "written": np.zeros(seen[i].answer.shape) + written,
    }


def _lead(arm: Strategy, seen: "Seen", voting: Sequence[str], level: "Floats") -> "dict[str, Floats]":
    """Return the lead of the stage's answer in its vote, unknown where the arm holds none."""
    import numpy as np

    votes = arm.name in voting and sum(arm.solutions.values()) > 1
    has_lead = ~np.isnan(seen.lead) & votes
    lead = np.where(has_lead, _log_odds(np.nan_to_num(seen.lead, nan=0.5)), 0.0)
    return {"lead": lead, "lead known": has_lead.astype(float), "lead by level": lead * level}


def _of_models(
    arms: Sequence[Strategy], seen: "Sequence[Seen]", i: int, level: "Floats", solution: "Mapping[str, Floats]"
) -> "dict[str, Floats]":
    """Return how many other stages of each model gave the stage's answer, how many another, and which model wrote it.

    solution  features of the solution, which mean another thing for each model
    """
    import numpy as np

    zero = np.zeros(seen[i].answer.shape)
    same = [(each.answer == seen[i].answer) & (each.answer >= 0) for each in seen]
    (writer,) = arms[i].models if len(arms[i].models) == 1 else (None,)
    found: dict[str, Floats] = {}
    for model in sorted({model for arm in arms for model in arm.models}, key=lambda name: name or ""):
        asked = [j for j, arm in enumerate(arms) if model in arm.models]
        agreeing = sum((same[j] for j in asked if j != i), start=zero)
        against = sum((~same[j] & (seen[j].answer >= 0) for j in asked), start=zero)
        whose = "" if model is None else f" of {model}"
        found |= {f"agreeing{whose}": agreeing, f"against{whose}": against}
        if model is not None:
            by = zero + (writer == model)
            found |= {f"written by {model}": by, f"written by {model}, by level": by * level}
            found |= {f"{name} of {model}": by * values for name, values in solution.items()}
            found |= {f"agreeing{whose}, by level": agreeing * level, f"against{whose}, by level": against * level}
    return found


def voting_of(arms: Sequence[Strategy]) -> tuple[str, ...]:
    """Return the names of those strategies whose votes are known wherever they are replayed."""
    return tuple(sorted({arm.name for arm in arms if isinstance(arm, Sampling)}))


def _log_odds(probability: Any) -> Any:
    import numpy as np

    bounded = np.clip(probability, _EDGE, 1 - _EDGE)
    return np.log(bounded / (1 - bounded))
