"""The chart of confidence over the rounds of a search, as points of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from router.solving.driver import Round
from router.solving.stages import StageEnd

WIDTH, HEIGHT = 480, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 10, 26


@dataclass(frozen=True, slots=True)
class Chart:
    """The parts of a chart, in pixels of a picture of WIDTH by HEIGHT.

    share       points of the leading answer's share, from the first answer on
    confidence  (x, y, value) at the end of each stage
    thresholds  (from x, to x, y, value) for each stage that may end the search
    stages      (x, number) at the begin of each stage
    rounds      (x, number) of the labels below
    grid        (y, label) of the horizontal lines
    """

    share: str
    confidence: Sequence[tuple[float, float, float]]
    thresholds: Sequence[tuple[float, float, float, float]]
    stages: Sequence[tuple[float, int]]
    rounds: Sequence[tuple[float, int]]
    grid: Sequence[tuple[float, str]]


def chart(rounds: Sequence[Round], ends: Sequence[StageEnd], last: float | None) -> Chart:
    """Return the chart. ``last``: confidence of the final answer; None where it is unknown, or the search goes on."""
    numbers = {each.number: i for i, each in enumerate(rounds)}
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(rounds) - 1)

    def x(i: float) -> float:
        return round(_LEFT + i * step, 1)

    bounds = [
        (numbers[own[0].number], numbers[own[-1].number], end)
        for end in ends
        if (own := [each for each in rounds if each.stage == end.number])
    ]
    confidence = [(x(until), _y(end.confidence), end.confidence) for _, until, end in bounds if end.confidence]
    if last is not None and rounds and not bounds:
        confidence.append((x(len(rounds) - 1), _y(last), last))
    begins = {each.stage: x(i) for i, each in reversed(list(enumerate(rounds)))}
    labels = range(0, len(rounds), max(1, -(-len(rounds) // 8)))
    return Chart(
        " ".join(f"{x(i)},{_y(each.share)}" for i, each in enumerate(rounds) if each.answer is not None),
        confidence,
        [(x(since), x(until), _y(end.threshold), end.threshold) for since, until, end in bounds if end.threshold],
        sorted((at, number) for number, at in begins.items()) if len(begins) > 1 else [],
        [(x(i), rounds[i].number) for i in labels],
        [(_y(value), f"{value:g}") for value in (0, 0.5, 1)],
    )


def _y(value: float) -> float:
    return round(_TOP + (1 - value) * (HEIGHT - _TOP - _BOTTOM), 1)
