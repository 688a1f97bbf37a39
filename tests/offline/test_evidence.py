"""What was measured of each arm on each prompt: replayed from pools, by model, in solutions and in money."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from router.backends.specs import Setup, VerifierSpec
from router.errors import InvalidFile
from router.tuning.evidence import Measured, evidence, measure
from strategies import STRATEGIES, Candidate, Sampling, parse
from strategies.replaying.records import Pool, Recorded
from tests.support.attempts import SETUP, SMALL, frame, row
from tests.support.searches import named

SAMPLING = [name for name, strategy in STRATEGIES.items() if issubclass(strategy, Sampling)]


def test_generations_are_what_was_really_spent():
    """An arm that stops early spends less than its budget, in units of the prompt's own samples."""
    rows = [row("a", i, tokens=(10, 20, 0)) for i in range(4)] + [row("b", i, tokens=(10, 50, 0)) for i in range(4)]
    rows += [row(prompt, arm="beam_search(n=4, m=4)", tokens=(10, 50, 0)) for prompt in "ab"]
    measured = measure(frame(rows), pd.Index(["a", "b"]), [1, 4], SETUP)
    assert column(measured, "majority(n=4)", measured.generations) == [4, 4]
    assert column(measured, "beam_search(n=4, m=4)", measured.generations) == [2.5, 1]


def test_seconds_are_those_of_the_pool_and_of_the_run_and_a_level_has_their_mean():
    rows = [{**row(prompt, i), "seconds": at} for prompt, at in (("a", 2.0), ("b", 4.0)) for i in range(4)]
    rows += [{**row(prompt, arm="beam_search(n=4, m=4)"), "seconds": 9.0} for prompt in "ab"]
    measured = measure(frame(rows), pd.Index(["a", "b"]), [1, 4], SETUP)
    assert column(measured, "majority(n=4)", measured.seconds) == [2, 4]
    costs = dict(zip(map(str, measured.arms), measured.costs(np.array([0.5, 0.5])), strict=True))
    assert (costs["majority(n=4)"].seconds, costs["beam_search(n=4, m=4)"].seconds) == (3, 9)


def test_without_recorded_seconds_costs_have_none():
    rows = [row(prompt, i) for prompt in "ab" for i in range(4)]
    measured = measure(frame(rows), pd.Index(["a", "b"]), [1, 4], SETUP)
    assert {cost.seconds for cost in measured.costs(np.array([0.5, 0.5]))} == {None}


def column(measured: Measured, arm: str, values: np.ndarray) -> list[float]:
    return values[:, measured.arms.index(parse(arm))].tolist()


def points(rows, budgets, **options):
    """The evidence on prompt "a"."""
    return evidence(frame(rows), budgets, reference="small", **options)["a"]


def test_a_verifier_that_reads_nothing_reads_no_prompt_either():
    found = points([row("a", i, tokens=(10, 20, 0)) for i in range(2)], [2])
    assert found[parse("best_of_n(n=2)")].scored_tokens == 0


def candidates(answers, scores):
    return [
        Candidate(steps=("x",), end="stop", answer=answer, scores=None if np.isnan(score) else (score,))
        for answer, score in zip(answers, scores, strict=True)
    ]


def random_pool(seed, size):
    rng = np.random.default_rng(seed)
    answers = [None if kind == 3 else str(kind) for kind in rng.integers(0, 4, size)]
    scores = np.where(rng.random(size) < 0.3, np.nan, rng.integers(0, 4, size) / 4)  # coarse: many ties
    return answers, scores, np.array([float(answer == "1") for answer in answers])


def choose(name, answers, scores):
    return named(name, n=len(answers)).choose(candidates(answers, scores)).answer


@pytest.mark.parametrize("name", SAMPLING)
@pytest.mark.parametrize("seed", range(20))
def test_replay_picks_what_the_real_selection_picks(name, seed):
    answers, scores, correct = random_pool(seed, 6)
    n = 1 + seed % 6
    order = np.random.default_rng(seed).random((50, 6)).argsort(axis=1)
    drawn = order[:, :n] if n > 1 else np.arange(6)[:, None]  # of one sample each is replayed once
    zero = np.zeros(6)
    runs = named(name, n=n).replay(
        Recorded({None: Pool(answers, correct, scores, zero, zero, zero, order)}, {}, verified=True)
    )
    expected = [choose(name, [answers[i] for i in run], scores[run]) == "1" for run in drawn]
    assert runs.correct.tolist() == expected


@pytest.mark.parametrize("name", SAMPLING)
def test_subsampled_expectation_agrees_with_exact_enumeration(name):
    answers, scores, correct = random_pool(9, 6)
    exact = [
        choose(name, [answers[i] for i in drawn], scores[list(drawn)]) == "1" for drawn in permutations(range(6), 3)
    ]
    rows = [
        row("a", i, answer=answer, correct=bool(right), score=None if np.isnan(score) else score)
        for i, (answer, right, score) in enumerate(zip(answers, correct, scores, strict=True))
    ]
    found = points(rows, [3], draws=20_000)
    assert 0.1 < np.mean(exact) < 0.9
    assert found[named(name, n=3)].accuracy == pytest.approx(np.mean(exact), abs=0.015)


def test_one_sample_is_measured_exactly():
    found = points([row("a", i, correct=i == 0) for i in range(7)], [1, 2])
    assert found[parse("majority(n=1)")].accuracy == pytest.approx(1 / 7)


def test_arms_without_evidence_are_not_measured():
    rows = [row("a", i, score=None) for i in range(3)] + [row("a", arm="single", correct=False)]
    assert [str(arm) for arm in points(rows, [1, 2, 4])] == ["majority(n=1)", "majority(n=2)", "single"]


# Several models

LARGE = replace(SMALL, parameters=1000)
PRICED = Setup(
    "tiny",
    "small",
    {
        "small": replace(SMALL, input_price=1.0, output_price=2.0),
        "large": replace(LARGE, input_price=10.0, output_price=6.0),
    },
    VerifierSpec("prm", None, 10, input_price=0.5),
)
BOTH = replace(PRICED, models={"small": SMALL, "large": LARGE})


def two_pools():
    rows = [row(prompt, i, correct=i > 1, answer=str(i > 1)) for prompt in "ab" for i in range(4)]
    rows += [row(p, i, arm="sample(model=large)", tokens=(8, 10, 12)) for p in "ab" for i in range(4)]
    return rows + [row(prompt, arm="single(model=large)", tokens=(8, 10, 0)) for prompt in "ab"]


def test_each_models_pool_is_replayed_and_its_solutions_count_what_they_are_worth():
    measured = measure(frame(two_pools()), pd.Index(["a", "b"]), [1, 2], BOTH)
    assert BOTH.worth == {"small": 1, "large": 10}
    for arm, generations, budget in [
        ("majority(n=2)", 2, 2),
        ("majority(n=2, model=large)", 2 * 10 * 10 / 20, 20),
        ("single(model=large)", 10 * 10 / 20, 10),
    ]:
        assert column(measured, arm, measured.generations) == [generations] * 2
        assert measured.budgets[measured.arms.index(parse(arm))] == budget
    assert column(measured, "majority(n=2, model=large)", measured.accuracy) == [1, 1]
    read = 8 + 2 * 12
    flops = 2 * (1000 * (8 + 2 * 10) + 10 * read)
    assert column(measured, "best_of_n(n=2, model=large)", measured.flops) == [flops] * 2


def test_money_counts_where_models_have_prices():
    measured = measure(frame(two_pools()), pd.Index(["a", "b"]), [1, 2], PRICED)
    assert PRICED.worth == {"small": 1, "large": 3}
    costs = dict(zip(measured.arms, measured.costs(np.array([0.5, 0.5])), strict=True))
    assert costs[parse("majority(n=2)")].money == 10 * 1 + 2 * 20 * 2
    assert costs[parse("best_of_n(n=2, model=large)")].money == 8 * 10 + 2 * 10 * 6 + 0.5 * (8 + 2 * 12)
    unpriced = measure(frame(two_pools()), pd.Index(["a", "b"]), [1, 2], BOTH)
    assert {cost.money for cost in unpriced.costs(np.array([0.5, 0.5]))} == {None}


def test_a_model_that_the_setup_does_not_describe_is_refused():
    with pytest.raises(InvalidFile, match=r"'sample\(model=large\)'.*must describe the model 'large', it has small"):
        measure(frame(two_pools()), pd.Index(["a", "b"]), [1, 2], SETUP)
