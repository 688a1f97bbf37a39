"""What was measured of each arm on each prompt.

Arms that draw independent samples are replayed by subsampling a prompt's pool of attempts. Anything that looks at its
own work in progress (tree searches, revisions) or samples differently (single) can't be: such arms count only where
they were really run.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.errors import InvalidFile
from router.offline.attempts import SAMPLE
from router.offline.train import last_score
from router.policy import Cost
from strategies import SELECTIONS, Arm

DRAWS = 200
TOKENS = ["prompt_tokens", "generated_tokens", "scored_tokens"]


def evidence(attempts: pd.DataFrame, budgets: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """One row a (prompt_id, arm): expected ``accuracy`` and the three mean token counts of one run.

    A sampling arm of n needs a pool of at least n attempts, and scores where it selects by them. Where a sampling arm
    was also really run, the replay is used: it averages over ``draws`` runs.

    Raises InvalidFile where ``correct`` is null: accuracy can't be measured there.
    """
    unknown = attempts["correct"].isna()
    if unknown.any():
        first = attempts.loc[unknown.idxmax(), "prompt_id"]
        raise InvalidFile(
            f"`correct` is null for {unknown.sum()} attempts, first at prompt {first!r}: without it no accuracy can be "
            "measured; fill it in, or leave those prompts out"
        )
    rows = []
    rng = np.random.default_rng(seed)
    for prompt_id, pool in attempts[attempts["arm"] == SAMPLE].groupby("prompt_id", sort=False):
        for arm, values in _replay(pool, budgets, draws, rng).items():
            rows.append({"prompt_id": prompt_id, "arm": arm, **values})
    run = attempts[attempts["arm"] != SAMPLE]
    measured = run.assign(accuracy=run["correct"].astype(float)).groupby(["prompt_id", "arm"], sort=False)
    rows += measured[["accuracy", *TOKENS]].mean().reset_index().to_dict("records")
    return pd.DataFrame(rows).drop_duplicates(["prompt_id", "arm"]).reset_index(drop=True)


def cost(tokens: pd.DataFrame, generator_parameters: int, verifier_parameters: int) -> Cost:
    """Mean cost of rows of evidence; FLOPs are 2 * parameters * tokens."""
    prompt, generated, scored = (float(tokens[name].mean()) for name in TOKENS)
    return Cost(
        prompt_tokens=round(prompt, 2),
        generated_tokens=round(generated, 2),
        scored_tokens=round(scored, 2),
        generator_flops=round(2.0 * generator_parameters * (prompt + generated)),
        verifier_flops=round(2.0 * verifier_parameters * scored),
    )


def _replay(
    pool: pd.DataFrame, budgets: Sequence[int], draws: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Every sampling arm on one prompt's pool."""
    scores = np.array([np.nan if score is None else score for score in pool["scores"].map(last_score)], dtype=float)
    answers = [None if pd.isna(answer) else answer for answer in pool["answer"]]
    correct = pool["correct"].to_numpy(dtype=float)
    prompt, generated, scored = (pool[name].to_numpy(dtype=float) for name in TOKENS)
    sizes = sorted({n for n in budgets if n <= len(pool)})
    # Like the real thing, a run meets its samples in random order: ties go to the answer that comes first.
    order = rng.random((draws, len(pool))).argsort(axis=1)
    reads = scored.any()  # a verifier that reads tokens reads the prompt too, once
    results = {}
    for name in SELECTIONS:
        if name != "majority" and np.isnan(scores).all():
            continue
        for n in sizes:
            if n == 1 and name != "majority":
                continue  # one sample leaves nothing to select
            # Of one sample the expectation is known exactly.
            chosen = picked_right(
                name, answers, correct, scores, order[:, :n] if n > 1 else np.arange(len(pool))[:, None]
            )
            verified = name != "majority"
            results[str(Arm(name, n))] = {
                "accuracy": float(chosen.mean()),
                "prompt_tokens": prompt.mean(),
                "generated_tokens": n * generated.mean(),
                "scored_tokens": (prompt.mean() + n * scored.mean()) if verified and reads else 0.0,
            }
    return results


def picked_right(
    selection: str,
    answers: Sequence[str | None],
    correct: NDArray[np.float64],
    scores: NDArray[np.float64],
    order: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Whether ``strategies.SELECTIONS[selection]`` picks a right answer, for many subsamples of one pool at once.

    answers  of the pool's S attempts, None for no answer
    correct  (S,) 0 or 1;  scores (S,) last-step score, NaN where unscored
    order    (draws, n) which attempts each run drew, in order

    Returns (draws,). Agrees with the real selections to the bit, ties included: sums run in the order of the draw.
    """
    names = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    if not names:
        return np.zeros(len(order))
    pool: NDArray[np.int64] = np.array([-1 if answer is None else names[answer] for answer in answers])
    group, score = pool[order], scores[order]
    answered = group >= 0
    ranked = answered & ~np.isnan(score)
    any_ranked: NDArray[np.bool_] = np.any(ranked, axis=1, keepdims=True)
    if selection == "best_of_n":
        winner = np.where(ranked, score, -np.inf).argmax(axis=1)
        picked = correct[order[np.arange(len(order)), winner]]
        return np.where(any_ranked[:, 0], picked, picked_right("majority", answers, correct, scores, order))
    if selection == "weighted_best_of_n":
        voters = np.where(any_ranked, ranked, answered)
        weights = np.where(any_ranked, np.nan_to_num(score), 1.0)
    else:
        voters, weights = answered, np.ones_like(score)
    runs, n = order.shape
    votes = np.zeros((runs, len(names)))
    first = np.full((runs, len(names)), n)  # when each answer got its first vote; n: never
    every = np.arange(runs)
    for i in range(n):
        run, answer = every[voters[:, i]], group[voters[:, i], i]
        votes[run, answer] += weights[run, i]
        first[run, answer] = np.minimum(first[run, answer], i)
    votes[first == n] = -np.inf
    winner = np.where(votes == votes.max(axis=1, keepdims=True), first, n).argmin(axis=1)
    # Attempts with equal canonical answers are right or wrong together; where a file says otherwise, take the mean.
    stated = np.flatnonzero(pool >= 0)
    right = np.bincount(pool[stated], correct[stated]) / np.bincount(pool[stated])
    return np.where(voters.any(axis=1), right[winner], 0.0)


def matrix(table: pd.DataFrame, value: str, prompts: Sequence[str]) -> pd.DataFrame:
    """(prompts, arms) values of the evidence, NaN where an arm was not measured on a prompt."""
    return table.pivot(index="prompt_id", columns="arm", values=value).reindex(pd.Index(prompts, name="prompt_id"))


def flops(table: pd.DataFrame, generator_parameters: int, verifier_parameters: int) -> pd.Series:
    """FLOPs of each row of evidence."""
    return (
        2.0 * generator_parameters * (table["prompt_tokens"] + table["generated_tokens"])
        + 2.0 * verifier_parameters * table["scored_tokens"]
    )


def interval(accuracies: NDArray[np.float64], rng: np.random.Generator, resamples: int = 2000) -> dict[str, float]:
    """Mean of (n,) per-prompt accuracies, n > 0, with its 95% interval by bootstrap over prompts."""
    means = accuracies[rng.integers(len(accuracies), size=(resamples, len(accuracies)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    values = {"accuracy": accuracies.mean(), "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in values.items()}


def budgets_of(arms: Sequence[str]) -> Mapping[str, int]:
    return {arm: Arm.parse(arm).budget for arm in arms}
