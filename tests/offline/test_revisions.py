"""What a reviser is worth, on a scripted one that knows what it saw."""

import json

import pytest
from typer.testing import CliRunner

from router.attempts.prompts import Problem
from router.backends.fake import FakeGenerator
from router.bundle.setup import write_setup
from router.cli.main import main
from router.errors import InvalidFile
from router.evaluation.revisions import judge_chains, sample_chains
from router.prompt import Prompt
from router.tasks import Tasks
from tests.conftest import SETUP


async def test_chains_are_told_apart_and_kept_in_order():
    def improve(prompt, candidate, rng):
        """Right from the third attempt on; attempts are shown to the next one."""
        return f"Answer: {7 if len(candidate.earlier) >= 2 else len(candidate.earlier)}"

    problems = [Problem("a", Prompt.of("3 + 4 ="), "7"), Problem("b", Prompt.of("5 + 5 ="), "10")]
    chains = await sample_chains(problems, FakeGenerator(write=improve), Tasks(), chains=2, length=4)
    assert chains == [[False, False, True, True]] * 2 + [[False] * 4] * 2


async def test_a_prompt_without_a_reference_is_refused():
    with pytest.raises(InvalidFile, match="'b' has no reference"):
        await sample_chains(
            [Problem("a", Prompt.of("?"), "1"), Problem("b", Prompt.of("?"), None)],
            FakeGenerator(),
            Tasks(),
            chains=1,
            length=2,
        )


def test_turns_are_counted_between_neighbours():
    result = judge_chains([[True, False, True], [False, False, True], [True, True, True]])
    assert result["pass_rate"] == pytest.approx([2 / 3, 1 / 3, 1])
    assert result["right_to_wrong"] == pytest.approx(1 / 3)  # of three right ones with a next, one turns
    assert result["wrong_to_right"] == pytest.approx(2 / 3)
    assert judge_chains([[False, False]])["right_to_wrong"] is None


def test_the_command(tmp_path):
    write_setup(SETUP, tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "3 + 4 =", "reference": "7"}) + "\n")
    arguments = ["judge-reviser", "--prompts", str(prompts), "--bundle", str(tmp_path), "--backend", "fake"]
    result = CliRunner().invoke(main, [*arguments, "--chains", "2", "--length", "3"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("2 chains; pass rate by position ")
    assert len(json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)["pass_rate"]) == 4
