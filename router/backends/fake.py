"""Scripted engines: deterministic, no model. For tests, and for starting a server where no model is.

A token is one character and its id the character's code point, so texts and tokens always agree. Like a real engine,
the generator samples all open paths in one batch, token by token, ends each solution with an end-of-sequence token that
is billed but not part of the path, and keeps its own count of what it did (``counted``), for comparison with a bill.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as Folder
from random import Random

from router.backends import GeneratorSpec, Usage, VerifierSpec
from strategies import Path

DELIMITER = "\n"

# What follows a path up to the end of its solution, given the prompt; drawn from the random numbers given.
Write = Callable[[str, Path, Random], str]
# One score in [0, 1] for each step of a solution of the prompt.
Judge = Callable[[str, Sequence[str]], Sequence[float]]


def load(generator: GeneratorSpec, verifier: VerifierSpec, folder: Folder) -> tuple["FakeGenerator", "FakeVerifier"]:
    """Engines of the sizes that a bundle names, so that bills have its FLOPs. No weights are read from ``folder``."""
    return FakeGenerator(parameters=generator.parameters), FakeVerifier(parameters=verifier.parameters)


def load_larger(spec: GeneratorSpec, folder: Folder) -> "FakeGenerator":
    """Writes what the smaller one does: for tests of who is asked, and of the bill."""
    return FakeGenerator(parameters=spec.parameters)


def calculate(prompt: str, path: Path, rng: Random) -> str:
    """Work out the prompt's first arithmetic expression, one operation a step; slips grow with the prompt's length.

    A slip is carried on, as a language model would: the next step starts from the last one's result.
    """
    terms, slip = _terms(prompt), min(0.5, len(prompt) / 500)
    done = sum(" = " in step for step in path.steps)
    total = int(path.steps[done - 1].rsplit(" = ", 1)[1]) if done else terms[0][1]
    lines = []
    for operator, term in terms[done + 1 :]:
        result = _OPERATE[operator](total, term) + (rng.choice([-10, -1, 1, 10]) if rng.random() < slip else 0)
        lines.append(f"{total} {operator} {term} = {result}")
        total = result
    return DELIMITER.join([*lines, f"Answer: {total}"])


def check(prompt: str, steps: Sequence[str]) -> list[float]:
    """Judge of :func:`calculate`'s steps: 0.9 up to the first slip, 0.2 from there on."""
    right = calculate(prompt, Path(), _Steady()).split(DELIMITER)
    agrees = [i < len(right) and step.rstrip(DELIMITER) == right[i] for i, step in enumerate(steps)]
    return [0.9 if all(agrees[: i + 1]) else 0.2 for i in range(len(steps))]


@dataclass
class FakeGenerator:
    """``latency``: seconds a token of the whole batch takes. ``longest``: tokens of the longest solution."""

    write: Write = calculate
    latency: float = 0.0
    longest: int = 512
    parameters: int = 1_000
    counted: Usage = field(default_factory=Usage)

    async def extend(
        self,
        prompt: str,
        paths: Sequence[Path],
        *,
        steps: int | None,
        temperature: float | None,
        max_tokens: int | None,
        deadline: float | None,
        seed: int,
        usage: Usage,
    ) -> list[Path]:
        """See ``backends.Generator``."""
        counts = (usage, self.counted)
        prefixes = {(path.earlier, path.tokens) for path in paths if path.end is None}
        for count in counts:
            count.calls += 1
            count.prompt_tokens += sum(len(prompt) + len("".join(earlier)) + len(toks) for earlier, toks in prefixes)
        beams = [
            _Beam(
                path, "" if path.end else self.write(prompt, path, _random(prompt, path, seed, i, temperature)), steps
            )
            for i, path in enumerate(paths)
        ]
        spent = 0
        while any(beam.open for beam in beams):
            await asyncio.sleep(self.latency)
            late = deadline is not None and time.monotonic() + self.latency >= deadline
            for beam in beams:
                if not beam.open:
                    continue
                if late or spent == max_tokens or len(beam.path.tokens) + len(beam.written) >= self.longest:
                    beam.end, beam.open = "cut" if late or spent == max_tokens else "length", False
                    continue
                spent += 1
                for count in counts:
                    count.generated_tokens += 1
                beam.sample()
        return [beam.extended() for beam in beams]

    async def embed(self, prompts: Sequence[str], *, usage: Usage) -> list[list[float]]:
        """The number of characters, of digits and of terms of each prompt."""
        for count in (usage, self.counted):
            count.calls += 1
            count.prompt_tokens += sum(map(len, prompts))
        return [
            [float(len(prompt)), float(sum(map(str.isdigit, prompt))), float(len(_terms(prompt)))] for prompt in prompts
        ]

    async def close(self) -> None:
        return None


@dataclass
class FakeVerifier:
    """Reads the prompt and the solution of each path. ``latency``: seconds a call takes."""

    judge: Judge = check
    latency: float = 0.0
    parameters: int = 1_000
    counted: Usage = field(default_factory=Usage)

    async def score(self, prompt: str, paths: Sequence[Path], *, max_tokens: int | None, usage: Usage) -> list[Path]:
        """See ``backends.Verifier``."""
        await asyncio.sleep(self.latency)
        counts = (usage, self.counted)
        for count in counts:
            count.calls += 1
        scored, spent = [], 0
        for path in paths:
            read = len(prompt) + len(path.tokens)
            if not path.steps or (max_tokens is not None and spent + read > max_tokens):
                scored.append(replace(path, scores=None))
                continue
            spent += read
            for count in counts:
                count.scored_tokens += read
            scored.append(replace(path, scores=tuple(self.judge(prompt, path.steps))))
        return scored

    async def close(self) -> None:
        return None


class _Beam:
    """One path while it is written. ``rest``: the text that the script has for it."""

    def __init__(self, path: Path, rest: str, steps: int | None):
        self.path = path
        self.rest = rest
        self.steps = steps
        self.open = path.end is None
        self.end = path.end
        self.written = ""

    def sample(self) -> None:
        if len(self.written) == len(self.rest):  # this token is the end of the sequence
            self.end, self.open = "stop", False
            return
        self.written += self.rest[len(self.written)]
        if self.written.count(DELIMITER) == self.steps and self.written.endswith(DELIMITER):
            self.open = False

    def extended(self) -> Path:
        steps = tuple(re.findall(rf"[^{DELIMITER}]*{DELIMITER}|[^{DELIMITER}]+", self.written))
        return replace(
            self.path,
            steps=self.path.steps + steps,
            tokens=self.path.tokens + tuple(map(ord, self.written)),
            # Any deterministic figure will do; digits are the uncertain tokens.
            log_probs=self.path.log_probs + tuple(-0.1 * (1 + sum(map(str.isdigit, step))) for step in steps),
            token_counts=self.path.token_counts + tuple(map(len, steps)),
            scores=None if steps else self.path.scores,
            end=self.end,
        )


class _Steady(Random):
    """Random numbers that never make :func:`calculate` slip."""

    def random(self) -> float:
        return 1.0


def _random(prompt: str, path: Path, seed: int, index: int, temperature: float | None) -> Random:
    """Greedy decoding depends on the prefix alone; equal paths of one batch are sampled independently."""
    drawn = "" if temperature == 0 else f"{seed}/{index}"
    return Random(f"{drawn}|{prompt}|{path.earlier}|{path.text}")


_OPERATE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _terms(prompt: str) -> list[tuple[str, int]]:
    """``4 - 1`` as [("+", 4), ("-", 1)]; the number of words where the prompt has no number."""
    # Short numbers only: Python refuses to read those of thousands of digits.
    expression = re.search(r"\d{1,100}(?:\s*[+*-]\s*\d{1,100})*", prompt)
    found = re.findall(r"([+*-]?)\s*(\d+)", expression[0]) if expression else [("", str(len(prompt.split())))]
    return [(operator or "+", int(number)) for operator, number in found]
