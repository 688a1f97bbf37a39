"""The confidence model: what it knows of an answer, one call beside many runs, and as a file."""

from dataclasses import replace

import numpy as np
import pytest

from router.errors import InvalidBundle
from router.policy.confidence import Confidence, Weights, features, has_length_and_log_prob, voting_of
from router.tuning.calibration import calibration
from router.tuning.confidence import FEWEST, ModelConfidence, Path, fit
from strategies import AskConfidence, Candidate, Result, Stage, parse
from strategies.replaying.records import Seen, code_of

MATH = np.array(["math"] * 200)
LEVELS = np.array([[0.1, 0.2, 0.4, 0.2, 0.1]])


def stage(arm: str, answer: str | None, score: float | None = None, votes: str = "") -> Stage:
    """``votes``: a character an answer of an unscored candidate."""
    scores = None if score is None else (score,)
    best = None if answer is None else Candidate(steps=(answer,), end="stop", answer=answer, scores=scores)
    written = tuple(Candidate(steps=(vote,), end="stop", answer=vote) for vote in votes)
    return Stage(parse(arm), Result(best, candidates=written or ((best,) if best else ())))


def seen(answer: str | None, score: float = np.nan, lead: float = np.nan) -> Seen:
    return Seen.of(np.array([code_of(answer)]), np.array([score]), np.array([lead]))


def test_it_knows_scores_rivals_votes_and_who_agrees():
    arms = [parse("best_of_n(n=2)"), parse("majority(n=4)"), parse("single(model=large)")]
    shown = [seen("1", 0.9), seen("2", 0.5, 0.8), seen("1")]
    found = {
        name: float(np.ravel(values)[0]) for name, values in features(LEVELS, arms, shown, 0, ["majority"]).items()
    }
    assert found["score"] == pytest.approx(np.log(9))
    assert (found["score known"], found["rival's score"], found["rival's score known"]) == (1, 0, 1)
    assert (found["against"], found["agreeing of large"], found["against of large"]) == (1, 1, 0)
    assert found["written"] == pytest.approx(np.log2(7))
    assert found["lead known"] == 0  # best_of_n is none of the strategies whose votes were learned from
    second = features(LEVELS, arms, shown, 1, ["majority"])
    assert (second["lead"][0], second["lead known"][0]) == (pytest.approx(np.log(4)), 1)
    last = features(LEVELS, arms, shown, 2, ["majority"])
    assert last["written by large"][0] == 1
    assert last["score"][0] == pytest.approx(np.log(9))  # that of the solution that it agrees with


def test_it_knows_how_long_a_solution_is_and_how_probable_to_its_writer():
    arms = [parse("single"), parse("single(model=large)")]
    one, none = np.array([1]), np.array([np.nan])
    shown = [Seen.of(one, none, log_prob=np.array([-0.25]), length=np.array([255.0])), Seen.of(one, none)]
    first = features(LEVELS, arms, shown, 0, [])
    assert (first["log-probability"][0], first["length"][0], first["length of large"][0]) == (-0.25, 8, 0)
    assert [has_length_and_log_prob(each).tolist() for each in shown] == [[True], [False]]
    written = features(LEVELS, arms, shown[::-1], 1, [])
    assert (written["log-probability of large"][0], written["length of large"][0]) == (-0.25, 8)


def test_one_call_is_told_what_many_runs_are():
    weights = {"score": 1.0, "rival's score": -0.5, "lead": 0.7, "level 5": -2.0, "against": -0.3, "written": 0.1}
    model = Confidence(weights, -0.4, ("majority",))
    stages = (stage("majority(n=4)", "1", 0.8, votes="1112"), stage("beam_search(n=4, m=4)", "2", 0.3))
    one = model.of(LEVELS[0].tolist(), AskConfidence(stages))
    shown = [seen("1", 0.8, 0.8125), seen("2", 0.3)]
    thrice = [each.at([0, 0, 0]) for each in shown]
    many = model.of_many(np.repeat(LEVELS, 3, axis=0), [each.arm for each in stages], thrice)
    assert [array.tolist() for array in many] == [pytest.approx([sure] * 3) for sure in one]


def test_one_call_is_told_of_lengths_and_probabilities_what_many_runs_are():
    model = Confidence({"length": 0.2, "log-probability": 2.0}, -0.4)
    best = Candidate(("ab\n", "cd"), end="stop", answer="1", log_probs=(-1.0, -0.5), token_counts=(2, 1))
    one = model.of(LEVELS[0].tolist(), AskConfidence((Stage(parse("single"), Result(best)),)))
    shown = Seen.of(np.array([1]), np.array([np.nan]), log_prob=np.array([-0.5]), length=np.array([5.0]))
    many = model.of_many(LEVELS, [parse("single")], [shown])
    assert one == pytest.approx(many[0].tolist())
    assert one[0] == pytest.approx(1 / (1 + np.exp(0.4 + 1.0 - 0.2 * np.log2(6))))


def test_a_solution_of_unknown_probability_is_believed_by_the_plain_weights():
    plain = Weights({"level 5": 1.0}, -2.0)
    model = Confidence({"log-probability": 49.0}, 9.0, plain=plain, tasks={"code": Weights({}, 5.0)})
    told, untold = (
        Stage(parse("single"), Result(Candidate(("1",), end="stop", answer="1", token_counts=(1,), log_probs=given)))
        for given in ((-0.3,), ())
    )
    levels = [0.0, 0.0, 0.0, 0.0, 1.0]
    assert model.of(levels, AskConfidence((told,))) == pytest.approx([1 / (1 + np.exp(49 * 0.3 - 9))])
    for each in (model, model.for_task("code")):
        assert each.of(levels, AskConfidence((untold,))) == pytest.approx([1 / (1 + np.exp(1.0))])
    assert (model.reads_log_probs, Confidence({}, 0.0).reads_log_probs) == (True, False)


def test_no_answer_is_never_right():
    assert Confidence({}, 3.0).of([0.2] * 5, AskConfidence((stage("single", None),))) == [0.0]


def test_a_model_survives_its_file_and_a_wrong_file_is_refused():
    model = Confidence({"score": 0.5, "level 1": -1.25}, 0.1, ("majority",))
    own = replace(
        model, tasks={"code": Weights({"score": 2.0}, -1.0), "my_tasks:IsoDate": Weights({"score": 0.0}, 0.5)}
    )
    own = replace(own, plain=Weights({}, 1.0))
    for each in (model, own):
        assert Confidence.loads(each.dumps()) == each
    for text in (
        '{"bias": 0, "weights": {}, "tasks": {"code": {"bias": 0}}}',
        '{"bias": 0, "weights": {"score": "much"}}',
        '{"bias": 0}',
        '{"bias": 0, "weights": {}, "x": 1}',
        "{",
    ):
        with pytest.raises(InvalidBundle, match="confidence"):
            Confidence.loads(text)


def test_it_learns_to_tell_right_from_wrong_without_the_prompt_it_judges():
    rng = np.random.default_rng(0)
    right = (rng.random((200, 1)) < 0.5).astype(float)
    score = np.clip(0.5 + 0.3 * (right - 0.5) + rng.normal(0, 0.1, right.shape), 0, 1)
    arms = (parse("beam_search(n=4, m=4)"),)
    path = Path(arms, (Seen.of(right.astype(np.int64), score),), (right,))
    found = fit([path], np.full((200, 5), 0.2), np.ones(200, dtype=np.int64), MATH, seed=0)
    assert found is not None
    (sure,) = found(arms, path.seen, last=True)
    assert (calibration(sure[:, 0], right[:, 0]).auc or 0.0) > 0.8
    other = fit([path], np.full((200, 5), 0.2), np.ones(200, dtype=np.int64), MATH, seed=1)
    assert other is not None
    assert other.whole == found.whole


def of_length(right, length, rng):
    """Unscored solutions of these lengths, whose log-probabilities say nothing."""
    return Seen.of(
        right.astype(np.int64), np.full(right.shape, np.nan), log_prob=-rng.random(right.shape), length=length
    )


def test_tasks_in_which_the_same_thing_means_the_opposite_get_weights_of_their_own():
    rng = np.random.default_rng(0)
    tasks = np.repeat(["code", "math"], 100)
    right = (rng.random((200, 1)) < 0.5).astype(float)
    longer = np.where(tasks[:, None] == "math", right, 1 - right)
    seen = Seen.of(
        right.astype(np.int64),
        np.full(right.shape, np.nan),
        log_prob=-rng.random((200, 1)),
        length=2 ** (6 + longer + rng.random((200, 1))),
    )
    path, levels = Path((parse("single"),), (seen,), (right,)), np.ones(200, dtype=np.int64)

    def fitted(apart):
        return fit([path], np.full((200, 5), 0.2), levels, tasks, apart=apart, seed=0)

    by_task, alike = fitted(["code", "math"]), fitted([])
    assert by_task.losses["by_task"] < by_task.losses["solution"] == alike.losses["solution"]
    assert (by_task.kept, alike.kept) == ("by_task", "plain")
    assert by_task.whole.for_task("code").weights["length"] < 0 < by_task.whole.for_task("math").weights["length"]
    assert by_task.whole.for_task("another") == by_task.whole
    assert not alike.whole.tasks
    (sure,) = by_task(path.arms, path.seen, last=True)
    assert (calibration(sure[:, 0], right[:, 0]).auc or 0.0) > 0.9
    (served,) = ModelConfidence(by_task.whole, np.full((200, 5), 0.2), tasks)(path.arms, path.seen, last=True)
    for i in (0, 150):
        own = by_task.whole.for_task(tasks[i])
        assert served[i] == pytest.approx(own.of_many(np.full((1, 5), 0.2), path.arms, [seen.at([i])])[0][0])


def test_prompts_whose_solutions_tell_too_little_are_judged_by_the_plain_model():
    rng = np.random.default_rng(0)
    right = (rng.random((200, 1)) < 0.5).astype(float)
    log_prob = np.where(np.arange(200)[:, None] < 120, 0.3 * right - 1 + 0.2 * rng.random((200, 1)), np.nan)
    seen = Seen.of(
        right.astype(np.int64), np.full(right.shape, np.nan), log_prob=log_prob, length=np.full((200, 1), 9.0)
    )
    path = Path((parse("single"),), (seen,), (right,))
    found = fit([path], np.full((200, 5), 0.2), np.ones(200, dtype=np.int64), MATH, seed=0)
    assert found
    assert found.kept == "solution"
    (sure,) = found(path.arms, path.seen, last=True)
    assert (calibration(sure[:120, 0], right[:120, 0]).auc or 0.0) > 0.9
    assert np.ptp(sure[120:]) < 0.2  # the plain model knows nothing here but the mean of its fold
    assert abs(sure[120:].mean() - right.mean()) < 0.1


def test_tasks_that_are_alike_share_their_weights():
    rng = np.random.default_rng(0)
    tasks = np.repeat(["code", "math"], 100)
    right = (rng.random((200, 1)) < 0.5).astype(float)
    seen = Seen.of(
        right.astype(np.int64),
        np.full(right.shape, np.nan),
        log_prob=-rng.random((200, 1)),
        length=2 ** (6 + right + rng.random((200, 1))),
    )
    path = Path((parse("single"),), (seen,), (right,))
    levels = np.ones(200, dtype=np.int64)
    found = fit([path], np.full((200, 5), 0.2), levels, tasks, apart=["code", "math"], seed=0)
    assert found.kept == "solution"
    assert found.whole.weights["length"] > 0
    assert not found.whole.tasks


def test_lengths_that_say_nothing_are_left_out():
    rng = np.random.default_rng(0)
    right = (rng.random((200, 1)) < 0.5).astype(float)
    score = np.clip(0.5 + 0.3 * (right - 0.5) + rng.normal(0, 0.1, right.shape), 0, 1)
    free = {"log_prob": -rng.random((200, 1)), "length": 2 ** (6 + rng.random((200, 1)))}
    seen = Seen.of(right.astype(np.int64), score, **free)
    path = Path((parse("beam_search(n=4, m=4)"),), (seen,), (right,))
    found = fit([path], np.full((200, 5), 0.2), np.ones(200, dtype=np.int64), MATH, seed=0)
    assert found.kept == "plain"
    assert "length" not in found.whole.weights


def test_too_few_prompts_make_no_model():
    few = np.zeros((FEWEST - 1, 1))
    path = Path((parse("single"),), (Seen.of(few.astype(np.int64), few),), (few,))
    assert (
        fit([path], np.full((FEWEST - 1, 5), 0.2), np.ones(FEWEST - 1, dtype=np.int64), MATH[1:FEWEST], seed=0) is None
    )


def test_a_calibrated_model_errs_no_more_than_chance_and_an_overconfident_one_more():
    rng = np.random.default_rng(0)
    sure = rng.random(1000)
    right = (rng.random(1000) < sure).astype(float)
    honest, boastful = calibration(sure, right), calibration(np.sqrt(sure), right)
    assert honest.error < honest.chance_high
    assert boastful.error > boastful.chance_high
    assert sum(each.count for each in honest.bins) == 1000
    assert all(each.low <= each.right <= each.high for each in honest.bins)


def test_votes_are_known_of_arms_that_sample():
    assert voting_of([parse("majority(n=4)"), parse("beam_search(n=4, m=4)"), parse("single")]) == ("majority",)
