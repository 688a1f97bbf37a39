"""Ragged and thin evidence: what is left out is named, and what can't be known is said."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from router.attempts.schema import write_attempts
from router.bundle.setup import write_setup
from router.cli.main import main
from router.errors import InvalidFile
from router.evaluation.evaluate import evaluate
from router.evaluation.report import Report
from router.evaluation.summary import summary
from router.policy.objectives import Budget
from router.policy.table import LEVELS
from router.prompt import Prompt
from router.training.difficulty import Training, text_digest
from router.tuning.tables import LEVELLESS
from router.tuning.tune import tune
from router.tuning.warnings import few_solved, of_training, upside_down
from tests.conftest import SETUP
from tests.support.evaluation import world as evaluation_world


def attempt(prompt, sample, correct, score=0.5, arm="sample"):
    return {
        "prompt_id": prompt,
        "prompt": f"prompt {prompt}",
        "reference": "1",
        "sample": sample,
        "text": "Answer: 1",
        "answer": "1" if correct else "2",
        "correct": correct,
        "scores": None if score is None else [score],
        "prompt_tokens": 10,
        "generated_tokens": 20,
        "scored_tokens": 20,
        "arm": arm,
    }


def frame(rows):
    return pd.DataFrame(rows).astype({"correct": "boolean"})


def training(levels, statistic="pass_rate"):
    """As if training had predicted these levels, and the attempts agreed."""
    ids = pd.Index(list(levels), name="prompt_id")
    chosen = np.array(list(levels.values()))
    prompts = pd.DataFrame({"digest": [text_digest(Prompt.of(f"prompt {i}")) for i in ids]}, index=ids)
    prompts = prompts.assign(attempts=4, statistic=1 - chosen / 5, level=chosen)
    for level in LEVELS:
        prompts[f"p{level}"] = np.where(chosen == level, 0.8, 0.05)
    return Training(statistic, 0, (0.7, 0.5, 0.3, 0.1), "text_logistic", {}, prompts)


def world(sizes, right=lambda level, sample: sample % 5 >= level - 1):
    """Attempts at prompts with pools of these sizes, their levels in turn."""
    levels = {f"p{i}": 1 + i % 5 for i in range(len(sizes))}
    rows = [
        attempt(prompt, sample, right(levels[prompt], sample))
        for prompt, size in zip(levels, sizes, strict=True)
        for sample in range(size)
    ]
    return frame(rows), levels


# Ragged pools


def test_budgets_go_by_what_nearly_all_prompts_have_and_short_pools_are_named():
    attempts, levels = world([12] * 20 + [2] + [12] * 19)
    report = tune(attempts, training(levels), setup=SETUP, cascades=False).report
    assert [row["budget"] for row in report["budgets"]] == [1, 2, 4, 8]
    assert report["prompts"] == 39
    assert report["prompts_left_out"] == [
        {"reason": "has 2 attempts, 8 are needed", "count": 1, "first": ["p20"]},
    ]


def test_where_many_pools_are_short_budgets_fall_and_the_prompts_are_named():
    attempts, levels = world([8] * 45 + [2] * 15)
    report = tune(attempts, training(levels), setup=SETUP, cascades=False).report
    assert [row["budget"] for row in report["budgets"]] == [1, 2]
    few, warning = report["warnings"]
    assert "60 prompts can't carry five levels" in few
    assert "15 of 60 prompts have too few, first 'p45' with 2" in warning


def test_few_prompts_get_the_best_fixed_arm_whatever_their_level():
    attempts, levels = world([8] * 60)
    tuning = tune(attempts, training(levels), setup=SETUP, cascades=False)
    chosen = {str(tuning.policy.decide([float(i == j) for j in range(5)], Budget(8)).arm) for i in range(5)}
    assert chosen == {tuning.report["budgets"][-1]["best_fixed_arm"]}
    assert tuning.report["method"] == str(LEVELLESS)
    assert tuning.report["budgets"][-1]["policy_minus_best_fixed"]["accuracy"] == 0


def test_levels_that_are_predicted_by_chance_are_warned_about_in_training():
    attempts, levels = world([8] * 120)
    known = training(levels)
    assert of_training(known, attempts) == []
    for level in LEVELS:  # some prompts rightly, as many wrongly
        known.prompts[f"p{level}"] = known.prompts[f"p{level}"].sample(frac=1, random_state=0).to_numpy()
    (warning,) = of_training(known, attempts)
    assert "no better than by saying the same of every prompt" in warning
    assert "With 120 prompts" in warning


def test_prompts_without_an_arm_that_nearly_all_have_are_named():
    attempts, levels = world([4] * 40)
    runs = [attempt(prompt, 0, True, arm="beam_search(n=4, m=4)") for prompt in list(levels)[1:]]
    report = tune(pd.concat([attempts, frame(runs)]), training(levels), setup=SETUP, cascades=False).report
    assert report["prompts_left_out"] == [
        {"reason": "was not measured with beam_search(n=4, m=4)", "count": 1, "first": ["p0"]}
    ]


def test_levels_by_score_are_tuned_on_the_prompts_that_were_judged():
    attempts, levels = world([4] * 60)
    unknown = attempts["prompt_id"].isin(["p3", "p7"])
    partly = attempts.assign(correct=attempts["correct"].mask(unknown))
    report = tune(partly, training(levels, "mean_score"), setup=SETUP, cascades=False).report
    assert report["prompts"] == 58
    assert report["prompts_left_out"] == [
        {"reason": "has attempts whose `correct` is null", "count": 2, "first": ["p3", "p7"]}
    ]
    with pytest.raises(InvalidFile, match="`correct` is null for 8"):
        tune(partly, training(levels), setup=SETUP, cascades=False)
    nowhere = attempts.assign(correct=attempts["correct"].mask(attempts["sample"] >= 0))
    with pytest.raises(InvalidFile, match="nothing can be tuned: add references with `router rejudge"):
        tune(nowhere, training(levels, "mean_score"), setup=SETUP, cascades=False)


# Thin evidence


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (0, "only 0 of 40 prompts were ever solved"),
        (1, "only 1 of 40 prompts were ever solved"),
        (9, "only 9 of 40 prompts were ever solved"),
        (10, None),
        (30, None),
        (31, "only 9 of 40 prompts were ever missed"),
        (40, "only 0 of 40 prompts were ever missed"),
    ],
)
def test_few_prompts_solved_or_missed_are_said(right, words):
    accuracy = np.zeros((40, 3))
    accuracy[:right] = 1
    found = few_solved(accuracy)
    assert found is None if words is None else words in (found or "")


def test_levels_that_are_upside_down_are_said():
    levels = np.arange(50) % 5 + 1
    assert upside_down(1 - levels / 5, levels) is None
    assert "right on 20% of level 1, the easiest, and on 100% of level 5" in (upside_down(levels / 5, levels) or "")
    assert upside_down(np.zeros(50), levels) is None


def test_an_evaluation_in_which_one_prompt_was_solved_claims_no_saving(plain_bundle):
    held = evaluation_world("held", 8)
    held["correct"] = (held["prompt_id"] == "held-3-0") & held["correct"]
    report = evaluate(held, plain_bundle)
    assert report.prompts == 40
    assert "only 1 of 40 prompts were ever solved" in report.warnings[0]
    for by_reference in report.savings.values():
        for saved in by_reference.values():
            assert saved.generations is None
            assert saved.reason == "it is sometimes right on only 1 of 40 prompts, and 10 are needed"
    text = "\n".join(summary(report))
    assert "times fewer" not in text
    assert "right on only 1 of 40 prompts" in text
    assert Report.from_json(report.to_json()).warnings == report.warnings


def test_an_evaluation_names_the_prompts_with_short_pools(plain_bundle):
    held = evaluation_world("held")
    short = (held["prompt_id"] == "held-2-3") & (held["sample"] > 1)
    report = evaluate(held[~short], plain_bundle)
    assert report.prompts == 59
    assert ("1 prompt (held-2-3)", "has 2 attempts, 8 are needed") in [(e.what, e.reason) for e in report.left_out]
    assert report.warnings == ()


# The commands


def scored(n=100, size=4, *, score, correct):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        for sample in range(size):
            entry = attempt(f"p{i}", sample, correct(i, sample), score=score(i) + 0.1 * float(rng.random()))
            rows.append(entry | {"prompt": f"{i} " + "word " * (1 + i % 10)})
    return frame(rows)


def router(*arguments):
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundle").mkdir()
    write_setup(SETUP, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def no_engine(monkeypatch):
    """Attempts are there already: nothing here needs a model."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("router.backends.registry.load_engines", load)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One candidate is enough here."""
    monkeypatch.setattr("router.training.difficulty.CANDIDATES", ("prompt_length",))
    monkeypatch.setattr("router.tuning.tables.SPLITS", 2)


@pytest.mark.long
def test_a_bundle_where_every_attempt_is_wrong_is_complete_with_a_warning(folder, tmp_path):
    attempts = scored(score=lambda i: (i % 10) / 12, correct=lambda i, sample: False)
    write_attempts(attempts, tmp_path / "a.parquet")
    trained = router("train", tmp_path / "a.parquet", "--bundle", folder, "--statistic", "mean_score")
    assert trained.exit_code == 0, trained.stderr
    tuned = router("tune", tmp_path / "a.parquet", "--bundle", folder, "--no-cascades")
    assert tuned.exit_code == 0, tuned.stderr
    assert "warning: only 0 of 100 prompts were ever solved" in tuned.stderr
    assert "the bundle is complete, but on thin evidence" in tuned.stdout
    assert json.loads((folder / "tuning.json").read_text())["warnings"]


@pytest.mark.long
def test_scores_that_mislead_are_said_by_train_and_tune(folder, tmp_path):
    attempts = scored(score=lambda i: (i % 10) / 12, correct=lambda i, sample: i % 10 < 5)
    write_attempts(attempts, tmp_path / "a.parquet")
    trained = router("train", tmp_path / "a.parquet", "--bundle", folder, "--statistic", "mean_score")
    assert "warning: the levels are upside down" in trained.stderr
    assert (
        "warning: the levels are upside down"
        in router("tune", tmp_path / "a.parquet", "--bundle", folder, "--no-cascades").stderr
    )


@pytest.mark.long
def test_sound_evidence_is_complete_without_a_word(folder, tmp_path):
    attempts = scored(score=lambda i: 0.5, correct=lambda i, sample: sample < (i % 5))
    write_attempts(attempts, tmp_path / "a.parquet")
    trained = router("train", tmp_path / "a.parquet", "--bundle", folder)
    tuned = router("tune", tmp_path / "a.parquet", "--bundle", folder, "--no-cascades")
    assert "warning" not in trained.stderr + tuned.stderr
    assert tuned.stdout.endswith("the bundle is complete\n")


def test_train_says_what_helps_against_ties(folder, tmp_path):
    write_attempts(scored(score=lambda i: i % 10 / 12, correct=lambda i, sample: True), tmp_path / "a.parquet")
    refused = router("train", tmp_path / "a.parquet", "--bundle", folder)
    assert refused.exit_code == 2
    assert "--statistic mean_score" in refused.stderr
    assert "--attempts" in refused.stderr
    few = scored(20, score=lambda i: 0.5, correct=lambda i, sample: True)
    few["scores"] = [[0.5]] * len(few)
    write_attempts(few, tmp_path / "b.parquet")
    refused = router("train", tmp_path / "b.parquet", "--bundle", folder, "--statistic", "mean_score")
    assert refused.exit_code == 2
    assert "--statistic" not in refused.stderr


@pytest.mark.long
def test_train_says_that_most_prompts_tie(folder, tmp_path):
    attempts = scored(score=lambda i: 0.5, correct=lambda i, sample: i >= 40 or sample < i % 5)
    write_attempts(attempts, tmp_path / "a.parquet")
    trained = router("train", tmp_path / "a.parquet", "--bundle", folder)
    assert "level 1 holds 68 of 100 prompts" in trained.stderr
    assert "--statistic mean_score" in trained.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("known", "words"),
    [
        (0, "100 of 100 prompts .* first 'p0'. The levels are trained; `router tune` can't measure an arm on any"),
        (90, "10 of 100 prompts .* leave them out and measure on the other 90"),
    ],
)
def test_train_says_what_can_not_be_tuned_without_references(folder, tmp_path, known, words):
    attempts = scored(score=lambda i: (i % 10) / 12, correct=lambda i, sample: True)
    position = attempts["prompt_id"].str[1:].astype(int)
    attempts = attempts.assign(correct=attempts["correct"].mask(position >= known), reference=None)
    write_attempts(attempts, tmp_path / "a.parquet")
    trained = router("train", tmp_path / "a.parquet", "--bundle", folder, "--statistic", "mean_score")
    assert trained.exit_code == 0, trained.stderr
    assert re.search(words, trained.stderr)
    assert "router rejudge" in trained.stderr
    tuned = router("tune", tmp_path / "a.parquet", "--bundle", folder, "--no-cascades")
    assert tuned.exit_code == (0 if known else 2)
    assert ("left out: 10 prompts (p90, p91, p92, p93, p94, ...)" if known else "nothing can be tuned") in tuned.output


@pytest.mark.long
def test_no_model_is_loaded_unless_hidden_features_are_asked_for(folder, tmp_path):
    attempts = scored(score=lambda i: 0.5, correct=lambda i, sample: sample < (i % 5))
    write_attempts(attempts, tmp_path / "a.parquet")
    assert router("train", tmp_path / "a.parquet", "--bundle", folder).exit_code == 0
    command = ["train", str(tmp_path / "a.parquet"), "--bundle", str(folder)]
    asked = CliRunner().invoke(main, [*command, "--features", "hidden"])
    assert "a model was loaded" in str(asked.exception)
