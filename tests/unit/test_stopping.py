"""Stopping early: the rule, the rounds, the bill, and an offline replay that does what the real strategy does."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count, pairwise
from math import comb

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.prompt import Prompt
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import load_task
from router.tuning.evidence import Point, evidence
from strategies import BestOfN, Candidate, Dvts, Extend, Majority, Result, Strategy, WeightedBestOfN, parse
from strategies.replaying.records import Pool, Recorded
from strategies.stopping import highest_score, keeps_lead, lead
from tests.support.searches import finished, named

both = pytest.mark.parametrize("name", ["majority", "weighted_best_of_n"])  # that vote
SURE = {"majority": 0.95, "weighted_best_of_n": 0.95, "best_of_n": 0.6}
each = pytest.mark.parametrize("name", SURE)
STOP = st.floats(0.5, 0.999999, exclude_min=True)
VOTES = st.floats(0, 300)
REQUEST = Request(Prompt.of("7 ="))


def engines_of(generator: FakeGenerator, verifier: FakeVerifier) -> Engines:
    return Engines({"small": generator}, "small", verifier)


def solved(answer: str | None, score: float | None = None) -> Candidate:
    return Candidate(steps=("x",), end="stop", answer=answer, scores=None if score is None else (score,))


# The rule


@given(st.integers(0, 200), st.integers(0, 200))
def test_whole_votes_are_a_coin_tossed(some, more):
    leader, runner_up = max(some, more), min(some, more)
    tosses = leader + runner_up + 1
    exact = sum(comb(tosses, heads) for heads in range(leader + 1)) / 2**tosses
    assert keeps_lead(leader, runner_up) == pytest.approx(exact, abs=1e-12)


@given(VOTES, VOTES, st.floats(0.01, 10))
def test_more_votes_for_the_leader_make_it_surer(some, more, extra):
    leader, runner_up = max(some, more), min(some, more)
    sure = keeps_lead(leader, runner_up)
    assert 0.5 - 1e-9 <= sure <= 1
    assert keeps_lead(leader + extra, runner_up) >= sure
    assert keeps_lead(leader + extra, runner_up + extra) <= sure + 1e-12  # the same lead of more votes


def test_fractions_of_votes_lie_between_whole_ones():
    assert keeps_lead(4, 1) < keeps_lead(4.5, 1) < keeps_lead(5, 1)
    assert keeps_lead(0.5, 0) == pytest.approx(1 - 0.5**1.5)  # a runner-up without votes: 1 - 0.5 ** (leader + 1)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([], 0.5),
        ([solved(None)] * 8, 0.5),  # no answer is no vote
        ([solved("1", 0.0)] * 8, 0.5),  # nor is a score of 0
        ([solved("1")] * 4, 1 - 0.5**5),
        ([solved("1"), solved("2"), solved("3")], 0.5),
        ([solved("1", 0.2)] * 4, 1 - 0.5**5),  # equal scores are one vote each, whatever their size
        ([solved("1", 0.9)] * 4, 1 - 0.5**5),
        ([solved("1", 0.9), solved("1")], 0.75),  # unscored ones have no say where others are scored
        ([solved("1", 1.0), *[solved("2", 0.0)] * 9], 0.75),  # one solution with all of the score is one vote
    ],
)
def test_lead(candidates, expected):
    assert lead(candidates) == pytest.approx(expected)


@given(st.lists(st.tuples(st.sampled_from("123"), st.floats(0.01, 1)), min_size=1, max_size=12), st.floats(0.1, 1))
def test_a_verifier_that_is_generous_by_habit_ends_nothing_earlier(votes, factor):
    assert lead([solved(a, s) for a, s in votes]) == pytest.approx(lead([solved(a, s * factor) for a, s in votes]))


@given(st.integers(1, 500), STOP)
def test_rounds_grow_from_the_first_that_could_end(n, stop):
    assert BestOfN(n=n, stop=stop).rounds()[0] == 1
    totals = Majority(n=n, stop=stop).rounds()
    assert totals[-1] == n
    assert all(now < later <= 2 * now for now, later in pairwise(totals))
    if len(totals) > 1:
        assert keeps_lead(totals[0], 0) >= stop
        assert totals[0] == 1 or keeps_lead(totals[0] - 1, 0) < stop


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([], 0),
        ([solved("1", 0.2), solved("2", 0.7)], 0.7),
        ([solved("1", 0.2), solved(None, 0.9)], 0.2),  # without an answer it is no solution
        ([solved("1", 0.2), replace(solved("1", 0.9), end="cut")], 0.2),
        ([solved("1")], 0),
    ],
)
def test_promise(candidates, expected):
    assert highest_score(candidates) == expected


# The search


def play(arm: Strategy, pool: Iterable[Candidate]) -> tuple[list[int], Result]:
    """Run an arm whose n-th sample is ``pool[n]``; how many candidates each request had, and the result."""
    search, samples, sizes = arm.search(), iter(pool), []
    request = next(search)
    while True:
        sizes.append(len(request.candidates))
        if isinstance(request, Extend):
            assert set(request.candidates) == {Candidate()}
            judged = [next(samples) for _ in request.candidates]
            reply = [replace(candidate, scores=None) for candidate in judged]
        else:
            assert [replace(candidate, scores=None) for candidate in judged] == list(
                request.candidates
            )  # each is scored once
            reply = judged
        try:
            request = search.send(reply)
        except StopIteration as done:
            return sizes, done.value


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [
        ("1111" + "2" * 12, [4]),
        ("1112" + "1111" + "2" * 8, [4, 4]),
        ("1212" * 4, [4, 4, 8]),
        ("1.1." * 4, [4, 4]),  # four votes only after eight samples
        ("." * 16, [4, 4, 8]),
    ],
)
def test_a_vote_goes_on_until_it_is_clear(answers, sizes):
    pool = [solved(None if answer == "." else answer, 0.7) for answer in answers]
    asked, result = play(Majority(n=16, stop=0.95), pool)
    assert asked == sizes
    assert [candidate.answer for candidate in result.candidates] == [
        candidate.answer for candidate in pool[: sum(sizes)]
    ]
    asked, result = play(WeightedBestOfN(n=16, stop=0.95), pool)
    assert asked == [size for size in sizes for _ in ("written", "scored")]
    assert list(result.candidates) == pool[: sum(sizes)]


def test_scores_decide_when_a_weighted_vote_is_clear():
    doubtful = [solved("1", 0.9), solved("2", 0.1), solved("1", 0.9), solved("1", 0.9)]
    weighted, _ = play(WeightedBestOfN(n=8, stop=0.85), doubtful * 2)
    majority, _ = play(Majority(n=8, stop=0.85), doubtful * 2)
    assert (weighted, majority) == ([2, 2, 2, 2], [2, 2, 4])


def test_best_of_n_goes_on_until_the_verifier_is_sure():
    pool = [solved("1", 0.3), solved("2", 0.5), solved("1", 0.59), solved("3", 0.7), *[solved("2", 0.9)] * 12]
    asked, result = play(BestOfN(n=16, stop=0.6), pool)
    assert (asked, result.answer) == ([1, 1, 1, 1, 2, 2], "3")
    assert sum(play(BestOfN(n=16, stop=0.95), pool)[0][::2]) == 16


@pytest.mark.parametrize(("right", "trees"), [(1, 1), (2, 2), (3, 4), (8, 8), (9, 8)])
async def test_dvts_grows_trees_until_one_has_a_right_solution(right, trees):
    """The ``right``-th tree is the first with a solution that the verifier believes."""
    begun = count()
    grown = []

    def write(prompt, candidate, rng):
        grown.append(next(begun))
        return f"Answer: {grown[-1] // 4 + 1}"

    engines = engines_of(
        FakeGenerator(write=write),
        FakeVerifier(judge=lambda prompt, steps: [0.9 if steps[-1].startswith(f"Answer: {right}") else 0.1]),
    )
    bill = Bill()
    arm = Dvts(n=32, m=4, stop=0.6)
    _, result, _ = await finished(drive(arm, REQUEST, engines, load_task("math"), bill))
    assert len(grown) == 4 * trees
    assert bill.generated_tokens == 4 * trees * len("Answer: 1.")
    assert result.answer == str(right if right <= 8 else 1)


# The bill


def one(answers: Sequence[str]):
    """A model whose i-th sample states ``answers[i]``."""
    numbers = count()
    return lambda prompt, candidate, rng: f"Answer: {answers[next(numbers)]}"


@both
@pytest.mark.parametrize(("answers", "drawn", "asked"), [("7" * 32, 4, 1), ("73" * 16, 32, 4)])
async def test_the_bill_is_what_was_drawn(name, answers, drawn, asked):
    generator = FakeGenerator(write=one(answers))
    verifier = FakeVerifier(judge=lambda prompt, steps: [0.6] * len(steps))
    bill = Bill()
    _, result, _ = await finished(
        drive(named(name, n=32, stop=0.95), REQUEST, engines_of(generator, verifier), load_task("math"), bill)
    )
    assert (result.answer, len(result.candidates)) == ("7", drawn)
    assert bill.generated_tokens == generator.counted.generated_tokens == drawn * len("Answer: 7.")
    assert bill.scored_tokens == verifier.counted.scored_tokens
    assert generator.counted.calls == asked
    assert verifier.counted.calls == (asked if name == "weighted_best_of_n" else 0)


# The replay


def random_pool(seed: int, size: int = 16):
    """Answers mostly agree or mostly don't, some are missing, some unscored; scores are coarse, so that many tie."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, size, p=rng.dirichlet([4, 1, 1, 0.5]))
    answers = [None if kind == 3 else str(kind) for kind in kinds]
    scores = np.where(rng.random(size) < 0.3, np.nan, rng.integers(0, 4, size) / 4)
    return answers, scores, np.array([float(answer == "1") for answer in answers])


def run_each(arm: Strategy, answers, scores, order) -> list[Result]:
    pool = [solved(answer, None if np.isnan(score) else score) for answer, score in zip(answers, scores, strict=True)]
    return [play(arm, [pool[i] for i in drawn])[1] for drawn in order]


def recorded(answers, scores, correct, order) -> Recorded:
    """Attempts of one token each, so that what a run generates is what it drew."""
    one = np.ones(len(answers))
    pool = Pool(list(answers), np.asarray(correct, float), np.asarray(scores, float), one, one, 0 * one, order)
    return Recorded({None: pool}, {})


@each
@pytest.mark.parametrize("stop", [0.6, 0.75, 0.8, 0.95, 0.96875])  # the last is exactly a unanimous vote of four
@pytest.mark.parametrize("seed", range(8))
def test_the_replay_stops_where_the_real_strategy_does(name, stop, seed):
    answers, scores, correct = random_pool(seed)
    order = np.random.default_rng(seed).random((60, 16)).argsort(axis=1)
    arm = named(name, n=16, stop=stop)
    runs = arm.replay(recorded(answers, scores, correct, order))
    results = run_each(arm, answers, scores, order)
    assert runs.generated_tokens[None].tolist() == [len(result.candidates) for result in results]
    assert runs.correct.tolist() == [result.answer == "1" for result in results]


def test_the_replay_agrees_where_rounding_decides():
    stop = keeps_lead(10, 6)  # numerical libraries give a little less
    answers = "12" * 6 + "1111" + "12" * 8
    arm = Majority(n=32, stop=stop)
    runs = arm.replay(recorded(answers, [np.nan] * 32, [0] * 32, np.arange(32)[None, :]))
    assert runs.generated_tokens[None].tolist() == [16] == [sum(play(arm, map(solved, answers))[0])]


def points_of(answers, scores, correct, generated, *, budgets, draws=200) -> dict[Strategy, Point]:
    rows = [
        {"prompt_id": "a", "arm": "sample", "answer": answer, "correct": bool(right), "prompt_tokens": 10}
        | {"scores": None if np.isnan(score) else [score], "generated_tokens": tokens, "scored_tokens": tokens - 1}
        for answer, score, right, tokens in zip(answers, scores, correct, generated, strict=True)
    ]
    frame = pd.DataFrame(rows).astype({"correct": "boolean"})
    return evidence(frame, budgets, reference="small", draws=draws)["a"]


@each
def test_the_replay_pays_for_what_each_run_drew(name):
    answers, scores, correct = random_pool(3)
    generated = np.arange(16) ** 2 + 1  # long ones are rare
    order = np.random.default_rng(0).random((50, 16)).argsort(axis=1)
    arm = named(name, n=16, stop=SURE[name])
    found = points_of(answers, scores, correct, generated, budgets=[16], draws=50)[arm]
    results = run_each(arm, answers, scores, order)
    drawn = [run[: len(result.candidates)] for run, result in zip(order, results, strict=True)]
    assert len({len(each) for each in drawn}) > 1
    read = [10 + (generated - 1)[each].sum() for each in drawn]
    assert found.generated_tokens == {"small": pytest.approx(np.mean([generated[each].sum() for each in drawn]))}
    assert found.scored_tokens == (0 if name == "majority" else pytest.approx(np.mean(read)))
    assert found.accuracy == np.mean([result.answer == "1" for result in results])
    assert found.prompt_tokens == {"small": 10}


@both
@pytest.mark.parametrize(("answers", "samples"), [("1" * 16, 4), ("0123456789abcdef", 16)])
def test_unanimous_prompts_stop_at_once_and_split_ones_spend_all(name, answers, samples):
    points = points_of(answers, [0.5] * 16, [a == "1" for a in answers], [20] * 16, budgets=[1, 4, 8, 16])
    found = points[named(name, n=16, stop=0.95)]
    assert found.generated_tokens == {"small": 20 * samples}
    assert found.scored_tokens == (10 + 19 * samples if name == "weighted_best_of_n" else 0)


def test_best_of_n_is_replayed_with_a_stop_at_small_budgets_too():
    points = points_of("12" * 8, [0.7, 0.1] * 8, [True, False] * 8, [20] * 16, budgets=[1, 2, 4])
    found = [points[BestOfN(n=n, stop=0.6)] for n in (2, 4)]
    assert [point.accuracy for point in found] == [points[BestOfN(n=n)].accuracy for n in (2, 4)]
    spent = [point.generated_tokens["small"] / 20 for point in found]
    assert 1 < spent[0] < spent[1] < 2.5


def test_budgets_of_eight_and_more_are_replayed_with_a_stop():
    points = points_of("1" * 16, [np.nan] * 16, [True] * 16, [20] * 16, budgets=[1, 4, 8, 16])
    assert [str(arm) for arm in points if arm.parameters["stop"]] == [
        f"majority(n={n}, stop={stop})" for n in (8, 16) for stop in (0.8, 0.95)
    ]


def test_one_sample_leaves_nothing_to_select():
    points = points_of("1" * 16, [0.5] * 16, [True] * 16, [20] * 16, budgets=[1, 2])
    assert parse("majority(n=1)") in points
    assert not {parse("best_of_n(n=1)"), parse("weighted_best_of_n(n=1)")} & set(points)
