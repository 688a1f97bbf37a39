"""The shipped bundle on the real model: every strategy, exact bills, batching that changes nothing. Slow."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.backends import Usage, VerifierSpec
from router.bundle import load_bundle
from router.solver import Request, Solver, Stop, drive
from strategies import Arm
from strategies import Path as Attempt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # transformers' own
]

BUNDLE = Path(__file__).parent.parent / "models" / "smollm2-135m"
PROMPTS = [
    "State the final answer to the following arithmetic problem: 4 - 1 - 7 =",
    "Solve the following multiplication: 4 * 7. Give only the result as your final answer.",
    "State the final answer to the following arithmetic problem: 71 - 46 + 58 + 12 =",
]
ARMS = [
    "single",
    "majority(n=4)",
    "best_of_n(n=4)",
    "weighted_best_of_n(n=4)",
    "beam_search(n=4, m=2)",
    "dvts(n=4, m=2)",
    "lookahead(n=4, m=2, k=1)",
    "revision(n=4, chains=2)",
]


@pytest.fixture(scope="module")
def solver() -> Iterator[Solver]:
    import torch

    from router.backends import weights
    from router.backends.transformers import load

    bundle = load_bundle(BUNDLE)
    # The PRM, whichever verifier the bundle serves: it is the one with an engine behind it. In float32, where equal
    # computations batched in different ways agree.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "fastest_dtype", lambda: torch.float32)
        solver = Solver(bundle, *load(bundle.manifest.generator, VerifierSpec("prm", "verifier", 106_204_033), BUNDLE))
    yield solver
    asyncio.run(solver.close())


def counted(solver: Solver) -> Usage:
    """The engines' own count so far."""
    total, read = solver.generator.batcher.counted, solver.verifier.counted
    return Usage(total.prompt_tokens, total.generated_tokens, read.scored_tokens, total.calls + read.calls)


def spent(before: Usage, after: Usage) -> Usage:
    return Usage(*(getattr(after, name) - getattr(before, name) for name in Usage.__slots__))


def usage(bill: Usage) -> Usage:
    return Usage(bill.prompt_tokens, bill.generated_tokens, bill.scored_tokens, bill.calls)


@pytest.mark.parametrize("arm", ARMS)
async def test_every_strategy_solves_and_bills_to_the_token(solver, arm):
    before = counted(solver)
    solution = await solver.solve(Request(PROMPTS[0], arm=Arm.parse(arm), seed=1))
    assert solution.stop is Stop.COMPLETE
    assert solution.outcome.answer is not None
    assert all(len(path.scores) == len(path.steps) for path in solution.outcome.candidates if path.scores)
    assert usage(solution.bill) == spent(before, counted(solver))


@pytest.mark.parametrize("arm", ARMS)
async def test_a_cap_is_never_passed(solver, arm):
    before = counted(solver)
    request = Request(PROMPTS[2], arm=Arm.parse(arm), max_generated_tokens=30, allow_partial=True)
    solution = await solver.solve(request)
    assert solution.bill.generated_tokens <= 30
    assert usage(solution.bill) == spent(before, counted(solver))


@pytest.mark.parametrize("arm", ["majority(n=8)", "beam_search(n=8, m=4)", "revision(n=4, chains=2)"])
async def test_cancelling_frees_the_engine_and_leaves_an_exact_bill(solver, arm):
    before = counted(solver)
    bill = solver.new_bill()
    task = asyncio.create_task(solver.solve(Request(PROMPTS[2], arm=Arm.parse(arm)), bill))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert usage(bill) == spent(before, counted(solver))
    await asyncio.sleep(0.5)
    assert usage(bill) == spent(before, counted(solver))  # nothing goes on behind the caller's back


async def test_batching_changes_no_solution(solver):
    """Greedy solutions written together equal those that transformers writes alone."""
    from transformers import GenerationConfig

    generator = solver.generator
    together = await asyncio.gather(*(write(generator, prompt) for prompt in PROMPTS))
    batcher = generator.batcher
    for prompt, path in zip(PROMPTS, together, strict=True):
        ids = batcher.tokenizer(generator.spec.template.render(prompt), return_tensors="pt")
        config = GenerationConfig(max_new_tokens=160, do_sample=False, pad_token_id=0, eos_token_id=list(batcher._eos))
        alone = batcher.model.generate(**ids, generation_config=config)[0, ids["input_ids"].shape[1] :].tolist()
        assert list(path.tokens) == [token for token in alone if token not in batcher._eos]


async def test_samples_share_one_prefill(solver):
    spend = Usage()
    await solver.generator.extend(
        PROMPTS[0], [Attempt()] * 8, steps=None, temperature=None, max_tokens=None, deadline=None, seed=0, usage=spend
    )
    encode = solver.generator.batcher.tokenizer.encode
    assert spend.prompt_tokens == len(encode(solver.generator.spec.template.render(PROMPTS[0])))


async def test_a_step_is_scored_the_same_alone_and_among_others(solver):
    paths = [await write(solver.generator, PROMPTS[2]), Attempt(steps=("71 - 46 = 25\n",)), Attempt(steps=("7\n", "8"))]
    together = await solver.verifier.score(PROMPTS[2], paths, max_tokens=None, usage=Usage())
    for path, scored in zip(paths, together, strict=True):
        (alone,) = await solver.verifier.score(PROMPTS[2], [path], max_tokens=None, usage=Usage())
        assert scored.scores == pytest.approx(alone.scores, abs=1e-4)


async def test_a_deadline_is_kept_and_returns_what_there_is(solver):
    loop = asyncio.get_running_loop()
    started = loop.time()
    request = Request(PROMPTS[2], arm=Arm.parse("majority(n=64)"), seconds=2.0, allow_partial=True)
    solution = await solver.solve(request)
    assert loop.time() - started < 2.0
    assert solution.stop is Stop.DEADLINE
    assert solution.bill.generated_tokens > 0


async def test_the_loop_is_never_blocked(solver):
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    started = asyncio.get_running_loop().time()
    async for _ in drive(Arm("majority", 8), Request(PROMPTS[2]), solver.generator, solver.verifier, solver.new_bill()):
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
        [sys.executable, "-m", "router.demo", "--bundle", str(BUNDLE), "--budget", "4"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.count("right") >= 3
