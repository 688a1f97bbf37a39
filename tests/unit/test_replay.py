"""What runs would have given, by arrays: the same, to the bit, as driving each strategy's own search."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import STRATEGIES, Sampling, parse
from strategies.replaying.records import Pool, Recorded, Runs, code_of
from strategies.replaying.samples import by_search

SAMPLING = {name: strategy for name, strategy in STRATEGIES.items() if issubclass(strategy, Sampling)}
STOPS = st.sampled_from([0.0, 0.6, 0.75, 0.8, 0.9, 0.95, 0.96875]) | st.floats(0.5, 0.999, exclude_min=True)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Few different answers and coarse scores, so that many tie; some have no answer, some no score."""
    size = draw(st.integers(1, 12))

    def each(values: st.SearchStrategy) -> list:
        return draw(st.lists(values, min_size=size, max_size=size))

    scores = each(st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.9, 1.0, np.nan]))
    prompt, generated, scored = (np.array(each(st.integers(0, 50)), dtype=float) for _ in range(3))
    runs = draw(st.integers(1, 12))
    order = np.random.default_rng(draw(st.integers(0, 2**16))).random((runs, size)).argsort(axis=1)
    return Pool(
        each(st.sampled_from(["1", "2", "3", None][: draw(st.integers(1, 4))])),
        np.array(each(st.sampled_from([0.0, 1.0]))),  # also where equal answers are recorded as right and wrong
        np.array(scores) if draw(st.booleans()) else np.full(size, draw(st.sampled_from([np.nan, 0.5]))),
        prompt,
        generated,
        scored,
        order,
    )


def assert_same(found: Runs | None, expected: Runs | None) -> None:
    if found is None or expected is None:
        assert found is expected
        return
    for name in ("correct", "scored_tokens", "check_tokens"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for name in ("answer", "score"):
        assert np.array_equal(getattr(found.seen, name), getattr(expected.seen, name), equal_nan=True), name
    assert found.seen.lead == pytest.approx(expected.seen.lead, abs=1e-9, nan_ok=True)
    for name in ("prompt_tokens", "generated_tokens"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[model], theirs[model]) for model in mine), name


@pytest.mark.parametrize("name", SAMPLING)
@given(pool=pools(), n=st.integers(1, 12), stop=STOPS, staged=st.booleans(), model=st.sampled_from([None, "large"]))
def test_every_replay_equals_the_search(*, name, pool, n, stop, staged, model):
    arm = SAMPLING[name](n=n, stop=stop, model=model)
    recorded = Recorded({model: pool}, {}, staged=staged)
    assert_same(arm.replay(recorded), by_search(arm, recorded))


def pool(answers: str, scores: list[float] | None = None, runs: int = 4) -> Pool:
    """``answers``: a character each, "." for none; "1" is right. A sample reads 5 tokens and writes 10."""
    size = len(answers)
    return Pool(
        [None if answer == "." else answer for answer in answers],
        np.array([float(answer == "1") for answer in answers]),
        np.full(size, np.nan) if scores is None else np.array(scores),
        np.full(size, 5.0),
        np.full(size, 10.0),
        np.full(size, 9.0 if scores else 0.0),
        np.random.default_rng(0).random((runs, size)).argsort(axis=1),
    )


@pytest.mark.parametrize("name", ["majority", "weighted_best_of_n"])
def test_a_tie_goes_to_the_answer_that_came_first(name):
    """Also where another one had its last vote before."""
    in_turn = replace(pool("2112.", [0.5] * 5), order=np.array([[0, 1, 2, 3, 4], [1, 0, 3, 2, 4], [4, 3, 2, 1, 0]]))
    assert SAMPLING[name](n=5).replay(Recorded({None: in_turn}, {})).correct.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", SAMPLING)
def test_a_pool_that_is_too_small_or_of_another_model_says_nothing(name):
    arm = SAMPLING[name](n=3)
    assert arm.replay(Recorded({None: pool("11", [0.5, 0.5])}, {})) is None
    assert arm.replay(Recorded({"large": pool("111", [0.5] * 3)}, {})) is None
    assert replace(arm, model="large").replay(Recorded({"large": pool("111", [0.5] * 3)}, {})) is not None


@pytest.mark.parametrize("name", SAMPLING)
def test_what_was_run_stands_where_no_pool_does(name):
    arm = SAMPLING[name](n=3)
    run = SAMPLING[name](n=1).replay(Recorded({None: pool("1", [0.5])}, {}))
    assert run is not None
    assert arm.replay(Recorded({}, {str(arm): run})) is run


def test_arms_that_choose_by_scores_need_some():
    recorded = Recorded({None: pool("1111")}, {})
    assert parse("majority(n=2)").replay(recorded) is not None
    assert parse("best_of_n(n=2)").replay(recorded) is None
    assert parse("weighted_best_of_n(n=2)").replay(recorded) is None


@pytest.mark.parametrize("text", ["single", "beam_search(n=4, m=2)", "revision(n=4, chains=2)"])
def test_other_arms_are_known_only_from_their_runs(text):
    arm, runs = parse(text), parse("majority(n=1)").replay(Recorded({None: pool("12")}, {}))
    assert runs is not None
    assert arm.replay(Recorded({None: pool("1111")}, {})) is None
    assert arm.replay(Recorded({None: pool("1111")}, {text: runs})) is runs


def test_runs_show_what_their_answers_can_be_believed_by():
    scored = parse("majority(n=2)").replay(Recorded({None: pool("11.", [0.3, 0.3, 0.9])}, {}))
    assert set(scored.seen.score) == {0.3}
    assert set(scored.check_tokens) == {5.0 + 9.0}  # to have the answer scored, the verifier reads it and the prompt
    unscored = parse("majority(n=2)").replay(Recorded({None: pool("11")}, {}, staged=True))
    assert np.isnan(unscored.seen.score).all()
    assert unscored.seen.lead == pytest.approx([0.875] * 4)
    assert set(unscored.seen.answer) == {code_of("1")}
    none = parse("majority(n=2)").replay(Recorded({None: pool("...")}, {}))
    assert (none.seen.answer.tolist(), none.answered.any(), none.correct.any()) == ([-1] * 4, False, False)
    sure = parse("best_of_n(n=2)").replay(Recorded({None: pool("12", [0.3, 0.9])}, {}))
    assert (set(sure.seen.score), set(sure.check_tokens), set(sure.scored_tokens)) == ({0.9}, {0}, {5.0 + 2 * 9.0})


def test_runs_show_length_and_probability_of_the_solution_that_is_returned():
    drawn = replace(pool("121"), log_probs=np.array([-0.1, -0.2, -0.3]), lengths=np.array([10.0, 20.0, 30.0]))
    seen = parse("majority(n=3)").replay(Recorded({None: drawn}, {})).seen
    first_right = [next(i for i in order if drawn.answers[i] == "1") for order in drawn.order]
    assert seen.log_prob.tolist() == drawn.log_probs[first_right].tolist()
    assert seen.length.tolist() == drawn.lengths[first_right].tolist()
    none = replace(pool("..."), log_probs=drawn.log_probs, lengths=drawn.lengths)
    assert np.isnan(parse("majority(n=3)").replay(Recorded({None: none}, {})).seen.length).all()


def test_equal_answers_have_equal_codes_and_none_is_below_all():
    assert code_of("1") == code_of("1") != code_of("2")
    assert code_of("1") >= 0 > code_of(None)
