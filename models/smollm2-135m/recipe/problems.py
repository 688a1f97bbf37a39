"""Problems with worked, step-by-step solutions: what the embedded model is fine-tuned and judged on.

Three reasoning-gym tasks, each with knobs that take it from easy to impossible for a 135M model. A worked solution is
canonical (left to right, one ``a op b = c`` line a step, then ``Answer: n``), so a sampled step can be checked exactly:
it is right when it, and every step before it, is the canonical one.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import reasoning_gym
from reasoning_gym.arithmetic.leg_counting import ANIMALS

# (task, knobs, weight): one stratum and how often it is drawn. The weights spread the fine-tuned model's pass rates: at
# equal weights two prompts in five were never solved, and five distinct levels need what is in between.
STRATA: list[tuple[str, dict[str, int], float]] = [
    ("chain_sum", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}, 1.0),
    ("chain_sum", {"min_terms": 4, "max_terms": 6, "min_digits": 1, "max_digits": 1}, 2.0),
    ("chain_sum", {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 2}, 1.5),
    ("chain_sum", {"min_terms": 4, "max_terms": 4, "min_digits": 2, "max_digits": 2}, 0.5),
    ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3}, 0.7),
    ("leg_counting", {"min_animals": 1, "max_animals": 2, "max_instances": 9}, 2.0),
    ("leg_counting", {"min_animals": 3, "max_animals": 3, "max_instances": 9}, 2.0),
    ("products", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}, 1.0),
    ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}, 0.3),
]

OPERATE = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


@dataclass(frozen=True)
class Problem:
    """A generated problem. ``steps`` are lines of the canonical solution, without the newline that ends each."""

    id: str
    prompt: str
    reference: str
    steps: tuple[str, ...]

    @property
    def solution(self) -> str:
        return "\n".join(self.steps)


def generate(n: int, seed: int, exclude: frozenset[str] = frozenset()) -> list[Problem]:
    """``n`` problems over all strata, in random order, no prompt twice and none from ``exclude``.

    Different seeds may meet on small problems (there are only so many sums of two digits): pass the prompts that a set
    must be disjoint from as ``exclude``.
    """
    rng = random.Random(seed)
    streams = [_stream(task, knobs, rng.randrange(2**31)) for task, knobs, _ in STRATA]
    weights = [weight for _, _, weight in STRATA]
    seen = set(exclude)
    problems: list[Problem] = []
    while len(problems) < n:
        # Small strata run dry of new prompts; after a few repeats, draw another stratum.
        stream = rng.choices(streams, weights)[0]
        fresh = next((problem for problem in islice(stream, 20) if problem.prompt not in seen), None)
        if fresh:
            seen.add(fresh.prompt)
            problems.append(fresh)
    return problems


def _stream(task: str, knobs: dict[str, int], seed: int) -> Iterator[Problem]:
    for block in count():
        for index, entry in enumerate(reasoning_gym.create_dataset(task, size=100, seed=seed + block, **knobs)):
            yield Problem(
                id=f"{task}-{seed + block}-{index}",
                prompt=entry["question"].strip(),
                reference=entry["answer"],
                steps=(*WORKED[task](entry["metadata"]), f"Answer: {entry['answer']}"),
            )


def _chain(first: int, rest: list[tuple[str, int]]) -> list[str]:
    lines, total = [], first
    for operator, term in rest:
        result = OPERATE[operator](total, term)
        lines.append(f"{total} {operator} {term} = {result}")
        total = result
    return lines


def _chain_sum(metadata: dict) -> list[str]:
    first, *rest = re.findall(r"([+*-]?) ?(\d+)", metadata["expression"])
    return _chain(int(first[1]), [(operator, int(term)) for operator, term in rest])


def _products(metadata: dict) -> list[str]:
    """One-digit chains left to right; 47 * 36 as 47 * 30, 47 * 6 and their sum."""
    factors = [int(factor) for factor in metadata["expression"].split("*")]
    if max(factors[1:]) < 10:
        return _chain(factors[0], [("*", factor) for factor in factors[1:]])
    a, b = factors
    tens, ones = b // 10 * 10, b % 10
    return [f"{a} * {tens} = {a * tens}", f"{a} * {ones} = {a * ones}", f"{a * tens} + {a * ones} = {a * b}"]


def _leg_counting(metadata: dict) -> list[str]:
    counts = [(n, ANIMALS[animal], animal) for animal, n in metadata["animals"].items()]
    lines = [f"{animal}: {n} * {legs} = {n * legs}" for n, legs, animal in counts]
    first, *rest = (n * legs for n, legs, _ in counts)
    return lines + _chain(first, [("+", legs) for legs in rest])


WORKED = {"chain_sum": _chain_sum, "leg_counting": _leg_counting, "products": _products}


def corrupt(problem: Problem, rng: random.Random) -> str:
    """A plausible wrong attempt: one step's result is off, and every later step follows from the slip."""
    lines = list(problem.steps[:-1])
    slip = rng.randrange(len(lines))
    wrong: dict[str, str] = {}
    for i, line in enumerate(lines):
        left, right = line.rsplit(" = ", 1)
        if i > slip:  # replace only the operands that come from an earlier, now different, result
            left = re.sub(r"-?\d+", lambda m: wrong.get(m.group(), m.group()), left)
            a, operator, b = re.search(r"(-?\d+) ([+*-]) (-?\d+)$", left).groups()
            result = OPERATE[operator](int(a), int(b))
        else:
            result = int(right)
        if i == slip:
            result += rng.choice([-20, -10, -2, -1, 1, 2, 10, 20])
        if str(result) != right:
            wrong[right] = str(result)
        lines[i] = f"{left} = {result}"
    return "\n".join([*lines, f"Answer: {lines[-1].rsplit(' = ', 1)[1]}"])
