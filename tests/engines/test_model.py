"""The real model in process: what tests/test_contract.py does not ask of every engine. Slow."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.backends import LogProbability, Usage, VerifierSpec
from router.bundle.bundle import load_bundle
from router.solving.driver import Request, drive
from router.solving.solver import Solver
from strategies import Candidate as Attempt
from strategies import Majority

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # transformers' own
]

BUNDLE = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"
PROMPTS = [
    "State the final answer to the following arithmetic problem: 4 - 1 - 7 =",
    "Solve the following multiplication: 4 * 7. Give only the result as your final answer.",
    "State the final answer to the following arithmetic problem: 71 - 46 + 58 + 12 =",
]


@pytest.fixture(scope="module")
def solver() -> Iterator[Solver]:
    import torch

    from router.backends.in_process import weights
    from router.backends.in_process.engines import load

    bundle = load_bundle(BUNDLE)
    with pytest.MonkeyPatch.context() as patch:  # float32: equal computations batched in different ways agree
        patch.setattr(weights, "fastest_dtype", lambda: torch.float32)
        solver = Solver(bundle, *load(bundle.manifest.generator, bundle.manifest.verifier, BUNDLE))
    yield solver
    asyncio.run(solver.engines.close())


@pytest.fixture(scope="module")
def prm(solver, tmp_path_factory):
    """The other kind of verifier on the same base: a head, here with random weights."""
    import torch

    from router.backends.in_process.engines import StepVerifier
    from router.backends.in_process.weights import load_model
    from tests.support import tiny_models as tiny

    head = tiny.random_head(tmp_path_factory.mktemp("prm") / "head")
    generator = solver.engines.generator
    model, _ = load_model(generator.spec.model, head, scores_steps=True, dtype=torch.float32)
    return StepVerifier(generator.batcher, model, generator.spec.template, VerifierSpec("prm", "head", 106_204_033))


async def test_batching_changes_no_solution(solver):
    """Greedy solutions written together equal those that transformers writes alone."""
    from transformers import GenerationConfig

    generator = solver.engines.generator
    together = await asyncio.gather(*(write(generator, prompt) for prompt in PROMPTS))
    batcher = generator.batcher
    for prompt, path in zip(PROMPTS, together, strict=True):
        ids = batcher.tokenizer(generator.spec.template.render(prompt), return_tensors="pt")
        config = GenerationConfig(max_new_tokens=160, do_sample=False, pad_token_id=0, eos_token_id=list(batcher._eos))
        alone = batcher.model.generate(**ids, generation_config=config)[0, ids["input_ids"].shape[1] :].tolist()
        assert list(path.tokens) == [token for token in alone if token not in batcher._eos]


async def test_paths_that_share_a_row_draw_what_they_draw_alone(solver):
    """A path's random numbers come with its place in the call; ended paths before it keep the place."""

    async def sample(paths: list[Attempt]) -> list[Attempt]:
        return await solver.engines.generator.extend(
            PROMPTS[0], paths, steps=None, temperature=0.8, max_tokens=None, deadline=None, seed=3, usage=Usage()
        )

    together = await sample([Attempt()] * 6)
    assert len({path.tokens for path in together}) > 1
    for place, path in enumerate(together):
        *_, alone = await sample([Attempt(end="stop")] * place + [Attempt()])
        assert alone.tokens == path.tokens
        assert alone.log_probs == pytest.approx(path.log_probs, abs=1e-3)


@pytest.mark.parametrize("kind", ["likelihood", "prm"])
async def test_a_search_reads_each_token_once(solver, prm, kind):
    verifier = prm if kind == "prm" else solver.engines.verifier
    path = await write(solver.engines.generator, PROMPTS[2])
    spend = Usage()
    for steps in (1, len(path.steps)):
        tokens = path.tokens[: sum(path.token_counts[:steps])]
        begun = Attempt(path.steps[:steps], tokens, path.log_probs[:steps], path.token_counts[:steps])
        (read,) = await verifier.score(PROMPTS[2], [begun], max_tokens=None, usage=spend)
    prompt = solver.engines.generator.batcher.tokenizer.encode(
        solver.engines.generator.spec.template.render(PROMPTS[2])
    )
    assert spend.scored_tokens == len(prompt) + len(path.tokens)
    (at_once,) = await verifier.score(PROMPTS[2], [path], max_tokens=None, usage=Usage())
    assert read.scores == pytest.approx(at_once.scores, abs=1e-4)
    assert len(set(read.scores)) > 1


async def test_the_generator_as_its_own_verifier_finds_its_own_likelihood(solver):
    from router.backends.in_process.engines import StepVerifier

    spec = VerifierSpec("likelihood", solver.bundle.manifest.generator.adapter, solver.engines.generator.parameters)
    verifier = StepVerifier(
        solver.engines.generator.batcher,
        solver.engines.generator.batcher.model,
        solver.engines.generator.spec.template,
        spec,
    )
    path = await write(solver.engines.generator, PROMPTS[2])
    spend = Usage()
    for steps in range(1, len(path.steps) + 1):  # as a search asks: one step more each round
        tokens = path.tokens[: sum(path.token_counts[:steps])]
        begun = Attempt(path.steps[:steps], tokens, path.log_probs[:steps], path.token_counts[:steps])
        (read,) = await verifier.score(PROMPTS[2], [begun], max_tokens=None, usage=spend)
    (own,) = await LogProbability().score(PROMPTS[2], [path], max_tokens=None, usage=Usage())
    assert read.scores == pytest.approx(own.scores, abs=1e-3)


async def test_the_loop_is_never_blocked(solver):
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    started = asyncio.get_running_loop().time()
    async for _ in drive(Majority(n=8), Request(PROMPTS[2]), solver.engines, solver.new_bill()):
        pass
    seconds = asyncio.get_running_loop().time() - started
    ticking.cancel()
    assert ticks > 10 * seconds  # of 100 a second


async def write(generator, prompt: str) -> Attempt:
    (path,) = await generator.extend(
        prompt, [Attempt()], steps=None, temperature=0, max_tokens=None, deadline=None, seed=0, usage=Usage()
    )
    return path


def test_the_demo_runs_and_leaves_nothing_running():
    demo = subprocess.run(
        [sys.executable, "-m", "router.cli", "demo", "--bundle", str(BUNDLE), "--budget", "4"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.count("right") >= 3
