"""Scores as probabilities: fitted, written to models.json, applied to what the verifier says."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from router.attempts.schema import read_attempts
from router.backends import Usage
from router.backends.calibrated import Calibrated, log_odds, platt
from router.backends.fake import FakeVerifier
from router.backends.registry import load_engines
from router.backends.specs import Deployment
from router.bundle.setup import read_setup, write_setup
from router.cli.main import main
from router.errors import InvalidFile
from router.prompt import Prompt
from router.training import calibration
from strategies import Candidate
from tests.conftest import SETUP


def attempts(scores: list[float], right: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"arm": "sample", "scores": [[0.9, score] for score in scores], "correct": right})


def test_fit_finds_the_probabilities_behind_raw_scores():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.5, 0.999, 20_000)
    chance = [platt(score, 1.5, -3.0) for score in raw]
    slope, intercept = calibration.fit(attempts(list(raw), list(rng.random(20_000) < chance)))
    assert slope == pytest.approx(1.5, rel=0.05)
    assert intercept == pytest.approx(-3.0, rel=0.05)


def test_scores_keep_their_order_and_their_ends():
    scores = [platt(raw, 3.0, -2.0) for raw in (0.0, 0.2, 0.5, 0.9, 1.0)]
    assert scores == sorted(scores)
    assert 0 <= scores[0] < 1e-6
    assert 1 - 1e-6 < scores[-1] <= 1
    assert platt(0.3, 1, 0) == pytest.approx(0.3)
    assert log_odds(0.5) == 0


def test_fit_needs_both_outcomes_and_a_verifier_that_is_better_than_none():
    with pytest.raises(InvalidFile, match="both kinds, right and wrong"):
        calibration.fit(attempts([0.3, 0.4], [True, True]))
    with pytest.raises(InvalidFile, match="not more often right"):
        calibration.fit(attempts([0.9, 0.8, 0.3, 0.2], [False, False, True, True]))


async def test_calibrated_scales_every_step_and_leaves_unscored_candidates_alone():
    raw = FakeVerifier(judge=lambda prompt, steps: [0.5] * len(steps))
    calibrated = Calibrated(raw, 2.0, 1.0)
    usage = Usage()
    written, empty = await calibrated.score(
        Prompt.of("?"), [Candidate(steps=("a", "b")), Candidate()], max_tokens=None, usage=usage
    )
    assert written.scores == pytest.approx((platt(0.5, 2.0, 1.0),) * 2)
    assert empty.scores is None
    assert usage.calls == raw.counted.calls == 1
    assert calibrated.parameters == raw.parameters


@pytest.fixture
def bundle(tmp_path):
    write_setup(SETUP, tmp_path)
    return tmp_path


def row(prompt: str, sample: int, scores: list[float] | None, correct: bool) -> str:
    answer = "2" if correct else "3"
    values = {"prompt_id": prompt, "prompt": "1 + 1 =", "reference": "2", "answer": answer}
    values |= {"text": f"1 + 1 = {answer}\nAnswer: {answer}"}
    tokens = {"prompt_tokens": 1, "generated_tokens": 1, "scored_tokens": 1, "arm": "sample"}
    return json.dumps(values | tokens | {"sample": sample, "scores": scores, "correct": correct}) + "\n"


def test_scoring_may_be_limited_to_some_prompts(bundle):
    file = bundle / "attempts.jsonl"
    file.write_text("".join(row(prompt, sample, None, True) for prompt in "abc" for sample in (0, 1)))
    out = bundle / "scored.parquet"
    score = ["score", str(file), "--bundle", str(bundle), "--backend", "fake", "--limit", "2"]
    result = CliRunner().invoke(main, [*score, "--out", str(out)])
    assert result.exit_code == 0, result.output
    scored = read_attempts([out])
    assert scored["prompt_id"].nunique() == 2
    assert len(scored) == 4
    assert [list(scores) for scores in scored["scores"]] == [pytest.approx([0.9, 0.9])] * 4


def test_the_command_writes_what_its_engines_then_use(bundle):
    rows = [(0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.4, False), (0.2, False)]
    file = bundle / "scored.jsonl"
    file.write_text("".join(row("p", i, [score], correct) for i, (score, correct) in enumerate(rows)))

    calibrate = ["calibrate", str(file), "--bundle", str(bundle)]
    result = CliRunner().invoke(main, calibrate)
    assert result.exit_code == 0, result.output
    setup = read_setup(bundle)
    assert setup.verifier.slope > 0
    verifier = load_engines(setup, bundle, Deployment(backends={"": "fake"})).verifier
    assert isinstance(verifier, Calibrated)

    again = CliRunner().invoke(main, calibrate)
    assert again.exit_code != 0
    assert "calibrated already" in again.output
