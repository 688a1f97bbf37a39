"""Tests that a real model writes, on vLLM: `make test-weights`."""

import json
from pathlib import Path

import pytest

from router.backends import Asked, Usage
from router.backends.specs import Deployment, ModelSpec
from router.backends.template import OwnTemplate
from router.backends.verifiers.written_tests import Options, WrittenTests
from router.backends.vllm import load_model
from router.prompt import Prompt
from router.tasks import Tasks
from tests.support import weights

pytestmark = [pytest.mark.weights, pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]

FUNCTIONS = Path(__file__).parent.parent / "data" / "functions.jsonl"


async def test_a_model_writes_tests_that_are_kept(own_vllm_url, tmp_path):
    """It calls the function that is wanted, with literal arguments: for most tasks some of its lines are tests."""
    spec = ModelSpec(str(weights.folder()), 494_032_768, OwnTemplate("\n"), temperature=0.8, max_tokens=512)
    model = load_model("small", spec, tmp_path, Deployment({"small": (own_vllm_url,)}))
    verifier, usage, kept = WrittenTests(model, "small", Options()), Usage(), []
    try:
        for line in FUNCTIONS.read_text().splitlines()[:6]:
            row = json.loads(line)
            task = Tasks(("code",), allow_code=True).of(None, row["inputs"])
            _, prepared = await verifier.prepared(Asked(Prompt.of(row["prompt"]), task), usage)
            kept.append(len(prepared._written))
    finally:
        await model.close()
    assert sum(count > 0 for count in kept) >= 4, kept
    assert max(kept) <= Options().count
    assert usage.generated_tokens > 0
