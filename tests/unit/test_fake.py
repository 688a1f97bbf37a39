"""What only the scripted engines promise; what every engine does, test_contract.py checks."""

import re

from router.backends import Usage
from router.backends.fake import FakeGenerator
from strategies import Candidate

PROMPT = "What is 38 + 47 - 16 + 29 - 12 ?"


async def extend(
    generator: FakeGenerator, paths: list[Candidate], usage: Usage | None = None, **options
) -> list[Candidate]:
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    usage = Usage() if usage is None else usage
    return await generator.extend(PROMPT, paths, **{**defaults, **options}, usage=usage)


async def test_a_prefix_continues_exactly(generator):
    for _ in range(9):
        path = Candidate()
        while path.end is None:
            (longer,) = await extend(generator, [path], steps=1)
            assert longer.steps[: len(path.steps)] == path.steps
            assert len(longer.steps) - len(path.steps) == 1
            path = longer
    assert re.fullmatch(r"38 \+ 47 = .*\n.* - 16 = .*\n.* \+ 29 = .*\n.* - 12 = .*\nAnswer: -?\d+", path.text)


async def test_a_shared_prefix_is_prefilled_once(generator):
    usage = Usage()
    (begun,) = await extend(generator, [Candidate()], steps=1)
    await extend(generator, [begun, begun, Candidate(), Candidate(earlier=("ab",))], usage)
    assert usage.prompt_tokens == len(PROMPT) + len(begun.tokens) + len(PROMPT) + len(PROMPT) + 2


async def test_the_verifier_gives_one_score_a_step_and_tells_right_from_wrong(verifier):
    right = Candidate(steps=("38 + 47 = 85\n", "85 - 16 = 69\n"), tokens=(0,) * 25)
    wrong = Candidate(steps=("38 + 47 = 86\n", "86 - 16 = 70\n", "70 + 29 = 99\n"), tokens=(0,) * 37)
    usage = Usage()
    scored = await verifier.score(PROMPT, [right, wrong], max_tokens=None, usage=usage)
    assert [path.scores for path in scored] == [(0.9, 0.9), (0.2, 0.2, 0.2)]
    assert usage.scored_tokens == 2 * len(PROMPT) + 25 + 37


async def test_engines_count_for_themselves(generator, verifier):
    usage = Usage()
    paths = await extend(generator, [Candidate()] * 2, usage)
    await generator.embed([PROMPT], usage=usage)
    await verifier.score(PROMPT, paths, max_tokens=None, usage=usage)
    mine, theirs = generator.counted, verifier.counted
    assert usage == Usage(mine.prompt_tokens, mine.generated_tokens, theirs.scored_tokens, mine.calls + theirs.calls)
