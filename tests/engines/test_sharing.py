"""The in-process engine shared by calls of every length: none waits behind a longer one, and memory has its bounds."""

import asyncio
import contextlib
import gc
import time

import pytest
import torch

from router.backends import Usage, asks, check_room
from router.backends.in_process import memory
from router.backends.in_process.batch import Batch
from router.backends.in_process.step_verifier import StepVerifier
from router.backends.specs import VerifierSpec
from router.backends.states import State
from router.errors import EngineUnavailable, InvalidRequest
from router.prompt import Prompt
from strategies import Candidate
from tests.support import tiny_engine
from tests.support.tiny_engine import Engine

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

LONG = "7" * 6000  # characters, each a token: 24 pieces
SHORT = "7 + 8 ="
TORCH_SAYS = (
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
)


@pytest.fixture(autouse=True)
def one_thread():
    """Several would only wait for each other, on so small a model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
async def engine():
    made: list[Engine] = []

    def make(**options) -> Engine:
        made.append(Engine(**options))
        return made[-1]

    yield make
    for each in made:
        await each.generator.close()


async def test_a_short_prompt_does_not_wait_behind_a_long_one(engine):
    tiny = engine()
    long = asyncio.create_task(tiny.write(LONG))
    await tiny.read(256)
    short = await tiny.write(SHORT, n=4, max_tokens=16)
    assert sum(len(candidate.tokens) for candidate in short) == 16
    assert tiny.batcher.counted.prompt_tokens < 6000  # the long one is still being read
    assert not long.done()
    assert (await long)[0].tokens


async def test_what_nobody_waits_for_any_more_is_read_no_further(engine):
    tiny = engine()
    long = asyncio.create_task(tiny.write(LONG))
    await tiny.read(256)
    long.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await long
    await tiny.write(SHORT)
    assert tiny.batcher.counted.prompt_tokens < 6000


async def test_a_deadline_ends_the_reading_of_a_prompt(engine):
    tiny = engine(slow=0.05)
    (candidate,) = await tiny.write(LONG, deadline=time.monotonic() + 0.2)
    assert candidate.end == "cut"
    assert tiny.batcher.counted.prompt_tokens < 6000


async def test_a_long_prompt_read_in_pieces_is_continued_as_one_read_at_once(engine, monkeypatch):
    in_pieces, at_once = engine(), engine()
    (one,) = await in_pieces.write(LONG[:1000], temperature=0)
    monkeypatch.setattr("router.backends.in_process.prefill.PIECE", 2000)
    (other,) = await at_once.write(LONG[:1000], temperature=0)
    assert one.tokens == other.tokens
    assert one.log_probs == pytest.approx(other.log_probs, abs=1e-3)


async def test_a_call_of_many_candidates_keeps_within_the_memory(engine):
    tokens = 40_000
    tiny = engine(tokens=tokens)
    written = await tiny.write("7" * 1000, n=64, temperature=1.5)
    assert len({candidate.tokens for candidate in written}) > 32
    assert max(rows * columns for rows, columns in tiny.passes) < tokens / 2  # it is copied when it grows
    assert max(rows for rows, _ in tiny.passes) > 4


async def test_it_leaves_room_for_who_comes_next(engine):
    tiny = engine(tokens=40_000, max_tokens=200)
    many = asyncio.create_task(tiny.write("7" * 1000, n=64, temperature=1.5))
    await tiny.read(1000)
    while not any(rows > 4 for rows, _ in tiny.passes):  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.001)
    await tiny.write(SHORT, n=2, max_tokens=8)
    assert not many.done()
    await many


async def test_a_long_prompt_is_read_although_short_ones_keep_coming(engine, monkeypatch):
    monkeypatch.setattr("router.backends.in_process.batching._PATIENCE", 0.2)
    tiny = engine(tokens=40_000, max_tokens=40)
    ended = asyncio.Event()

    async def keep_asking() -> None:
        while not ended.is_set():
            await tiny.write(SHORT, n=8, temperature=1.5)

    busy = [asyncio.create_task(keep_asking()) for _ in range(8)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(100):
        (long,) = await tiny.write("7" * 4000)
    assert long.tokens
    ended.set()
    await asyncio.gather(*busy)


async def test_a_prompt_that_there_is_no_memory_for_is_refused_by_name(engine):
    tiny = engine(tokens=10_000)
    with pytest.raises(InvalidRequest, match="prompt takes 6001 tokens") as raised:
        await tiny.write(LONG)
    assert (raised.value.field, raised.value.reason) == ("prompt", "PROMPT_TOO_LONG")
    assert await tiny.write("7" * 400)


async def test_what_was_kept_for_a_search_goes_with_it(engine):
    tiny = engine()
    usage = Usage()
    await tiny.write("7" * 600, n=4, usage=usage, steps=1)
    assert len(tiny.batcher._prefixes._entries) > 0
    del usage
    gc.collect()
    await tiny.write(SHORT)
    for _ in range(100):  # the engine's thread lets go of a call a moment after its answer
        gc.collect()
        tiny.batcher._prefixes.drop_ended()
        if not tiny.batcher._prefixes._entries:
            break
        await asyncio.sleep(0.05)
    assert len(tiny.batcher._prefixes._entries) == 0
    assert tiny.batcher._prefixes._tokens == 0


async def test_equal_calls_get_equal_samples_whatever_was_before(engine):
    tiny = engine()
    first = await tiny.write(SHORT, n=4, seed=3)
    for number in range(3):
        await tiny.write("7" * (10 + 300 * number), n=1 + 5 * number, seed=number)
        assert await tiny.write(SHORT, n=4, seed=3) == first


async def test_an_allocators_words_go_to_the_log_only(engine, monkeypatch):
    tiny = engine()
    broken = tiny.model.model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError(TORCH_SAYS)))
    with pytest.raises(EngineUnavailable) as raised:
        await tiny.write(SHORT)
    assert "alloc" not in str(raised.value)
    assert "--memory" in str(raised.value)
    broken.remove()
    assert await tiny.write(SHORT)


@pytest.mark.parametrize("n", [1, 4])
async def test_a_call_that_finds_no_memory_for_its_row_fails_and_leaves_no_one_waiting(engine, monkeypatch, n):
    tiny = engine()
    with monkeypatch.context() as patched:
        patched.setattr(Batch, "add", lambda *_: (_ for _ in ()).throw(RuntimeError(TORCH_SAYS)))
        with pytest.raises(EngineUnavailable):
            await asyncio.wait_for(tiny.write(SHORT, n=n), 60)
    assert await tiny.write(SHORT)


async def test_a_layer_that_the_model_lacks_is_the_fault_of_that_call_alone(engine):
    tiny = engine()
    with pytest.raises(InvalidRequest, match="layer=99"):
        await tiny.generator.embed([Prompt.of(SHORT)], [State(layer=99)], usage=Usage())
    assert await tiny.write(SHORT)


def verifier(tiny: Engine) -> StepVerifier:
    return StepVerifier(
        tiny.batcher, tiny_engine.model(1), tiny.generator.template, VerifierSpec("likelihood", "x", 1000)
    )


def solutions(count: int, length: int) -> list[Candidate]:
    return [
        Candidate(steps=(f"{i} " + "1 + 1 = 2, " * (length // 11) + "\n", "Answer: 2"), end="stop")
        for i in range(count)
    ]


async def test_a_verifier_that_holds_its_model_is_billed_as_the_verifier(engine):
    assert asks(verifier(engine())) is None


async def test_scores_do_not_depend_on_how_many_are_read_together(engine, monkeypatch):
    much, little = engine(), engine(tokens=9_000)
    asked = Prompt.of("7" * 700), solutions(12, 600)
    one = await verifier(much).score(*asked, max_tokens=None, usage=Usage())
    few = verifier(little)
    sizes: list[int] = []
    parts = few._parts

    def noted(readings):
        for part in parts(readings):
            sizes.append(len(part))
            yield part

    monkeypatch.setattr(few, "_parts", noted)
    other = await few.score(*asked, max_tokens=None, usage=Usage())
    assert max(sizes) < 12
    for each, again in zip(one, other, strict=True):
        assert each.scores == pytest.approx(again.scores, abs=1e-4)


async def test_a_likelihood_is_asked_for_nothing_that_it_has_no_room_for(engine):
    scoring = verifier(engine())
    scoring.context = 1000
    prompt = Prompt.of("7" * 700)
    await check_room(scoring, prompt, 299)  # the template takes one
    with pytest.raises(InvalidRequest, match="takes 701 tokens of the verifier's context of 1000"):
        await check_room(scoring, prompt, 300)
    long, short = *solutions(1, 400), *solutions(1, 100)
    scored = await scoring.score(prompt, [long, short], max_tokens=2000, usage=Usage())
    assert [each.scores is not None and len(each.scores) for each in scored] == [0, 2]


async def test_a_short_call_is_not_scored_behind_a_long_one(engine):
    tiny = engine()
    scoring = verifier(tiny)
    long = asyncio.create_task(scoring.score(Prompt.of(LONG), solutions(8, 100), max_tokens=None, usage=Usage()))
    while not tiny.batcher._calls:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.001)
    await scoring.score(Prompt.of(SHORT), solutions(2, 40), max_tokens=None, usage=Usage())
    assert not long.done()
    await long


def cgroup(folder, limit: str, current: int, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(limit)
    (folder / "memory.current").write_text(str(current))
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """100 GiB are free."""
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN", tmp_path / "own")
    monkeypatch.setattr(memory, "_MACHINE", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {100 * 2**20} kB\n")
    (tmp_path / "own").write_text("0::/pod/container\n")
    return tmp_path / "cgroup"


def test_what_is_free_goes_by_the_nearest_limit(machine):
    assert memory.free() == 100 * 2**30
    cgroup(machine / "pod/container", "max", 0)
    assert memory.free() == 100 * 2**30
    cgroup(machine / "pod", str(8 * 2**30), 3 * 2**30, 2**30)
    assert memory.free() == 6 * 2**30
    cgroup(machine / "pod/container", str(4 * 2**30), 2**30)
    assert memory.free() == 3 * 2**30


def test_cgroups_of_the_first_version_count_too(machine):
    (machine.parent / "own").write_text("5:cpu:/x\n4:memory:/pod\n0::/\n")
    folder = machine / "memory/pod"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(8 * 2**30))
    (folder / "memory.usage_in_bytes").write_text(str(3 * 2**30))
    (folder / "memory.stat").write_text(f"total_inactive_file {2**30}\n")
    assert memory.free() == 6 * 2**30


def test_the_default_leaves_a_reserve(machine):
    cgroup(machine / "pod", str(10 * 2**30), 0)
    assert memory.budget(None) == (10 * 2**30 - memory.RESERVE) * 3 // 4
    cgroup(machine / "pod", str(10 * 2**30), 9 * 2**30)
    assert memory.budget(None) == memory.LEAST
    assert memory.budget(0.5) == 2**29


def test_models_share_what_there_is():
    pool = memory.Pool(1.0)
    one, two = pool.share(1000), pool.share(1000)
    assert one.tokens == one.most == 2**30 * 3 // 4 // 1000
    assert one.kept == two.kept == 2**30 // 8 // 1000
    two.use(300_000)
    assert one.tokens == one.most - 300_000
    two.close()
    assert (one.tokens, one.kept) == (one.most, 2**30 // 4 // 1000)


async def test_memory_that_another_model_takes_and_gives_back_at_any_time_ends_no_call(engine):
    tiny = engine(tokens=20_000)
    pool = tiny.pool

    class Fickle(memory.Share):
        looks = 0

        @property
        def used(self) -> int:
            self.looks += 1
            return pool.total * (self.looks % 2)

        @used.setter
        def used(self, value: int) -> None: ...

    pool.shares = [*pool.shares, Fickle(pool, 1)]
    calls = [tiny.write(f"{number} + 8 =", max_tokens=8) for number in range(24)]
    assert all(len(candidate.tokens) == 8 for (candidate,) in await asyncio.gather(*calls))


async def test_a_verifier_of_its_own_is_billed_as_the_verifier(engine):
    assert asks(verifier(engine())) is None
