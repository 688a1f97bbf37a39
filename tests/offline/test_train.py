from functools import cache

import numpy as np
import pandas as pd
import pytest

from router.bundle.bundle import load_bundle
from router.errors import InvalidBundle, InvalidFile
from router.policy.confidence import Confidence
from router.training.difficulty import prompt_statistics, read_training, save_training, train
from router.tuning.finish import finish_bundle, save_tuning
from router.tuning.tune import tune
from tests.support.attempts import SETUP, frame, pools, row


@cache
def trained_on_pools():
    return train(pools(), folds=2)


@pytest.mark.long
def test_a_bundle_is_trained_tuned_finished_and_served(tmp_path):
    attempts = pools()
    model, trained = trained_on_pools()
    save_training(model, trained, tmp_path)
    pd.testing.assert_frame_equal(read_training(tmp_path).prompts, trained.prompts, atol=1e-6)
    save_tuning(tune(attempts, read_training(tmp_path), [1, 2, 4], setup=SETUP), tmp_path)
    finish_bundle(tmp_path, SETUP)
    bundle = load_bundle(tmp_path)
    assert bundle.manifest.edges == trained.edges
    easy, hard = bundle.difficulty.predict(["p0 word", "p9 " + "word " * 10])
    assert easy < hard
    assert bundle.policy.smallest == 1
    assert bundle.confidence is not None
    (bundle.folder / "confidence.json").write_text(Confidence({}, 0.0).dumps())
    with pytest.raises(InvalidBundle, match="digest"):
        load_bundle(tmp_path)


@pytest.mark.long
def test_training_again_takes_the_manifest_away(tmp_path):
    attempts = pools()
    model, trained = trained_on_pools()
    save_training(model, trained, tmp_path)
    save_tuning(tune(attempts, trained, [1], setup=SETUP, cascades=False), tmp_path)
    finish_bundle(tmp_path, SETUP)
    save_training(model, trained, tmp_path)
    with pytest.raises(InvalidBundle, match="no manifest"):
        load_bundle(tmp_path)


def test_train_on_mean_score_needs_no_truth():
    attempts = pools().assign(correct=pd.array([None] * (120 * 8), dtype="boolean"))
    with pytest.raises(InvalidFile, match=r"120 prompts have no pass_rate, first 'p0'.*mean_score"):
        train(attempts)
    statistics = prompt_statistics(attempts, "mean_score")["statistic"]
    assert statistics["p0"] > statistics["p9"]
    assert statistics.between(0.399, 0.601).all()


def test_unscored_attempts_are_not_scored_zero():
    attempts = frame([row(f"p{i}", s, score=None if s else i / 30) for i in range(30) for s in range(3)])
    statistics = prompt_statistics(attempts, "mean_score")["statistic"]
    assert statistics["p29"] == pytest.approx(29 / 30)


def test_training_on_tied_pass_rates_says_what_to_do():
    attempts = frame([row(f"p{i}", s, correct=i < 40) for i in range(100) for s in range(4)])
    with pytest.raises(InvalidFile, match=r"2 different values.*Collect more --attempts"):
        train(attempts)


@pytest.mark.long
def test_vectors_are_asked_for_every_prompt_and_named():
    asked = []

    def vectors(prompts):
        asked.extend(prompts)
        return {"hidden": np.array([[len(prompt.question), 1.0] for prompt in prompts])}

    model, trained = train(pools(), vectors, folds=2)
    assert len(asked) == 120
    assert "hidden_logistic" in trained.comparison
    assert trained.features == model.input
    assert "hidden_logistic" not in trained_on_pools()[1].comparison


@pytest.mark.long
def test_of_several_vectors_the_one_that_predicts_best_is_named():
    rng = np.random.default_rng(0)

    def easiness(i):  # which the text does not tell
        return 37 * i % 100

    def vectors(prompts):
        numbers = [easiness(int(prompt.question.removeprefix("prompt p"))) for prompt in prompts]
        noise = rng.normal(size=(len(prompts), 3))
        return {
            "hidden(layer=2, position=last)": np.column_stack([numbers, noise]),
            "hidden(layer=1, position=mean)": noise,
        }

    rows = [row(f"p{i}", s, correct=s < easiness(i) / 10) for i in range(100) for s in range(10)]
    model, trained = train(frame(rows), vectors)
    assert (trained.chosen, model.candidate) == ("hidden_ridge (layer=2, position=last)", "hidden_ridge")
    assert trained.features == "hidden(layer=2, position=last)"
    assert "hidden_ridge (layer=1, position=mean)" in trained.comparison


def test_tuning_before_training_says_so(tmp_path):
    with pytest.raises(InvalidBundle, match="run `router train`"):
        read_training(tmp_path)
