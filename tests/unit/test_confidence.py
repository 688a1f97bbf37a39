"""The confidence model: what it knows of an answer, one call beside many runs, and as a file."""

import numpy as np
import pytest

from router.errors import InvalidBundle
from router.policy.confidence import Confidence, features, voting_of
from router.tuning.calibration import calibration
from router.tuning.confidence import FEWEST, Path, fit
from strategies import Believe, Candidate, Result, Stage, parse
from strategies.records import Seen, code_of

LEVELS = np.array([[0.1, 0.2, 0.4, 0.2, 0.1]])


def stage(arm: str, answer: str | None, score: float | None = None, votes: str = "") -> Stage:
    """``votes``: a character an answer of an unscored candidate."""
    scores = None if score is None else (score,)
    best = None if answer is None else Candidate(steps=(answer,), end="stop", answer=answer, scores=scores)
    written = tuple(Candidate(steps=(vote,), end="stop", answer=vote) for vote in votes)
    return Stage(parse(arm), Result(best, candidates=written or ((best,) if best else ())))


def seen(answer: str | None, score: float = np.nan, lead: float = np.nan) -> Seen:
    return Seen(np.array([code_of(answer)]), np.array([score]), np.array([lead]))


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


def test_one_call_is_told_what_many_runs_are():
    weights = {"score": 1.0, "rival's score": -0.5, "lead": 0.7, "level 5": -2.0, "against": -0.3, "written": 0.1}
    model = Confidence(weights, -0.4, ("majority",))
    stages = (stage("majority(n=4)", "1", 0.8, votes="1112"), stage("beam_search(n=4, m=4)", "2", 0.3))
    one = model.of(LEVELS[0].tolist(), Believe(stages))
    shown = [seen("1", 0.8, 0.8125), seen("2", 0.3)]
    thrice = [Seen(np.repeat(each.answer, 3), np.repeat(each.score, 3), np.repeat(each.lead, 3)) for each in shown]
    many = model.of_many(np.repeat(LEVELS, 3, axis=0), [each.arm for each in stages], thrice)
    assert [array.tolist() for array in many] == [pytest.approx([sure] * 3) for sure in one]


def test_no_answer_is_never_right():
    assert Confidence({}, 3.0).of([0.2] * 5, Believe((stage("single", None),))) == [0.0]


def test_a_model_survives_its_file_and_a_wrong_file_is_refused():
    model = Confidence({"score": 0.5, "level 1": -1.25}, 0.1, ("majority",))
    assert Confidence.loads(model.dumps()) == model
    for text in ('{"bias": 0, "weights": {"score": "much"}}', '{"bias": 0}', '{"bias": 0, "weights": {}, "x": 1}', "{"):
        with pytest.raises(InvalidBundle, match="confidence"):
            Confidence.loads(text)


def test_it_learns_to_tell_right_from_wrong_without_the_prompt_it_judges():
    rng = np.random.default_rng(0)
    right = (rng.random((200, 1)) < 0.5).astype(float)
    score = np.clip(0.5 + 0.3 * (right - 0.5) + rng.normal(0, 0.1, right.shape), 0, 1)
    arms = (parse("beam_search(n=4, m=4)"),)
    path = Path(arms, (Seen(right.astype(np.int64), score, np.full(right.shape, np.nan)),), (right,))
    found = fit([path], np.full((200, 5), 0.2), np.ones(200, dtype=np.int64), seed=0)
    assert found is not None
    (sure,) = found(arms, path.seen, last=True)
    assert (calibration(sure[:, 0], right[:, 0]).auc or 0.0) > 0.8
    other = fit([path], np.full((200, 5), 0.2), np.ones(200, dtype=np.int64), seed=1)
    assert other is not None
    assert other.whole == found.whole


def test_too_few_prompts_make_no_model():
    few = np.zeros((FEWEST - 1, 1))
    path = Path((parse("single"),), (Seen(few.astype(np.int64), few, few),), (few,))
    assert fit([path], np.full((FEWEST - 1, 5), 0.2), np.ones(FEWEST - 1, dtype=np.int64), seed=0) is None


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
