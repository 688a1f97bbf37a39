"""What was measured of each arm on each prompt.

Arms that draw independent samples are replayed by subsampling a prompt's pool of attempts. Anything that looks at its
own work in progress (tree searches, revisions) or samples differently (single) can't be: such arms count only where
they were really run. Stopping early looks only at samples that are drawn, so it is replayed: round by round, and what
counts is what each run drew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betainc

from router.errors import InvalidFile
from router.offline.attempts import SAMPLE
from router.offline.train import last_score
from router.policy import Cost
from strategies import SELECTIONS, STOPPING, Arm
from strategies.stopping import keeps_lead, rounds

DRAWS = 200
STOPS = (0.8, 0.95)  # probabilities at which votes are replayed with an early stop: a thrifty and a careful one
EARLIEST = 8  # from which budget on: below, the first round is most of it
_DOUBT = 1e-9  # far more than two ways to compute a probability differ by
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
    """Every sampling arm on one prompt's pool: its columns in :func:`evidence`, and how many ``samples`` it drew."""
    scores = np.array([np.nan if score is None else score for score in pool["scores"].map(last_score)], dtype=float)
    answers = [None if pd.isna(answer) else answer for answer in pool["answer"]]
    correct = pool["correct"].to_numpy(dtype=float)
    prompt, generated, scored = (pool[name].to_numpy(dtype=float) for name in TOKENS)
    sizes = sorted({n for n in budgets if n <= len(pool)})
    # Like the real thing, a run meets its samples in random order: ties go to the answer that comes first.
    order = rng.random((draws, len(pool))).argsort(axis=1)
    reads = scored.any()  # a verifier that reads tokens reads the prompt too, once a round
    results = {}
    for name in SELECTIONS:
        verified = name != "majority"
        if verified and np.isnan(scores).all():
            continue
        for n in sizes:
            if n == 1 and verified:
                continue  # one sample leaves nothing to select
            # Of one sample the expectation is known exactly.
            drawn = order[:, :n] if n > 1 else np.arange(len(pool))[:, None]
            results[str(Arm(name, n))] = {
                "accuracy": picked_right(name, answers, correct, scores, drawn).mean(),
                "samples": float(n),
                "prompt_tokens": prompt.mean(),
                "generated_tokens": n * generated.mean(),
                "scored_tokens": (prompt.mean() + n * scored.mean()) if verified and reads else 0.0,
            }
        for n, stop in product([n for n in sizes if n >= EARLIEST and name in STOPPING], STOPS):
            taken = stopped(name, answers, scores, order[:, :n], stop)
            mine = np.arange(len(pool)) < taken[:, None]  # of each run's order, what it drew
            asked = 1 + np.searchsorted(rounds(n, stop), taken)
            right = np.empty(draws)
            for total in np.unique(taken):
                runs = taken == total
                right[runs] = picked_right(name, answers, correct, scores, order[runs, :total])
            read = (scored[order] * mine).sum(axis=1)
            results[str(Arm(name, n, stop=stop))] = {
                "accuracy": right.mean(),
                "samples": taken.mean(),
                "prompt_tokens": prompt.mean(),  # once: later rounds of a search find it prefilled
                "generated_tokens": (generated[order] * mine).sum(axis=1).mean(),
                "scored_tokens": (prompt.mean() * asked + read).mean() if verified and reads else 0.0,
            }
    return results


def stopped(
    selection: str,
    answers: Sequence[str | None],
    scores: NDArray[np.float64],
    order: NDArray[np.int64],
    stop: float,
) -> NDArray[np.int64]:
    """After how many samples the arm of ``selection`` with this ``stop`` ends; parameters as in :func:`picked_right`.

    Returns (draws,) of 1 to n. Agrees with the real strategies to the bit.
    """
    *early, n = rounds(order.shape[1], stop)
    group, _ = _groups(answers)
    taken = np.full(len(order), n)
    for total in reversed(early):
        drawn = order[:, :total]
        tally = _tally(selection, group[drawn], scores[drawn])
        leader, runner_up = np.sort(np.pad(tally.votes, ((0, 0), (2, 0))), axis=1)[:, :-3:-1].T
        scale = np.divide(tally.total, tally.squares, out=np.zeros(len(order)), where=tally.squares > 0)
        leads = 1 - betainc(leader * scale + 1, runner_up * scale + 1, 0.5)
        for run in np.flatnonzero(np.abs(leads - stop) < _DOUBT):  # too close to tell: ask the original
            leads[run] = keeps_lead(float(leader[run] * scale[run]), float(runner_up[run] * scale[run]))
        taken[leads >= stop] = total
    return taken


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
    group, count = _groups(answers)
    if not count:
        return np.zeros(len(order))
    if selection == "best_of_n":
        ranked = np.where(group[order] >= 0, scores[order], np.nan)
        winner = np.where(np.isnan(ranked), -np.inf, ranked).argmax(axis=1)
        picked = correct[order[np.arange(len(order)), winner]]
        unranked = np.isnan(ranked).all(axis=1)
        return np.where(unranked, picked_right("majority", answers, correct, scores, order), picked)
    tally = _tally(selection, group[order], scores[order])
    never = order.shape[1]
    votes = np.where(tally.first < never, tally.votes, -np.inf)
    winner = np.where(votes == votes.max(axis=1, keepdims=True), tally.first, never).argmin(axis=1)
    # Attempts with equal canonical answers are right or wrong together; where a file says otherwise, take the mean.
    stated = np.flatnonzero(group >= 0)
    right = np.bincount(group[stated], correct[stated]) / np.bincount(group[stated])
    return np.where((tally.first < never).any(axis=1), right[winner], 0.0)


def _groups(answers: Sequence[str | None]) -> tuple[NDArray[np.int64], int]:
    """Which of the different answers each attempt gives, -1 for none; and how many there are."""
    names = {answer: i for i, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    return np.array([-1 if answer is None else names[answer] for answer in answers], dtype=np.int64), len(names)


@dataclass(frozen=True, slots=True)
class _Tally:
    """Of many runs over a pool with A different answers.

    votes  (draws, A) summed weights by answer
    first  (draws, A) place of each answer's first vote; n: none
    total, squares  (draws,) sums of all weights, and of their squares
    """

    votes: NDArray[np.float64]
    first: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


def _tally(selection: str, group: NDArray[np.int64], score: NDArray[np.float64]) -> _Tally:
    """``strategies.select.weights_of`` and ``tally`` of (draws, n) attempts; sums run in the order of the draw."""
    runs, n = group.shape
    answered = group >= 0
    ranked = answered & ~np.isnan(score)
    scored = ranked.any(axis=1, keepdims=True) & (selection != "majority")
    run, place = np.nonzero(np.where(scored, ranked, answered))
    answer, weight = group[run, place], np.where(scored, score, 1.0)[run, place]
    width = int(group.max(initial=0)) + 1
    first = np.full((runs, width), n)
    first[run[::-1], answer[::-1]] = place[::-1]  # of an answer's places the last one written stays
    return _Tally(
        votes=_sums(run * width + answer, weight, runs * width).reshape(runs, width),
        first=first,
        total=_sums(run, weight, runs),
        squares=_sums(run, weight * weight, runs),
    )


def _sums(keys: NDArray[np.int64], weights: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(count,) sums of the weights of each key, added in the order given."""
    return np.bincount(keys, weights, count).astype(np.float64, copy=False)


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
