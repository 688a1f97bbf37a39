"""What only the scripted engines promise; what every engine does, test_contract.py checks."""

import re

from router.backends import Usage
from router.backends.fake import FakeGenerator
from router.prompt import Message, Prompt
from strategies import Candidate, Earlier

TEXT = "What is 38 + 47 - 16 + 29 - 12 ?"
PROMPT = Prompt.of(TEXT)


async def extend(
    generator: FakeGenerator, candidates: list[Candidate], usage: Usage | None = None, **options
) -> list[Candidate]:
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    usage = Usage() if usage is None else usage
    return await generator.extend(PROMPT, candidates, **{**defaults, **options}, usage=usage)


async def test_a_prefix_continues_exactly(generator):
    for _ in range(9):
        candidate = Candidate()
        while candidate.end is None:
            (longer,) = await extend(generator, [candidate], steps=1)
            assert longer.steps[: len(candidate.steps)] == candidate.steps
            assert len(longer.steps) - len(candidate.steps) == 1
            candidate = longer
    assert re.fullmatch(r"38 \+ 47 = .*\n.* - 16 = .*\n.* \+ 29 = .*\n.* - 12 = .*\nAnswer: -?\d+", candidate.text)


async def test_a_shared_prefix_is_prefilled_once(generator):
    usage = Usage()
    (begun,) = await extend(generator, [Candidate()], steps=1)
    await extend(generator, [begun, begun, Candidate(), Candidate(earlier=(Earlier("a", "b"),))], usage)
    assert usage.prompt_tokens == len(TEXT) + len(begun.tokens) + len(TEXT) + len(TEXT) + 2


async def test_the_verifier_gives_one_score_a_step_and_tells_right_from_wrong(verifier):
    right = Candidate(steps=("38 + 47 = 85\n", "85 - 16 = 69\n"), tokens=(0,) * 26)
    wrong = Candidate(steps=("38 + 47 = 86\n", "86 - 16 = 70\n", "70 + 29 = 99\n"), tokens=(0,) * 39)
    usage = Usage()
    scored = await verifier.score(PROMPT, [right, wrong], max_tokens=None, usage=usage)
    assert [candidate.scores for candidate in scored] == [(0.9, 0.9), (0.2, 0.2, 0.2)]
    assert usage.scored_tokens == 2 * len(TEXT) + 26 + 39


async def test_engines_count_for_themselves(generator, verifier):
    usage = Usage()
    candidates = await extend(generator, [Candidate()] * 2, usage)
    await generator.embed([PROMPT], usage=usage)
    await verifier.score(PROMPT, candidates, max_tokens=None, usage=usage)
    mine, theirs = generator.counted, verifier.counted
    assert usage == Usage(mine.prompt_tokens, mine.generated_tokens, theirs.scored_tokens, mine.calls + theirs.calls)


async def test_all_messages_are_read_and_the_last_one_is_answered(generator, verifier):
    prompt = Prompt((Message("user", "1 + 1 ="), Message("assistant", "2"), Message("user", "3 + 4 =")))
    usage = Usage()
    (written,) = await generator.extend(
        prompt, [Candidate()], steps=None, temperature=0, max_tokens=None, deadline=None, seed=0, usage=usage
    )
    assert usage.prompt_tokens == sum(len(message.text) for message in prompt.messages)
    assert written.text.endswith("Answer: 2")  # it works out the first expression that it sees
    assert await generator.embed([prompt], usage=usage) == [[7.0, 2.0, 2.0]]
    await verifier.score(prompt, [written], max_tokens=None, usage=usage)
    assert usage.scored_tokens == sum(len(message.text) for message in prompt.messages) + len(written.text)
