"""The real model in process: what ``test_contract`` does not ask of every engine. Slow."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.backends import Engines, Usage
from router.backends.log_probability import LogProbability
from router.backends.specs import Deployment, VerifierSpec
from router.backends.template import encode
from router.bundle.bundle import load_bundle
from router.prompt import Prompt
from router.solving.driver import drive
from router.solving.request import Request
from router.solving.solver import Solver
from strategies import Candidate, Majority

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # transformers' own
]

BUNDLE = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"
PROMPTS = [
    Prompt.of("State the final answer to the following arithmetic problem: 4 - 1 - 7 ="),
    Prompt.of("Solve the following multiplication: 4 * 7. Give only the result as your final answer."),
    Prompt.of("State the final answer to the following arithmetic problem: 71 - 46 + 58 + 12 ="),
]


@pytest.fixture(scope="module")
def solver() -> Iterator[Solver]:
    import torch

    from router.backends.in_process.engines import load_model, load_verifier

    bundle = load_bundle(BUNDLE)
    setup = bundle.setup
    with pytest.MonkeyPatch.context() as patch:  # float32: equal computations batched in different ways agree
        patch.setattr("router.backends.in_process.weights.fastest_dtype", lambda: torch.float32)
        generator = load_model("small", setup.main, BUNDLE, Deployment())
        verifier = load_verifier(setup.verifier, setup.main, generator, BUNDLE, Deployment())
    solver = Solver(bundle, Engines({"small": generator}, "small", verifier))
    yield solver
    asyncio.run(solver.engines.close())


@pytest.fixture(scope="module")
def prm(solver, tmp_path_factory):
    """The other kind of verifier on the same base: a head, here with random weights."""
    import torch

    from router.backends.in_process.step_verifier import StepVerifier
    from router.backends.in_process.weights import load_model
    from tests.support import tiny_models as tiny

    head = tiny.random_head(tmp_path_factory.mktemp("prm") / "head")
    generator = solver.engines.main
    model, _ = load_model(generator.spec.model, head, scores_steps=True, dtype=torch.float32)
    return StepVerifier(generator.batcher, model, generator.template, VerifierSpec("prm", "head", 106_204_033))


async def test_batching_changes_no_solution(solver):
    """Greedy solutions written together equal those that transformers writes alone."""
    import torch
    from transformers import GenerationConfig

    generator = solver.engines.main
    together = await asyncio.gather(*(write(generator, prompt) for prompt in PROMPTS))
    batcher = generator.batcher
    for prompt, candidate in zip(PROMPTS, together, strict=True):
        ids = encode(batcher.tokenizer, generator.template.parts(prompt))
        config = GenerationConfig(max_new_tokens=160, do_sample=False, pad_token_id=0, eos_token_id=list(batcher._eos))
        written = batcher.model.generate(torch.tensor([ids]), generation_config=config)[0, len(ids) :].tolist()
        assert list(candidate.tokens) == [token for token in written if token not in batcher._eos]


async def test_candidates_that_share_a_row_draw_what_they_draw_alone(solver):
    """A candidate's random numbers come with its place in the call; ended candidates before it keep the place."""

    async def sample(candidates: list[Candidate]) -> list[Candidate]:
        return await solver.engines.main.extend(
            PROMPTS[0], candidates, steps=None, temperature=0.8, max_tokens=None, deadline=None, seed=3, usage=Usage()
        )

    together = await sample([Candidate()] * 6)
    assert len({candidate.tokens for candidate in together}) > 1
    for place, candidate in enumerate(together):
        *_, alone = await sample([Candidate(end="stop")] * place + [Candidate()])
        assert alone.tokens == candidate.tokens
        assert alone.log_probs == pytest.approx(candidate.log_probs, abs=1e-3)


async def test_six_equal_calls_give_equal_samples(solver):
    """Whatever ran in between, and whatever width the batch had then."""

    async def sample(prompt: Prompt, n: int, seed: int) -> list[Candidate]:
        return await solver.engines.main.extend(
            prompt,
            [Candidate()] * n,
            steps=None,
            temperature=0.8,
            max_tokens=None,
            deadline=None,
            seed=seed,
            usage=Usage(),
        )

    first = await sample(PROMPTS[0], 4, 3)
    for number in range(5):
        await sample(PROMPTS[2], 1 + 3 * number, number)
        assert await sample(PROMPTS[0], 4, 3) == first


@pytest.mark.parametrize("kind", ["likelihood", "prm"])
async def test_a_search_reads_each_token_once(solver, prm, kind):
    verifier = prm if kind == "prm" else solver.engines.verifier
    candidate = await write(solver.engines.main, PROMPTS[2])
    spend = Usage()
    for steps in (1, len(candidate.steps)):
        tokens = candidate.tokens[: sum(candidate.token_counts[:steps])]
        begun = Candidate(candidate.steps[:steps], tokens, candidate.log_probs[:steps], candidate.token_counts[:steps])
        (read,) = await verifier.score(PROMPTS[2], [begun], max_tokens=None, usage=spend)
    generator = solver.engines.main
    prompt = encode(generator.batcher.tokenizer, generator.template.parts(PROMPTS[2]))
    assert spend.scored_tokens == len(prompt) + len(candidate.tokens)
    (at_once,) = await verifier.score(PROMPTS[2], [candidate], max_tokens=None, usage=Usage())
    assert read.scores == pytest.approx(at_once.scores, abs=1e-4)
    assert len(set(read.scores)) > 1


async def test_the_generator_as_its_own_verifier_finds_its_own_likelihood(solver):
    from router.backends.in_process.step_verifier import StepVerifier

    generator = solver.engines.main
    spec = VerifierSpec("likelihood", solver.bundle.setup.main.adapter, generator.parameters)
    verifier = StepVerifier(generator.batcher, generator.batcher.model, generator.template, spec)
    candidate = await write(solver.engines.main, PROMPTS[2])
    spend = Usage()
    for steps in range(1, len(candidate.steps) + 1):  # as a search asks: one step more each round
        tokens = candidate.tokens[: sum(candidate.token_counts[:steps])]
        begun = Candidate(candidate.steps[:steps], tokens, candidate.log_probs[:steps], candidate.token_counts[:steps])
        (read,) = await verifier.score(PROMPTS[2], [begun], max_tokens=None, usage=spend)
    (own,) = await LogProbability().score(PROMPTS[2], [candidate], max_tokens=None, usage=Usage())
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
    request = Request(PROMPTS[2])
    async for _ in drive(Majority(n=8), request, solver.engines, await solver.task(request), solver.new_bill()):
        pass
    seconds = asyncio.get_running_loop().time() - started
    ticking.cancel()
    assert ticks > 10 * seconds  # of 100 a second


async def write(generator, prompt: Prompt) -> Candidate:
    (candidate,) = await generator.extend(
        prompt, [Candidate()], steps=None, temperature=0, max_tokens=None, deadline=None, seed=0, usage=Usage()
    )
    return candidate


def test_the_demo_runs_and_leaves_nothing_running():
    demo = subprocess.run(
        [sys.executable, "-m", "router.cli", "demo", "--bundle", str(BUNDLE), "--objective", "budget=4"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.count("right") >= 3
