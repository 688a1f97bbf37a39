"""Problems with worked, step-by-step solutions: what the embedded model is fine-tuned and judged on.

Five reasoning-gym tasks, each with knobs that take it from easy to impossible for a 135M model. A worked solution is
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

# (task, knobs, weight in training, weight where judged). Training covers pass rates from near 0 to near 1; the judged
# sets lean to what the model gets right sometimes, since five distinct levels need what is in between.
STRATA: list[tuple[str, dict[str, int], float, float]] = [
    ("chain_sum", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}, 0.7, 1.5),
    ("chain_sum", {"min_terms": 4, "max_terms": 6, "min_digits": 1, "max_digits": 1}, 1.5, 1.5),
    ("chain_sum", {"min_terms": 2, "max_terms": 3, "min_digits": 2, "max_digits": 2}, 1.5, 1.0),
    ("chain_sum", {"min_terms": 4, "max_terms": 4, "min_digits": 2, "max_digits": 2}, 0.5, 0.2),
    ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 3, "max_digits": 3}, 0.5, 0.3),
    ("leg_counting", {"min_animals": 1, "max_animals": 2, "max_instances": 9}, 1.0, 1.5),
    ("leg_counting", {"min_animals": 3, "max_animals": 3, "max_instances": 9}, 1.5, 0.5),
    ("products", {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}, 1.0, 1.5),
    ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}, 0.5, 0.2),
    ("simple_equations", {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 9}, 1.5, 2.0),
    ("simple_equations", {"min_terms": 2, "max_terms": 3, "min_value": 1, "max_value": 20}, 1.0, 0.4),
    ("gcd", {"min_value": 2, "max_value": 30}, 1.0, 1.0),
    ("gcd", {"min_value": 10, "max_value": 100}, 1.0, 0.7),
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


def generate(n: int, seed: int, exclude: frozenset[str] = frozenset(), *, judged: bool = False) -> list[Problem]:
    """``n`` problems over all strata, in random order, no prompt twice and none from ``exclude``.

    Different seeds may meet on small problems (there are only so many sums of two digits): pass the prompts that a set
    must be disjoint from as ``exclude``.
    """
    rng = random.Random(seed)
    streams = [_stream(task, knobs, rng.randrange(2**31)) for task, knobs, *_ in STRATA]
    weights = [where_judged if judged else in_training for *_, in_training, where_judged in STRATA]
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
    # reasoning-gym seeds an entry with its data set's seed plus its index: the next block starts where this one ends.
    for block in count(seed, step=100):
        for index, entry in enumerate(reasoning_gym.create_dataset(task, size=100, seed=block, **knobs), start=block):
            if steps := WORKED[task](entry["metadata"]):
                yield Problem(
                    id=f"{task}-{index}",
                    prompt=entry["question"].strip(),
                    reference=entry["answer"],
                    steps=(*steps, f"Answer: {entry['answer']}"),
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


def _equation(metadata: dict) -> list[str]:
    """``a*x + b = c``, ``a*x - b = c``, ``b - a*x = c`` and the like; none for what cancels out, as ``0 = 0``."""
    found = re.fullmatch(
        r"(?:(?P<before>\d+) - )?(?:(?P<a>\d+)\*)?[a-z](?: (?P<sign>[+-]) (?P<after>\d+))? = (?P<c>-?\d+)",
        metadata["equation"],
    )
    if not found or (found["before"] and found["after"]):
        return []
    a, c = int(found["a"] or 1), int(found["c"])
    lines = []
    if found["before"]:
        lines += _chain(int(found["before"]), [("-", c)])
        c = int(found["before"]) - c
    elif found["after"]:
        undo = "-" if found["sign"] == "+" else "+"
        lines += _chain(c, [(undo, int(found["after"]))])
        c = OPERATE[undo](c, int(found["after"]))
    return [*lines, f"{c} / {a} = {c // a}"] if a > 1 else lines


def _gcd(metadata: dict) -> list[str]:
    """Euclid's algorithm."""
    b, a = sorted(metadata["numbers"])
    lines = []
    while b:
        lines.append(f"{a} % {b} = {a % b}")
        a, b = b, a % b
    return lines


WORKED = {
    "chain_sum": _chain_sum,
    "gcd": _gcd,
    "leg_counting": _leg_counting,
    "products": _products,
    "simple_equations": _equation,
}
