"""Scripted engines without a model, deterministic. For tests, and for starting a server without weights.

A token is one character and its id the character's code point, so texts and tokens always agree. Like a real engine,
the generator samples all open candidates in one batch, token by token. It ends each solution with an end-of-sequence
token that is billed but not part of the candidate. It keeps its own count of what it did (``counted``), for comparison
with a bill.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path as Folder
from random import Random

from router.backends import Generator, Usage
from router.backends.specs import Deployment, ModelSpec, VerifierSpec
from router.backends.states import State
from router.prompt import Prompt
from strategies import Candidate

DELIMITER = "\n"

# Returns the text that follows a candidate up to the end of its solution, given the prompt's text and random numbers.
Write = Callable[[str, Candidate, Random], str]
# Returns one score in [0, 1] for each step of a solution of the prompt.
Judge = Callable[[str, Sequence[str]], Sequence[float]]


def load_model(
    name: str, spec: ModelSpec, folder: Folder, deployment: Deployment, *, log_probs: bool = True
) -> "FakeGenerator":
    """Return a generator with the number of parameters that the bundle gives, for its FLOPs. No weights are read."""
    return FakeGenerator(parameters=spec.parameters, name=name)


def load_verifier(
    spec: VerifierSpec, main: ModelSpec, writer: Generator | None, folder: Folder, deployment: Deployment
) -> "FakeVerifier":
    """Return a verifier with the number of parameters that the bundle gives."""
    return FakeVerifier(parameters=spec.parameters)


def calculate(prompt: str, candidate: Candidate, rng: Random) -> str:
    """Work out the prompt's first arithmetic expression, one operation a step. Longer prompts make slips likelier.

    A slip is carried on, as a language model would: the next step starts from the last one's result.
    """
    terms, slip = _terms(prompt), min(0.5, len(prompt) / 500)
    done = sum(" = " in step for step in candidate.steps)
    total = int(candidate.steps[done - 1].rsplit(" = ", 1)[1]) if done else terms[0][1]
    lines = []
    for operator, term in terms[done + 1 :]:
        result = _OPERATE[operator](total, term) + (rng.choice([-10, -1, 1, 10]) if rng.random() < slip else 0)
        lines.append(f"{total} {operator} {term} = {result}")
        total = result
    return DELIMITER.join([*lines, f"Answer: {total}"])


def check(prompt: str, steps: Sequence[str]) -> list[float]:
    """Score the steps of :func:`calculate`: 0.9 up to the first slip, 0.2 from there on."""
    right = calculate(prompt, Candidate(), _Steady()).split(DELIMITER)
    agrees = [i < len(right) and step.rstrip(DELIMITER) == right[i] for i, step in enumerate(steps)]
    return [0.9 if all(agrees[: i + 1]) else 0.2 for i in range(len(steps))]


@dataclass
class FakeGenerator:
    """``latency``: seconds a token of the whole batch takes. ``longest``: tokens of the longest solution."""

    write: Write = calculate
    latency: float = 0.0
    longest: int = 512
    parameters: int = 1_000
    name: str = ""
    counted: Usage = field(default_factory=Usage)

    async def extend(
        self,
        prompt: Prompt,
        candidates: Sequence[Candidate],
        *,
        steps: int | None,
        temperature: float | None,
        max_tokens: int | None,
        deadline: float | None,
        seed: int,
        usage: Usage,
        longest: int | None = None,
    ) -> list[Candidate]:
        """See ``backends.Generator``."""
        counts, text = (usage, self.counted), _said(prompt)
        prefixes = {(candidate.earlier, candidate.tokens) for candidate in candidates if candidate.end is None}
        for count in counts:
            count.calls += 1
            count.prompt_tokens += sum(
                len(text) + len("".join(chain.from_iterable(earlier))) + len(toks) for earlier, toks in prefixes
            )
        beams = [
            _Beam(
                candidate,
                "" if candidate.end else self.write(text, candidate, _random(text, candidate, seed, i, temperature)),
                steps,
            )
            for i, candidate in enumerate(candidates)
        ]
        spent, room = 0, self.longest if longest is None else min(longest, self.longest)
        while any(beam.open for beam in beams):
            await asyncio.sleep(self.latency)
            late = deadline is not None and time.monotonic() + self.latency >= deadline
            for beam in beams:
                if not beam.open:
                    continue
                if late or spent == max_tokens or len(beam.candidate.tokens) + len(beam.written) >= room:
                    beam.end, beam.open = "cut" if late or spent == max_tokens else "length", False
                    continue
                spent += 1
                for count in counts:
                    count.generated_tokens += 1
                beam.sample()
        return [beam.extended() for beam in beams]

    async def prefer(
        self, prompts: Sequence[Prompt], answers: tuple[str, str], *, max_tokens: int | None, usage: Usage
    ) -> list[float | None]:
        """See ``backends.Prefers``. Gives 0.9 where the prompt states its first expression's result (``Answer: 7``)."""
        found: list[float | None] = []
        spent = 0
        for prompt in prompts:
            text = _said(prompt)
            if max_tokens is not None and spent + len(text) > max_tokens:
                found.append(None)
                continue
            spent += len(text)
            for count in (usage, self.counted):
                count.add(calls=1, scored_tokens=len(text))
            right = calculate(text, Candidate(), _Steady()).rpartition(" ")[2]
            said = re.findall(r"Answer: (-?\d+)", text)
            found.append(0.9 if said[-1:] == [right] else 0.2)
        return found

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        """Return each prompt's number of characters, of digits and of terms, once for each state."""
        for count in (usage, self.counted):
            count.calls += 1
            count.prompt_tokens += sum(prompt.characters for prompt in prompts)
        texts = [prompt.question for prompt in prompts]
        counts = [[float(len(text)), float(sum(map(str.isdigit, text))), float(len(_terms(text)))] for text in texts]
        return [count * len(states) for count in counts]

    async def close(self) -> None:
        return None


@dataclass
class FakeVerifier:
    """Reads the prompt and the solution of each candidate. ``latency``: seconds a call takes."""

    judge: Judge = check
    latency: float = 0.0
    parameters: int = 1_000
    counted: Usage = field(default_factory=Usage)

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        """See ``backends.Verifier``."""
        await asyncio.sleep(self.latency)
        counts = (usage, self.counted)
        for count in counts:
            count.calls += 1
        scored, spent = [], 0
        for candidate in candidates:
            read = prompt.characters + len(candidate.text)
            if not candidate.steps or (max_tokens is not None and spent + read > max_tokens):
                scored.append(replace(candidate, scores=None))
                continue
            spent += read
            for count in counts:
                count.scored_tokens += read
            scores = tuple(self.judge(prompt.question, candidate.steps))
            wrong = "That is wrong." if scores[-1] < 0.5 else ""
            scored.append(replace(candidate, scores=scores, finding=wrong))
        return scored

    async def close(self) -> None:
        return None


class _Beam:
    """One candidate while it is written. ``rest``: the text that the script has for it."""

    def __init__(self, candidate: Candidate, rest: str, steps: int | None):
        self.candidate = candidate
        self.rest = rest
        self.steps = steps
        self.open = candidate.end is None
        self.end = candidate.end
        self.written = ""

    def sample(self) -> None:
        if len(self.written) == len(self.rest):  # this token is the end of the sequence
            self.end, self.open = "stop", False
            return
        self.written += self.rest[len(self.written)]
        if self.written.count(DELIMITER) == self.steps and self.written.endswith(DELIMITER):
            self.open = False

    def extended(self) -> Candidate:
        steps = tuple(re.findall(rf"[^{DELIMITER}]*{DELIMITER}|[^{DELIMITER}]+", self.written))
        return replace(
            self.candidate,
            steps=self.candidate.steps + steps,
            tokens=self.candidate.tokens + tuple(map(ord, self.written)),
            # Any deterministic figure will do; digits are the uncertain tokens.
            log_probs=self.candidate.log_probs + tuple(-0.1 * (1 + sum(map(str.isdigit, step))) for step in steps),
            token_counts=self.candidate.token_counts + tuple(map(len, steps)),
            scores=None if steps else self.candidate.scores,
            end=self.end,
        )


class _Steady(Random):
    """A source of random numbers with which :func:`calculate` never slips."""

    def random(self) -> float:
        return 1.0


def _said(prompt: Prompt) -> str:
    """Return the texts of all messages in a row. Their characters are the prompt's tokens."""
    return "".join(message.text for message in prompt.messages)


def _random(prompt: str, candidate: Candidate, seed: int, index: int, temperature: float | None) -> Random:
    """Return a candidate's random numbers. Greedy ones depend on the prefix alone; others differ for each candidate."""
    drawn = "" if temperature == 0 else f"{seed}/{index}"
    return Random(f"{drawn}|{prompt}|{candidate.earlier}|{candidate.text}")


_OPERATE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _terms(prompt: str) -> list[tuple[str, int]]:
    """Return the terms of the first expression: ``4 - 1`` is [("+", 4), ("-", 1)]; without numbers, the word count."""
    # Short numbers only: Python refuses to read those of thousands of digits.
    expression = re.search(r"\d{1,100}(?:\s*[+*-]\s*\d{1,100})*", prompt)
    found = re.findall(r"([+*-]?)\s*(\d+)", expression[0]) if expression else [("", str(len(prompt.split())))]
    return [(operator or "+", int(number)) for operator, number in found]
