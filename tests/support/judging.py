"""Scripted models for setups whose verifier is a judge: what they write, and which solutions they find right."""

from dataclasses import dataclass, field, replace
from typing import Any

from router.backends import Engines, Usage
from router.backends.fake import FakeGenerator
from router.backends.specs import ModelSpec, Setup, VerifierSpec
from router.backends.template import CHATML
from router.prompt import Prompt
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import load_task
from strategies import Candidate, Result, parse

ASKED = Prompt.of("What is 3 + 4?")
MODEL = ModelSpec(
    "fake", 1_000, CHATML, temperature=0.8, max_tokens=512, backend="fake", input_price=2.0, output_price=3.0
)
LARGE = replace(MODEL, parameters=5_000, input_price=20.0, output_price=30.0)


def setup(kind: str, **fields: Any) -> Setup:
    task = fields.pop("task", "math")
    return Setup("tiny", "small", {"small": MODEL, "large": LARGE}, VerifierSpec(kind, **fields), task=task)


@dataclass
class Preferring(FakeGenerator):
    """A model that finds solutions right that say 7, and remembers what it was asked."""

    asked: list[str] = field(default_factory=list)

    async def prefer(
        self, prompts: Any, answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        found: list[float | None] = []
        for prompt in prompts:
            if max_tokens is not None and max_tokens < prompt.characters:
                found.append(None)
                continue
            max_tokens = None if max_tokens is None else max_tokens - prompt.characters
            usage.add(calls=1, scored_tokens=prompt.characters)
            self.asked.append(prompt.question)
            found.append(0.9 if "Answer: 7" in prompt.question else 0.2)
        return found


class Silent(FakeGenerator):
    """An engine that gives no probabilities."""

    prefer: Any = None


def saying(*said: str, kind: type[FakeGenerator] = Silent, **options: Any) -> FakeGenerator:
    """Return a model whose samples are these texts in turn, again and again."""
    left: list[str] = []

    def write(prompt: str, candidate: Candidate, rng: Any) -> str:
        left[:] = left or said
        return left.pop(0)

    return kind(write=write, **options)


def done(text: str, answer: str | None) -> Candidate:
    return Candidate(steps=(text,), end="stop", answer=answer)


async def solved(arm: str, engines: Engines, bill: Bill, **request: Any) -> Result:
    task = load_task("math")
    *_, last = [each async for each in drive(parse(arm), Request(ASKED, **request), engines, task, bill)]
    assert isinstance(last, tuple)
    return last[0]
