"""The scripted engines keep the promises of the protocols that real engines keep."""

import re
import time

import pytest

from router.backends import Usage
from router.backends.fake import FakeGenerator
from strategies import Path

PROMPT = "What is 38 + 47 - 16 + 29 - 12 ?"


async def extend(generator: FakeGenerator, paths: list[Path], usage: Usage | None = None, **options) -> list[Path]:
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    usage = Usage() if usage is None else usage
    return await generator.extend(PROMPT, paths, **{**defaults, **options}, usage=usage)


@pytest.mark.parametrize("limits", [{}, {"steps": 1}, {"steps": 2}, {"max_tokens": 37}, {"max_tokens": 1}])
async def test_the_parts_of_a_path_agree(generator, limits):
    for path in await extend(generator, [Path()] * 4, **limits):
        assert "".join(map(chr, path.tokens)) == path.text
        assert sum(path.token_counts) == len(path.tokens)
        assert len(path.log_probs) == len(path.token_counts) == len(path.steps)
        assert all(step.endswith("\n") for step in path.steps[:-1])
        assert all(log_prob < 0 for log_prob in path.log_probs)


async def test_a_prefix_continues_exactly(generator):
    for _ in range(9):
        path = Path()
        while path.end is None:
            (longer,) = await extend(generator, [path], steps=1)
            assert longer.steps[: len(path.steps)] == path.steps
            assert len(longer.steps) - len(path.steps) == 1
            path = longer
    assert re.fullmatch(r"38 \+ 47 = .*\n.* - 16 = .*\n.* \+ 29 = .*\n.* - 12 = .*\nAnswer: -?\d+", path.text)


async def test_the_end_of_sequence_is_billed_but_no_token_of_the_path(generator):
    usage = Usage()
    paths = await extend(generator, [Path()] * 3, usage)
    assert usage.generated_tokens == sum(len(path.tokens) + 1 for path in paths)


async def test_a_shared_prefix_is_prefilled_once(generator):
    usage = Usage()
    (begun,) = await extend(generator, [Path()], steps=1)
    await extend(generator, [begun, begun, Path(), Path(earlier=("ab",))], usage)
    assert usage.prompt_tokens == len(PROMPT) + len(begun.tokens) + len(PROMPT) + len(PROMPT) + 2


@pytest.mark.parametrize("cap", [0, 1, 10, 150])
async def test_the_cap_is_over_all_paths_together(generator, cap):
    usage = Usage()
    paths = await extend(generator, [Path()] * 4, usage, max_tokens=cap)
    assert usage.generated_tokens == cap
    assert [path.end for path in paths] == ["cut"] * 4


async def test_the_longest_solution_is_cut(generator):
    generator.longest = 20
    paths = await extend(generator, [Path()] * 2)
    assert [(path.end, len(path.tokens)) for path in paths] == [("length", 20)] * 2


async def test_a_deadline_brings_back_what_there_is(generator):
    generator.latency = 0.005
    (path,) = await extend(generator, [Path()], deadline=time.monotonic() + 0.05)
    assert path.end == "cut"
    assert 0 < len(path.tokens) <= 10


async def test_ended_paths_come_back_as_they_are(generator):
    ended = [Path(steps=("Answer: 1",), end="stop"), Path(end="length")]
    usage = Usage()
    assert await extend(generator, ended, usage) == ended
    assert usage.generated_tokens == usage.prompt_tokens == 0


async def test_seeds_and_temperature(generator):
    first = await extend(generator, [Path()] * 8, seed=1)
    assert first == await extend(generator, [Path()] * 8, seed=1)
    assert first != await extend(generator, [Path()] * 8, seed=2)
    assert len({path.text for path in first}) > 1
    greedy = await extend(generator, [Path()] * 8, seed=1, temperature=0)
    assert len(set(greedy)) == 1


async def test_the_verifier_gives_one_score_a_step_and_tells_right_from_wrong(verifier):
    right = Path(steps=("38 + 47 = 85\n", "85 - 16 = 69\n"), tokens=(0,) * 25)
    wrong = Path(steps=("38 + 47 = 86\n", "86 - 16 = 70\n", "70 + 29 = 99\n"), tokens=(0,) * 37)
    usage = Usage()
    scored = await verifier.score(PROMPT, [right, wrong], max_tokens=None, usage=usage)
    assert [path.scores for path in scored] == [(0.9, 0.9), (0.2, 0.2, 0.2)]
    assert usage.scored_tokens == 2 * len(PROMPT) + 25 + 37


async def test_a_path_that_cannot_be_scored_is_not_scored_zero(verifier):
    path, usage = Path(steps=("38 + 47 = 85\n",), tokens=(0,) * 13), Usage()
    cap = len(PROMPT) + 13
    scored = await verifier.score(PROMPT, [path, path, Path()], max_tokens=cap, usage=usage)
    assert [path.scores for path in scored] == [(0.9,), None, None]
    assert usage.scored_tokens == cap


async def test_engines_count_for_themselves(generator, verifier):
    usage = Usage()
    paths = await extend(generator, [Path()] * 2, usage)
    await generator.embed([PROMPT], usage=usage)
    await verifier.score(PROMPT, paths, max_tokens=None, usage=usage)
    mine, theirs = generator.counted, verifier.counted
    assert usage == Usage(mine.prompt_tokens, mine.generated_tokens, theirs.scored_tokens, mine.calls + theirs.calls)
