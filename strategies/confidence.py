"""Which stage's answer a cascade returns, and how confident it is where the bundle has no confidence model."""

from collections.abc import Sequence

from strategies.requests import AskConfidence
from strategies.stopping import lead


def by_score_or_lead(wanted: AskConfidence) -> list[float | None]:
    """Return the confidence in each stage's answer for a bundle without a confidence model; 0 where there is no answer.

    The confidence is the verifier's calibrated score of the solution. Where nothing scores, it is the probability that
    the leading answer keeps its lead. It is None (unknown) for an unscored answer of the cascade's last stage: that
    answer is not scored only to learn this, and the last stage is asked because it is trusted more than the others.
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


def most_confident(confidences: Sequence[float | None], answered: Sequence[bool]) -> int:
    """Return the index of the stage whose answer is returned: the most confident one, the earliest of equals.

    confidences  in each stage's answer; None where it is unknown
    answered  whether each stage has an answer

    If the last stage has an answer of unknown confidence, that answer is returned.
    """
    if answered[-1] and confidences[-1] is None:
        return len(confidences) - 1
    return max(range(len(confidences)), key=lambda i: (answered[i], confidences[i] or 0.0, -i))
