"""A real vLLM against transformers, on the same weights; and the commands that use it. Run by `make test-vllm`."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from router.attempts.schema import read_attempts
from router.backends import Usage
from router.backends.replicas import Replicas
from router.backends.specs import EMBEDDED, Deployment, VerifierSpec
from router.backends.tokenizers import load_tokenizer
from router.backends.vllm import load_verifier
from router.backends.vllm.generator import VllmGenerator
from router.bundle.setup import read_setup
from router.cli.main import main
from router.prompt import Prompt
from strategies import Candidate, Earlier

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200), pytest.mark.filterwarnings("ignore")]  # servers start first

BUNDLE = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"
TEXT = "State the final answer to the following arithmetic problem: 4 - 1 - 7 ="
PROMPT = Prompt.of(TEXT)
CANDIDATES = [
    Candidate(steps=("4 - 1 = 3\n", "3 - 7 = -4\n", "Answer: -4")),
    Candidate(steps=("4 - 1 = 5\n", "5 - 7 = 2\n", "Answer: 2")),
    Candidate(steps=("Answer: -4",)),
]
TOLERANCE = 1.5e-2  # vLLM's own, between itself and transformers


@pytest.mark.parametrize("kind", ["qwen2.5-math-prm", "rlhflow-prm", "math-shepherd-prm"])
async def test_vllm_and_transformers_give_the_same_scores(vllm_servers, kind):
    """The formats with labels read a plain language model, which the embedded one is."""
    from router.backends.in_process import prm_models

    pooling = kind == "qwen2.5-math-prm"
    spec = VerifierSpec(kind, None, 1_000, str(vllm_servers.tiny_prm if pooling else vllm_servers.embedded))
    where = Deployment({"verifier": (vllm_servers.verifier if pooling else vllm_servers.generator,)})
    there, here = load_verifier(spec, read_setup(BUNDLE).main, None, BUNDLE, where), prm_models.load(spec)
    bills = Usage(), Usage()
    try:
        ours = await here.score(PROMPT, CANDIDATES, max_tokens=None, usage=bills[0])
        theirs = await there.score(PROMPT, CANDIDATES, max_tokens=None, usage=bills[1])
    finally:
        await asyncio.gather(there.close(), here.close())
    for candidate, mine, other in zip(CANDIDATES, ours, theirs, strict=True):
        assert len(mine.scores or ()) == len(candidate.steps)
        assert other.scores == pytest.approx(mine.scores, rel=TOLERANCE)
    assert (
        len({round(score, 3) for candidate in ours for score in candidate.scores}) > 2
    )  # they do depend on what is read
    assert bills[0].scored_tokens >= bills[1].scored_tokens > 0


async def test_vllm_finds_a_solution_as_likely_as_transformers_does(vllm_servers, monkeypatch):
    """The shipped verifier, merged, on a server of its own."""
    import torch

    from router.backends.in_process import engines as in_process

    monkeypatch.setattr("router.backends.in_process.weights.fastest_dtype", lambda: torch.float32)
    setup = read_setup(BUNDLE)
    here = in_process.load_verifier(setup.verifier, setup.main, None, BUNDLE, Deployment())
    where = Deployment({"verifier": (vllm_servers.likelihood,)})
    there = load_verifier(setup.verifier, setup.main, None, BUNDLE, where)
    bills = Usage(), Usage()
    try:
        ours = await here.score(PROMPT, CANDIDATES, max_tokens=None, usage=bills[0])
        theirs = await there.score(PROMPT, CANDIDATES, max_tokens=None, usage=bills[1])
    finally:
        await asyncio.gather(there.close(), here.close())
    for mine, other in zip(ours, theirs, strict=True):
        assert other.scores == pytest.approx(mine.scores, rel=TOLERANCE)
    assert ours[0].scores[-1] > 2 * ours[1].scores[-1]  # it does tell right from wrong
    assert bills[1].scored_tokens > bills[0].scored_tokens > 0  # here the prompt is read once


def test_the_shipped_engine_collects_on_vllm(vllm_servers, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "attempts.parquet"
    prompts.write_text(json.dumps({"prompt": TEXT, "reference": "-4"}) + "\n")
    command = ["collect", "--prompts", str(prompts), "--attempts", "4", "--arm", "beam_search(n=4, m=2)"]
    command += ["--backend", "vllm", "--url", f"small={vllm_servers.generator}", "--out", str(out)]
    command += ["--url", f"verifier={vllm_servers.likelihood}"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    frame = read_attempts([out])
    assert len(frame) >= 5
    assert frame["correct"].any()


async def test_a_reviser_writes_where_earlier_attempts_are_seen(vllm_servers):
    """Two adapters on one server, each asked for by its own name."""
    tokenizer = load_tokenizer(EMBEDDED)
    spec = replace(read_setup(BUNDLE).main, max_tokens=12)
    first, again = Candidate(), Candidate(earlier=(Earlier("4 - 1 = 3\n3 - 7 = 4\nAnswer: 4"),))
    texts = {}
    for reviser in (None, "reviser"):
        generator = VllmGenerator(Replicas([vllm_servers.generator]), replace(spec, reviser=reviser), tokenizer)
        options: dict[str, Any] = {"steps": None, "temperature": 0.0, "max_tokens": None, "deadline": None, "seed": 0}
        try:
            candidates = await generator.extend(PROMPT, [first, again], **options, usage=Usage())
        finally:
            await generator.close()
        texts[reviser] = [candidate.text for candidate in candidates]
    assert texts[None][0] == texts["reviser"][0]
    assert texts[None][1] != texts["reviser"][1]
