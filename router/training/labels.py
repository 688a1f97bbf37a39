"""Labels for a process reward model without human labels: from worked solutions, or from how attempts ended."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate

import pandas as pd

from router.attempts.prompts import Problem
from router.attempts.schema import prompts_of
from router.errors import InvalidFile
from router.prompt import Prompt
from router.training.examples import LabelledSteps

Split = Callable[[str], tuple[str, ...]]  # a solution's text → its steps, as the engine cuts them


def from_solutions(attempts: pd.DataFrame, problems: Sequence[Problem], split: Split) -> list[LabelledSteps]:
    """Return exact labels: a step is right (1) if it and every step before it equal the worked solution's.

    This suits tasks whose solutions have one canonical form, as a fine-tuned generator's do. The worked solution itself
    counts as one more right attempt: a prompt that was never solved has no other. Raises InvalidFile where a prompt of
    the attempts has no worked solution.
    """
    solutions = {problem.id: problem.solution for problem in problems}
    sampled: dict[tuple[str, Prompt], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for key, steps, count in _distinct(attempts, split):
        sampled[key][steps] = count
    examples = []
    for (prompt_id, prompt), counts in sampled.items():
        solution = solutions.get(prompt_id)
        if solution is None:
            raise InvalidFile(
                f"prompt {prompt_id!r} has attempts but no worked solution; add one, or leave out --solutions"
            )
        worked = split(solution)
        counts[worked] += 1
        for steps, count in counts.items():
            agrees = (i < len(worked) and step.strip() == worked[i].strip() for i, step in enumerate(steps))
            examples.append(LabelledSteps(prompt, steps, tuple(map(float, accumulate(agrees, min))), count))
    return examples


def from_outcomes(attempts: pd.DataFrame, split: Split) -> list[LabelledSteps]:
    """Return soft Monte-Carlo labels: a step's is the share of right attempts that begin with the steps up to it.

    Every attempt is a rollout of each of its own prefixes, so no more samples are needed (Snell et al., appendix D,
    draw 16 rollouts per step). Attempts without ``correct`` are left out. Raises InvalidFile where none is left.
    """
    known = attempts[attempts["correct"].notna()]
    if known.empty:
        raise InvalidFile("no attempt says whether it is correct; give the prompts references, or use --solutions")
    outcomes: dict[tuple[str, tuple[str, ...]], list[bool]] = defaultdict(list)
    for row in known.itertuples():
        steps = split(row.text)
        for prefix in accumulate(((step,) for step in steps), tuple.__add__):
            outcomes[row.prompt_id, prefix].append(bool(row.correct))
    examples = []
    for (prompt_id, prompt), steps, count in _distinct(known, split):
        rollouts = (outcomes[prompt_id, steps[: i + 1]] for i in range(len(steps)))
        examples.append(LabelledSteps(prompt, steps, tuple(sum(right) / len(right) for right in rollouts), count))
    return examples


def _distinct(attempts: pd.DataFrame, split: Split) -> list[tuple[tuple[str, Prompt], tuple[str, ...], int]]:
    """Return (prompt id, prompt), steps and count of every different attempt that has steps."""
    counts = attempts.groupby(["prompt_id", "text"], sort=False).size()
    prompts = prompts_of(attempts)
    rows = (((prompt_id, prompts[prompt_id]), split(text), int(count)) for (prompt_id, text), count in counts.items())
    return [(prompt, steps, count) for prompt, steps, count in rows if steps]
