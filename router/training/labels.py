"""Labels for a process reward model without human labels: from worked solutions, or from how attempts ended."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate

import pandas as pd

from router.attempts.prompts import Prompt
from router.errors import InvalidFile
from router.training.examples import LabelledSteps


def steps_of(text: str, delimiter: str) -> tuple[str, ...]:
    """A solution's steps, each with the delimiter that ends it, as the engine cuts them.

    A blank line is no step: it belongs to the step after it, at the end to the one before.
    """
    steps: list[str] = []
    rest = text
    begun = ""
    while rest:
        line, found, rest = rest.partition(delimiter)
        begun += line + found
        if begun.strip():
            steps.append(begun)
            begun = ""
    if begun and steps:
        steps[-1] += begun
    return tuple(steps)


def from_solutions(attempts: pd.DataFrame, prompts: Sequence[Prompt], delimiter: str) -> list[LabelledSteps]:
    """Exact labels: a step is right (1) while it, and every step before it, is the worked solution's.

    Right for tasks whose solutions have one canonical form, as a fine-tuned generator's do. The worked solution itself
    is one more right attempt: a prompt that was never solved has none else. Raises InvalidFile where a prompt of the
    attempts has no worked solution.
    """
    solutions = {prompt.id: prompt.solution for prompt in prompts}
    sampled: dict[tuple[str, str], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for key, steps, count in _distinct(attempts, delimiter):
        sampled[key][steps] = count
    examples = []
    for (prompt_id, prompt), counts in sampled.items():
        solution = solutions.get(prompt_id)
        if solution is None:
            raise InvalidFile(
                f"prompt {prompt_id!r} has attempts but no worked solution; add one, or leave out --solutions"
            )
        worked = steps_of(solution, delimiter)
        counts[worked] += 1
        for steps, count in counts.items():
            agrees = (i < len(worked) and step.strip() == worked[i].strip() for i, step in enumerate(steps))
            examples.append(LabelledSteps(prompt, steps, tuple(map(float, accumulate(agrees, min))), count))
    return examples


def from_outcomes(attempts: pd.DataFrame, delimiter: str) -> list[LabelledSteps]:
    """Soft Monte-Carlo labels: a step's is the share of right attempts among those that begin with the same steps.

    Every attempt is a rollout of each of its own prefixes, so no further sampling is spent (Snell et al., appendix D,
    sample 16 rollouts a step). Attempts without ``correct`` are left out; raises InvalidFile where none is left.
    """
    known = attempts[attempts["correct"].notna()]
    if known.empty:
        raise InvalidFile("no attempt says whether it is correct; give the prompts references, or use --solutions")
    outcomes: dict[tuple[str, tuple[str, ...]], list[bool]] = defaultdict(list)
    for row in known.itertuples():
        steps = steps_of(row.text, delimiter)
        for prefix in accumulate(((step,) for step in steps), tuple.__add__):
            outcomes[row.prompt_id, prefix].append(bool(row.correct))
    examples = []
    for (prompt_id, prompt), steps, count in _distinct(known, delimiter):
        rollouts = (outcomes[prompt_id, steps[: i + 1]] for i in range(len(steps)))
        examples.append(LabelledSteps(prompt, steps, tuple(sum(right) / len(right) for right in rollouts), count))
    return examples


def _distinct(attempts: pd.DataFrame, delimiter: str) -> list[tuple[tuple[str, str], tuple[str, ...], int]]:
    """(prompt id, prompt), steps and count of every different attempt that has steps."""
    counts = attempts.groupby(["prompt_id", "prompt", "text"], sort=False).size()
    rows = (
        ((prompt_id, prompt), steps_of(text, delimiter), int(count))
        for (prompt_id, prompt, text), count in counts.items()
    )
    return [(prompt, steps, count) for prompt, steps, count in rows if steps]
