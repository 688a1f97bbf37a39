"""Which of several stages' answers to believe, and how much where no model of that was fitted."""

from collections.abc import Sequence

from strategies.requests import Believe
from strategies.stopping import lead


def by_score_or_lead(wanted: Believe) -> list[float | None]:
    """How likely the answer of each stage is right where nothing better is known.

    The verifier's calibrated score of the solution; where nothing scores, the probability that the leading answer keeps
    its lead. Of the last stage of a cascade, which is not scored to find that out, nobody can say: it was asked because
    it is believed more than the others.
    """
    found: list[float | None] = []
    for stage in wanted.stages:
        best = stage.result.best
        if best is None:
            found.append(0.0)
        elif best.score is not None:
            found.append(best.score)
        else:
            ends = wanted.threshold is None and len(wanted.stages) > 1 and stage is wanted.stages[-1]
            found.append(None if ends else lead(stage.result.candidates))
    return found


def most_believed(sure: Sequence[float | None], answered: Sequence[bool]) -> int:
    """Which stage's answer to return: the last one's where it has one and nobody can say how likely that is right, else
    the most confident one, the earliest of equals."""
    if answered[-1] and sure[-1] is None:
        return len(sure) - 1
    return max(range(len(sure)), key=lambda i: (answered[i], sure[i] or 0.0, -i))
