"""A model that is asked whether a solution is right. Its probability of saying yes is the score.

The probability is read off the next token's probabilities where the model's engine gives them. Otherwise verdicts are
sampled and counted.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

from pydantic import Field

from router.backends import Asked, Generator, Usage
from router.backends.verifiers.asking import filled_in
from router.errors import InvalidRequest
from router.prompt import Prompt
from router.schema import STRICT, Positive
from strategies import Candidate

PROMPT = """Here is a problem and a solution that somebody proposes. Decide whether its final answer is right.

Problem:
{question}

Proposed solution:
{solution}

Is the proposed solution right? Reply with one word, {yes} or {no}."""


@dataclass(frozen=True, slots=True)
class Options:
    """The judge's settings in models.json.

    prompt      the question to the model, with {question}, {solution}, {yes} and {no}
    yes, no     the two verdicts
    sampled     sample verdicts even where the engine gives probabilities: for models that think first
    samples     number of verdicts sampled for each solution
    max_tokens  most tokens of a sampled verdict
    """

    __pydantic_config__ = STRICT

    prompt: Annotated[str, Field(pattern=r"\{solution\}")] = PROMPT
    yes: Annotated[str, Field(min_length=1)] = "Yes"
    no: Annotated[str, Field(min_length=1)] = "No"
    sampled: bool = False
    samples: Annotated[int, Field(ge=1, le=64)] = 5
    max_tokens: Positive = 16


class Judge:
    """Scores whole solutions by the model's verdict; each step of a solution gets the score of the whole.

    Solutions that could not be chosen, since they were cut or state no answer, stay unscored. So do solutions that the
    model has no room for. ``model``: the model's name in the bundle and on the bill.
    """

    def __init__(
        self, generator: Generator, model: str, options: Options, may_generate: Callable[[], int | None] = lambda: None
    ):
        """may_generate: returns how many tokens may still be written for the prompt; None: any number."""
        self.model = model
        self.parameters = generator.parameters
        self._generator, self._options, self._may_generate = generator, options, may_generate
        word = rf"\b(?:({re.escape(options.yes)})|{re.escape(options.no)})\b"
        self._verdict = re.compile(word, re.I)

    async def prepared(self, asked: Asked, usage: Usage) -> tuple[Self, Any]:
        return type(self)(self._generator, self.model, self._options, asked.may_generate), asked.task

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        texts = list(dict.fromkeys(candidate.text for candidate in candidates if _stands(candidate)))
        asks = [self._question(prompt, text) for text in texts]
        prefer = None if self._options.sampled else getattr(self._generator, "prefer", None)
        if prefer:
            verdicts = (self._options.yes, self._options.no)
            found = await prefer(asks, verdicts, max_tokens=max_tokens, usage=usage)
        else:
            found = await self._sampled(asks, max_tokens, usage)
        scores = dict(zip(texts, found, strict=True))
        return [
            replace(candidate, scores=None if score is None else (score,) * len(candidate.steps))
            for candidate in candidates
            for score in [scores.get(candidate.text) if _stands(candidate) else None]
        ]

    def _question(self, prompt: Prompt, solution: str) -> Prompt:
        options = self._options
        text = filled_in(
            options.prompt, question=prompt.transcript, solution=solution.strip(), yes=options.yes, no=options.no
        )
        return Prompt.of(text)

    async def _sampled(self, asks: Sequence[Prompt], max_tokens: int | None, usage: Usage) -> list[float | None]:
        """Return the share of sampled verdicts that are yes, after adding one yes and one no, so never 0 or 1."""
        found: list[float | None] = []
        spent = 0
        for ask in asks:
            left, read = self._may_generate(), Usage()
            # The prompt has at most one token a byte, and the template adds a few: so the cap can't be exceeded.
            longest = len(ask.question.encode(errors="replace")) + 256
            if left == 0 or (max_tokens is not None and spent + longest > max_tokens):
                found.append(None)
                continue
            samples = self._options.samples
            most = samples * self._options.max_tokens
            try:
                verdicts = await self._generator.extend(
                    ask,
                    [Candidate()] * samples,
                    steps=None,
                    temperature=None,
                    max_tokens=most if left is None else min(most, left),
                    deadline=None,
                    seed=zlib.crc32(ask.question.encode(errors="replace")),
                    usage=read,
                )
            except InvalidRequest as error:
                if error.reason != "PROMPT_TOO_LONG":
                    raise
                verdicts = []
            finally:
                spent += read.prompt_tokens
                usage.add(calls=read.calls, scored_tokens=read.prompt_tokens, generated_tokens=read.generated_tokens)
            said = [matches[-1] for each in verdicts if (matches := list(self._verdict.finditer(each.text)))]
            found.append((sum(match[1] is not None for match in said) + 1) / (len(said) + 2) if said else None)
        return found

    async def close(self) -> None:
        """Do nothing: its model is one of the bundle's, and is closed with those."""


def _stands(candidate: Candidate) -> bool:
    """Tell whether the candidate could be chosen. One from a file says neither how it ended nor what it answers."""
    return bool(candidate.steps) and (candidate.end is None or (candidate.finished and candidate.answer is not None))


def load(spec: Any, options: Options, generator: Generator) -> Judge:
    return Judge(generator, spec.model, options)
