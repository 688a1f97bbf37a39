"""What was measured of each arm on each prompt.

Arms that draw independent samples are replayed by subsampling a prompt's pool of attempts. Anything that looks at its
own work in progress (tree searches, revisions) or samples differently (single) can't be: such arms count only where
they were really run. Stopping early looks only at samples that are drawn, so it is replayed: round by round, and what
counts is what each run drew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import betainc

from router.attempts.schema import SAMPLE
from router.errors import InvalidFile
from router.policy.table import Cost
from router.training.difficulty import last_score
from strategies import SELECTIONS, Arm
from strategies.sampling import rounds
from strategies.stopping import keeps_lead

DRAWS = 200
# Probabilities at which arms are replayed with an early stop, a thrifty and a careful one, and from which budget on:
# below, the first round is most of it.
STOPS = {
    "majority": (8, (0.8, 0.95)),
    "weighted_best_of_n": (8, (0.8, 0.95)),
    "best_of_n": (2, (0.6, 0.9)),
}
_DOUBT = 1e-9  # far more than two ways to compute a probability differ by
COVERAGE = 0.95  # share of the prompts that an arm must be measured on to take part
RESAMPLES = 1000
TOKENS = ["prompt_tokens", "generated_tokens", "scored_tokens"]


def evidence(attempts: pd.DataFrame, budgets: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """One row a (prompt_id, arm): expected ``accuracy``, the three mean token counts and ``generations`` of one run.

    generations  what was generated, in complete solutions' worth: over the mean tokens of the prompt's own samples. An
                 arm that stops early has less than its budget.

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
    table = pd.DataFrame(rows).drop_duplicates(["prompt_id", "arm"]).reset_index(drop=True)
    samples = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["generated_tokens"].mean()
    worth = table["prompt_id"].map(samples).fillna(samples.mean()).clip(lower=1)
    return table.assign(generations=table["generated_tokens"] / worth)


@dataclass(frozen=True, slots=True)
class Measured:
    """(P, K) values: P prompts on which every one of K arms was measured.

    accuracy     expected share of right answers;  generations  as in :func:`evidence`
    tokens       (P, K, 3) prompt, generated and scored tokens
    parameters   of generator, verifier and larger model (0: none)
    left_out     arms that were measured on too few prompts, and why
    """

    prompts: pd.Index
    arms: tuple[Arm, ...]
    accuracy: NDArray[np.float64]
    generations: NDArray[np.float64]
    tokens: NDArray[np.float64]
    parameters: tuple[int, int, int]
    left_out: tuple[dict[str, Any], ...]

    @property
    def flops(self) -> NDArray[np.float64]:
        prompt, generated, scored = np.moveaxis(self.tokens, 2, 0)
        result: NDArray[np.float64] = 2.0 * (self._writers * (prompt + generated) + self.parameters[1] * scored)
        return result

    @property
    def _writers(self) -> NDArray[np.int64]:
        """(K,) parameters of the model that each arm writes with."""
        generator, _, larger = self.parameters
        return np.array([larger if arm.larger else generator for arm in self.arms])

    @property
    def budgets(self) -> NDArray[np.int64]:
        return np.array([arm.budget for arm in self.arms])

    def on(self, rows: NDArray[np.int64]) -> "Measured":
        """Some of the prompts."""
        names = ("prompts", "accuracy", "generations", "tokens")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def costs(self, weights: NDArray[np.float64]) -> list[Cost]:
        """Mean cost of each arm over prompts that count with (P,) ``weights``, which sum to 1."""
        return [
            Cost(
                generations=round(float(generations), 3),
                prompt_tokens=round(float(prompt), 2),
                generated_tokens=round(float(generated), 2),
                scored_tokens=round(float(scored), 2),
                generator_flops=round(2.0 * float(writer) * (prompt + generated)),
                verifier_flops=round(2.0 * self.parameters[1] * scored),
            )
            for writer, generations, (prompt, generated, scored) in zip(
                self._writers, weights @ self.generations, np.tensordot(weights, self.tokens, 1), strict=True
            )
        ]


def measure(
    attempts: pd.DataFrame,
    prompts: pd.Index,
    budgets: Sequence[int],
    parameters: tuple[int, int, int],
    *,
    seed: int = 0,
) -> Measured:
    """The evidence on these prompts, of the arms measured on nearly all of them. Raises InvalidFile.

    parameters  of generator, verifier and larger model, 0 where there is none. A token of the larger one counts for as
                many ``generations`` as it has times the generator's parameters.
    """
    table = evidence(attempts[attempts["prompt_id"].isin(prompts)], budgets, seed=seed)
    cells = table.set_index(["prompt_id", "arm"]).unstack("arm").reindex(pd.Index(prompts, name="prompt_id"))
    coverage = cells["accuracy"].notna().mean()
    names = sorted(coverage.index[coverage >= COVERAGE], key=Arm.parse)
    complete = cells["accuracy"][names].notna().all(axis=1) if names else pd.Series(False, index=prompts)
    if complete.sum() < 2:
        raise InvalidFile(
            f"no arm was measured on {COVERAGE:.0%} of the {len(prompts)} prompts; collect the same attempts for every "
            "prompt, at least as many as the smallest budget"
        )
    cells = cells[complete.to_numpy()]
    left_out = [
        {"arm": arm, "reason": f"measured on {share:.0%} of the prompts, {COVERAGE:.0%} are needed"}
        for arm, share in coverage.items()
        if share < COVERAGE
    ]
    values = {name: cells[name][names].to_numpy(dtype=float) for name in ("accuracy", "generations", *TOKENS)}
    arms = tuple(map(Arm.parse, names))
    generator, _, larger = parameters
    if not larger and any(arm.larger for arm in arms):
        raise InvalidFile("the attempts hold runs of larger_model; engine.json must describe that model as larger")
    values["generations"] = values["generations"] * [larger / generator if arm.larger else 1.0 for arm in arms]
    return Measured(
        prompts=prompts[complete.to_numpy()],
        arms=arms,
        accuracy=values["accuracy"],
        generations=values["generations"],
        tokens=np.stack([values[name] for name in TOKENS], axis=2),
        parameters=parameters,
        left_out=tuple(left_out),
    )


def _replay(
    pool: pd.DataFrame, budgets: Sequence[int], draws: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Every sampling arm on one prompt's pool: its columns in :func:`evidence`."""
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
                "prompt_tokens": prompt.mean(),
                "generated_tokens": n * generated.mean(),
                "scored_tokens": (prompt.mean() + n * scored.mean()) if verified and reads else 0.0,
            }
        earliest, stops = STOPS[name]
        for n, stop in product([n for n in sizes if n >= earliest], stops):
            taken = stopped(name, answers, scores, order[:, :n], stop)
            mine = np.arange(len(pool)) < taken[:, None]  # of each run's order, what it drew
            right = np.empty(draws)
            for total in np.unique(taken):
                runs = taken == total
                right[runs] = picked_right(name, answers, correct, scores, order[runs, :total])
            read = (scored[order] * mine).sum(axis=1)
            results[str(Arm(name, n, stop=stop))] = {
                "accuracy": right.mean(),
                "prompt_tokens": prompt.mean(),  # once: later rounds of a search find it prefilled
                "generated_tokens": (generated[order] * mine).sum(axis=1).mean(),
                "scored_tokens": (prompt.mean() + read.mean()) if verified and reads else 0.0,
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
    *early, n = rounds(order.shape[1], SELECTIONS[selection], stop)
    group, _ = _groups(answers)
    taken = np.full(len(order), n)
    for total in reversed(early):
        drawn = order[:, :total]
        if selection == "best_of_n":
            taken[np.where(group[drawn] >= 0, np.nan_to_num(scores[drawn]), 0.0).max(axis=1) >= stop] = total
            continue
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
    """``strategies.selection.weights_of`` and ``tally`` of (draws, n) attempts; sums run in the order of the draw."""
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


def resamples(prompts: int, rng: np.random.Generator, count: int = RESAMPLES) -> NDArray[np.float64]:
    """(count, prompts) weights of bootstrap resamples of prompts; each row sums to 1."""
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=count) / prompts


def interval(values: NDArray[np.float64], draws: NDArray[np.float64]) -> dict[str, float]:
    """Mean of (P,) values with its 95% interval over (R, P) :func:`resamples`."""
    low, high = np.quantile(draws @ values, [0.025, 0.975])
    found = {"accuracy": values.mean(), "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in found.items()}
