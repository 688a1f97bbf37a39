"""A caller's average budget comes back to what was asked, whatever its prompts are like."""

import random

import pytest

from router.policy.keeping import LEAST, MEMORY, MOST, Ledger

ASKED = 8.0


def spent(hardness: list[float], *, parallel: int = 1, seed: int = 0) -> list[float]:
    """What calls spend whose prompts take ``hardness`` times what they are expected to: nothing, or twice as much."""
    rng = random.Random(seed)
    ledger, running, found = Ledger(ASKED), [], []
    for times in hardness:
        expected = ASKED * ledger.factor
        ledger.begin(expected)
        found.append(expected * times * rng.choice((0.1, 1.9)))
        running.append((expected, found[-1]))
        if len(running) == parallel:
            ledger.end(*running.pop(0))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("parallel", [1, 32])
@pytest.mark.parametrize("hardness", [0.8, 1.0, 1.15])
def test_the_mean_of_250_calls_is_within_5_percent(hardness, parallel):
    means = [mean(spent([hardness] * 250, parallel=parallel, seed=seed)) for seed in range(20)]
    assert mean(means) == pytest.approx(ASKED, rel=0.05)
    if parallel == 1:
        assert means == pytest.approx([ASKED] * 20, rel=0.05)


def test_a_mix_that_becomes_harder_is_made_up_for():
    calls = spent([0.7] * 300 + [1.8] * 300)
    assert mean(calls) == pytest.approx(ASKED, rel=0.05)
    assert mean(calls[400:]) == pytest.approx(ASKED, rel=0.1)


def test_nothing_is_corrected_before_anything_was_spent():
    assert Ledger(ASKED).factor == 1


def test_what_was_chosen_counts_before_its_bill_is_there():
    ledger = Ledger(ASKED)
    ledger.begin(5 * ASKED)
    assert ledger.factor < 1
    ledger.end(5 * ASKED, ASKED)
    assert ledger.factor == pytest.approx(1)


def test_a_call_that_spent_nothing_is_none():
    ledger = Ledger(ASKED)
    ledger.begin(ASKED / 2)
    ledger.end(ASKED / 2, 0)
    assert ledger.ahead == pytest.approx(0)


@pytest.mark.parametrize(("each", "factor"), [(100 * ASKED, LEAST), (0.01, MOST)])
def test_the_correction_and_what_is_remembered_are_bounded(each, factor):
    ledger = Ledger(ASKED)
    for _ in range(10_000):
        ledger.begin(each)
    assert (ledger.factor, abs(ledger.ahead)) == (factor, MEMORY)
