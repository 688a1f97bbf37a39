"""What a reviser is worth, on a scripted one that knows what it saw."""

import json

import pytest
from router.bundle.models import Engine, write_engine
from typer.testing import CliRunner

from router.attempts.prompts import Prompt
from router.backends import ModelSpec, VerifierSpec
from router.backends.fake import FakeGenerator
from router.backends.template import CHATML
from router.cli.main import main
from router.errors import InvalidFile
from router.evaluation.revisions import judge_chains, sample_chains


async def test_chains_are_told_apart_and_kept_in_order():
    def improve(prompt, path, rng):
        """Right from the third attempt on; attempts are shown to the next one."""
        return f"Answer: {7 if len(path.earlier) >= 2 else len(path.earlier)}"

    prompts = [Prompt("a", "3 + 4 =", "7"), Prompt("b", "5 + 5 =", "10")]
    chains = await sample_chains(prompts, FakeGenerator(write=improve), chains=2, length=4)
    assert chains == [[False, False, True, True]] * 2 + [[False] * 4] * 2


async def test_a_prompt_without_a_reference_is_refused():
    with pytest.raises(InvalidFile, match="'b' has no reference"):
        await sample_chains([Prompt("a", "?", "1"), Prompt("b", "?", None)], FakeGenerator(), chains=1, length=2)


def test_turns_are_counted_between_neighbours():
    result = judge_chains([[True, False, True], [False, False, True], [True, True, True]])
    assert result["pass_rate"] == pytest.approx([2 / 3, 1 / 3, 1])
    assert result["right_to_wrong"] == pytest.approx(1 / 3)  # of three right ones with a next, one turns
    assert result["wrong_to_right"] == pytest.approx(2 / 3)
    assert judge_chains([[False, False]])["right_to_wrong"] is None


def test_the_command(tmp_path):
    generator = ModelSpec("fake", None, 1_000, CHATML, temperature=0.8, max_tokens=512)
    write_engine(Engine("tiny", generator, VerifierSpec("prm", None, 500)), tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "3 + 4 =", "reference": "7"}) + "\n")
    arguments = ["judge-reviser", "--prompts", str(prompts), "--engine", str(tmp_path), "--backend", "fake"]
    result = CliRunner().invoke(main, [*arguments, "--chains", "2", "--length", "3"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("2 chains; pass rate by position ")
    assert len(json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)["pass_rate"]) == 4
