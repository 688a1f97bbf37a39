"""Seconds put into a finished bundle's policy, from attempts that were made where it is served."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from router.attempts.schema import write_attempts
from router.bundle.bundle import load_bundle, read_policy
from router.cli.main import main
from router.errors import InvalidFile, InvalidRequest
from router.policy.objectives import Budget
from router.tuning.timing import timed
from strategies import parse
from tests.support.evaluation import BEAM, world

SHIPPED = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"
EASY = (1.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture
def bundle(plain_bundle, tmp_path):
    return shutil.copytree(plain_bundle, tmp_path / "bundle")


def clocked(attempts: pd.DataFrame) -> pd.DataFrame:
    """A pool of eight takes two seconds, a beam search as many as its level, and no right answer is known."""
    level = attempts["prompt_id"].str.extract(r"-(\d)-")[0].astype(float)
    seconds = np.where(attempts["arm"] == BEAM, level, 2.0)
    return attempts.assign(seconds=seconds, correct=pd.array([None] * len(attempts), dtype="boolean"))


def test_a_cell_has_the_seconds_of_its_level_and_nothing_else_changes(bundle):
    before = load_bundle(bundle)
    policy, measured = timed(before, clocked(world("timed", 3)))
    assert len(measured.prompts) == 15
    found = {(cell.level, str(cell.arm)): cell for cell in policy.cells}
    assert [found[level, BEAM].cost.seconds for level in (1, 3, 5)] == pytest.approx([1, 3, 5], abs=0.1)
    assert found[2, "majority(n=8)"].cost.seconds == pytest.approx(2)
    assert policy.with_seconds(lambda task, cell: None).dumps() == before.policy.dumps()


def test_arms_that_were_not_timed_have_no_seconds(bundle):
    attempts = clocked(world("timed", 3, beam=False))
    policy, _ = timed(load_bundle(bundle), attempts[attempts["sample"] < 4])
    known = {str(cell.arm) for cell in policy.cells if cell.cost.seconds is not None}
    assert "majority(n=4)" in known
    assert not {"majority(n=8)", BEAM} & known


def test_an_arm_that_ran_has_the_seconds_of_its_runs(bundle):
    attempts = clocked(world("timed", 3))
    ran = attempts[attempts["arm"] == BEAM].assign(arm="majority(n=4)", seconds=0.25)
    policy, _ = timed(load_bundle(bundle), pd.concat([attempts, ran], ignore_index=True))
    found = {str(cell.arm): cell.cost.seconds for cell in policy.cells}
    assert found["majority(n=4)"] == pytest.approx(0.25)
    assert found["majority(n=8)"] == pytest.approx(2)


def test_scoring_counts_for_arms_that_score_only(bundle):
    attempts = clocked(world("timed", 3)).assign(score_seconds=0.5)
    policy, _ = timed(load_bundle(bundle), attempts)
    found = {str(cell.arm): cell.cost.seconds for cell in policy.cells}
    assert found["majority(n=8)"] == pytest.approx(1.5)
    assert found["weighted_best_of_n(n=8)"] == pytest.approx(2)


def test_one_attempt_that_was_not_timed_costs_its_prompt_only(bundle):
    attempts = clocked(world("timed", 3))
    attempts.loc[(attempts["arm"] == "sample").idxmax(), "seconds"] = np.nan
    policy, _ = timed(load_bundle(bundle), attempts)
    assert all(cell.cost.seconds == pytest.approx(2) for cell in policy.cells if cell.arm == parse("majority(n=8)"))


@pytest.mark.parametrize("attempts", [world("timed", 3), clocked(world("timed", 3)).drop(columns="seconds")])
def test_attempts_without_seconds_are_a_clear_error(bundle, attempts):
    with pytest.raises(InvalidFile, match="no arm of the policy was timed"):
        timed(load_bundle(bundle), attempts)


def test_the_command_makes_a_limit_possible_in_a_bundle_that_stays_valid(bundle, tmp_path):
    before = load_bundle(bundle)
    with pytest.raises(InvalidRequest, match="router time"):
        before.policy.decide(EASY, Budget(8), 1.5)
    write_attempts(clocked(world("timed", 3)), tmp_path / "timed.parquet")
    result = CliRunner().invoke(main, ["time", str(tmp_path / "timed.parquet"), "--bundle", str(bundle)])
    assert result.exit_code == 0, result.output
    assert "15 prompts timed" in result.output
    after = load_bundle(bundle)
    assert after.digest != before.digest
    assert after.manifest.provenance["timed"]["prompts"] == 15
    assert after.policy.decide(EASY, Budget(8), 1.5).cost.seconds == pytest.approx(1, abs=0.1)
    assert {**after.manifest.files, "policy.json": ""} == {**before.manifest.files, "policy.json": ""}


def test_the_shipped_bundle_was_timed_after_it_was_last_tuned():
    """Tuning it again drops the seconds. The bundle is valid without them, so nothing else here would tell."""
    _, _, policy = read_policy(SHIPPED)
    assert any(cell.cost.seconds is not None for cell in policy.cells), "run `router time` on it, as its recipe says"


def test_tuning_again_warns_that_the_seconds_are_gone(bundle, tmp_path):
    write_attempts(world("train", 20), tmp_path / "tune.parquet")
    again = ["tune", str(tmp_path / "tune.parquet"), "--bundle", str(bundle), "--overwrite"]
    told = f"Run `router time ATTEMPTS --bundle {bundle}` again"
    untimed = CliRunner().invoke(main, again)
    assert untimed.exit_code == 0, untimed.output
    assert told not in untimed.stderr  # it had none to lose
    write_attempts(clocked(world("timed", 3)), tmp_path / "timed.parquet")
    CliRunner().invoke(main, ["time", str(tmp_path / "timed.parquet"), "--bundle", str(bundle)])
    result = CliRunner().invoke(main, again)
    assert result.exit_code == 0, result.output
    assert "warning: the former policy had its arms' seconds, the new one has none" in result.stderr
    assert told in result.stderr
    with pytest.raises(InvalidRequest, match="router time"):
        load_bundle(bundle).policy.decide(EASY, Budget(8), 1.5)
