"""Replay of arms that sample: what runs of an arm would have returned and spent at one prompt, from recorded attempts.

The search itself is the reference: :func:`by_search` drives it over the recorded attempts, which is right for every
strategy that only samples. Tuning counts votes tens of thousands of times, so the most used strategies also have a
version in numpy that computes many runs at once. A test compares each of these with :func:`by_search`, to the bit.

Needs numpy, which the strategies themselves don't: they import this module only where they replay.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.replaying.records import Floats, Ints, Pool, Recorded, Runs, Samples, Seen
from strategies.requests import Candidate, Extend, Result
from strategies.stopping import keeps_lead, lead

_DOUBT = 1e-9  # far more than the difference between two ways to compute one probability


def by_search(strategy: Samples, recorded: Recorded) -> Runs | None:
    """Replay by the search itself, run by run. None if the pool is too small or lacks scores that the arm needs.

    The search sees the answer, the score and the length in tokens of each candidate; texts are not recorded.
    """
    pool = _pool(strategy, recorded)
    if pool is None:
        return None
    runs = []
    for order in pool.order:
        drew, found = _driven(strategy, pool, order)
        picked = int(found.best.text) if found.best else -1
        alike = [i for i, answer in enumerate(pool.answers) if picked >= 0 and answer == pool.answers[picked]]
        correct = pool.correct[alike].mean() if alike else 0.0
        runs.append((correct, picked, drew, lead(found.candidates)))
    correct, chosen, taken, leads = zip(*runs, strict=True)
    drawn = np.arange(pool.left) < np.array(taken)[:, None]
    return _runs(strategy, recorded, pool, np.array(correct, dtype=float), np.array(chosen), np.array(leads), drawn)


def by_votes(strategy: Samples, recorded: Recorded) -> Runs | None:
    """Replay majority and weighted best-of-N: as :func:`by_search`, for all runs at once."""
    pool = _pool(strategy, recorded)
    if pool is None:
        return None
    group, weighs = pool.groups, strategy.needs_scores
    taken = np.full(len(pool.order), strategy.n)
    for total in reversed(strategy.rounds()[:-1]):
        drawn = pool.order[:, :total]
        taken[_leads(_tally(weighs, group[drawn], pool.scores[drawn]), strategy.stop) >= strategy.stop] = total
    correct, picked, leads = np.zeros(len(taken)), np.full(len(taken), -1), np.full(len(taken), 0.5)
    for total in np.unique(taken):
        runs = taken == total
        order = pool.order[runs, :total]
        correct[runs], picked[runs], leads[runs] = _voted(recorded, pool, group, order, weighs)
    return _runs(strategy, recorded, pool, correct, picked, leads, np.arange(pool.left) < taken[:, None])


def by_highest_score(strategy: Samples, recorded: Recorded) -> Runs | None:
    """Replay best-of-N: as :func:`by_search`, for all runs at once."""
    pool = _pool(strategy, recorded)
    if pool is None:
        return None
    group = pool.groups
    score = np.where(group >= 0, pool.scores, np.nan)
    taken = np.full(len(pool.order), strategy.n)
    for total in reversed(strategy.rounds()[:-1]):
        taken[np.nan_to_num(score[pool.order[:, :total]]).max(axis=1) >= strategy.stop] = total
    correct, picked, leads = np.zeros(len(taken)), np.full(len(taken), -1), np.full(len(taken), 0.5)
    for total in np.unique(taken):
        runs = taken == total
        order = pool.order[runs, :total]
        ranked = np.where(np.isnan(score[order]), -np.inf, score[order])
        winner = order[np.arange(len(order)), ranked.argmax(axis=1)]
        scored = ranked.max(axis=1) > -np.inf
        found = np.flatnonzero(runs)
        if not scored.all():  # runs without a scored sample vote
            correct[runs], picked[runs], leads[runs] = _voted(recorded, pool, group, order, weighs=False)
        if scored.any():
            if recorded.staged:
                leads[found[scored]] = _leads(_tally(True, group[order[scored]], pool.scores[order[scored]]))
            correct[found[scored]] = _right(pool, group)[group[winner[scored]]]
            picked[found[scored]] = winner[scored]
    return _runs(strategy, recorded, pool, correct, picked, leads, np.arange(pool.left) < taken[:, None])


def _pool(strategy: Samples, recorded: Recorded) -> Pool | None:
    """Return the pool that the arm draws from; None if it is too small or lacks scores that the arm needs."""
    pool = recorded.pools.get(strategy.model)
    if pool is None or strategy.n > pool.left:
        return None
    if strategy.needs_scores and not recorded.abstains and np.isnan(pool.scores).all():
        return None
    if strategy.n == 1 and not recorded.staged:  # one run per attempt: their mean is exact
        return replace(pool, order=np.arange(len(pool))[:, None])
    return pool


def _runs(  # noqa: PLR0917
    strategy: Samples,
    recorded: Recorded,
    pool: Pool,
    correct: Floats,
    picked: Ints,
    leads: Floats,
    drawn: NDArray[np.bool_],
) -> Runs:
    """Return the runs. ``drawn`` (R, S) says which places of its order each run drew."""
    runs, width = pool.order.shape
    drawn = drawn[:, :width]

    def spent(tokens: Floats) -> Floats:
        """Return (R,) tokens: the expectation if runs take all n samples, what each run drew if they may stop."""
        if not (strategy.stop or recorded.staged):
            return np.full(runs, strategy.n * tokens.mean())
        return np.asarray((tokens[pool.order] * drawn).sum(axis=1))

    prompt = pool.prompt_tokens.mean()
    reads = strategy.needs_scores and pool.reads
    answered = picked >= 0
    check = np.zeros(runs) if strategy.needs_scores else (prompt + pool.scored_tokens[picked]) * answered * pool.reads
    return Runs(
        correct=correct,
        prompt_tokens={strategy.model: np.full(runs, prompt)},  # read once: later rounds find it in the cache
        generated_tokens={strategy.model: spent(pool.generated_tokens)},
        scored_tokens=prompt + spent(pool.scored_tokens) if reads else np.zeros(runs),
        seen=Seen.of(
            np.where(answered, pool.codes[picked], -1),
            np.where(answered, pool.scores[picked], np.nan),
            lead=np.where(answered, leads, np.nan) if recorded.staged else None,
            log_prob=None if pool.log_probs is None else np.where(answered, pool.log_probs[picked], np.nan),
            length=None if pool.lengths is None else np.where(answered, pool.lengths[picked], np.nan),
        ),
        check_tokens=check,
        seconds=None if np.isnan(pool.seconds) else _seconds(strategy, pool, drawn.sum(axis=1)),
    )


def _seconds(strategy: Samples, pool: Pool, taken: Ints) -> Floats:
    """Return (R,) seconds of runs that took (R,) samples: its rounds follow one another."""
    totals = np.array(strategy.rounds())
    each = pool.seconds_for(np.diff(totals, prepend=0), scores=strategy.needs_scores)
    return np.asarray(each.cumsum()[np.searchsorted(totals, taken)])


def _driven(strategy: Samples, pool: Pool, order: Ints) -> tuple[int, Result]:
    """Run the search on attempts in this order; return how many it drew, and its result.

    The text of each candidate is the index of its attempt.
    """
    search, remaining = strategy.search(), iter(order)
    taken = 0
    request = next(search)
    while True:
        answer: list[Candidate] = []
        for candidate in request.candidates:
            if isinstance(request, Extend):
                i = int(next(remaining))
                taken += 1
                tokens = (0,) * int(pool.generated_tokens[i] - 1)  # the end-of-sequence token is no part of them
                answer.append(replace(candidate, steps=(str(i),), tokens=tokens, end="stop", answer=pool.answers[i]))
            else:
                score = float(pool.scores[int(candidate.text)])
                answer.append(candidate if np.isnan(score) else replace(candidate, scores=(score,)))
        try:
            request = search.send(answer)
        except StopIteration as done:
            return taken, done.value


@dataclass(frozen=True, slots=True)
class _Tally:
    """Votes of R runs over a pool with A different answers.

    votes  (R, A) summed weights by answer;  first (R, A) place of each answer's first vote, n where it has none
    total, squares  (R,) sums of all weights, and of their squares
    """

    votes: Floats
    first: Ints
    total: Floats
    squares: Floats


def _tally(weighs: bool, group: Ints, score: Floats) -> _Tally:
    """Count votes as ``selection.weights_of`` and ``tally`` do, for (R, n) attempts; sums run in drawing order."""
    runs, n = group.shape
    answered = group >= 0
    ranked = answered & ~np.isnan(score)
    scored = ranked.any(axis=1, keepdims=True) & weighs
    run, place = np.nonzero(np.where(scored, ranked, answered))
    answer, weight = group[run, place], np.where(scored, score, 1.0)[run, place]
    width = int(group.max(initial=0)) + 1
    vote = run * width + answer
    first = np.full(runs * width, n)
    np.minimum.at(first, vote, place)
    return _Tally(
        votes=_sums(vote, weight, runs * width).reshape(runs, width),
        first=first.reshape(runs, width),
        total=_sums(run, weight, runs),
        squares=_sums(run, weight * weight, runs),
    )


def _sides(tally: _Tally) -> tuple[Floats, Floats]:
    """Return (R,) votes of the leading answer and of the runner-up, scaled as in ``stopping.lead``."""
    leader, runner_up = np.sort(np.pad(tally.votes, ((0, 0), (2, 0))), axis=1)[:, :-3:-1].T
    scale = np.divide(tally.total, tally.squares, out=np.zeros(len(leader)), where=tally.squares > 0)
    return leader * scale, runner_up * scale


def _leads(tally: _Tally, threshold: float = np.nan) -> Floats:
    """Return (R,) ``stopping.lead``; where that is too close to ``threshold`` to tell, the original computes it."""
    from scipy.special import betainc

    leader, runner_up = _sides(tally)
    leads: Floats = 1 - betainc(leader + 1, runner_up + 1, 0.5)
    for run in np.flatnonzero(np.abs(leads - threshold) < _DOUBT):
        leads[run] = keeps_lead(float(leader[run]), float(runner_up[run]))
    return leads


def _voted(recorded: Recorded, pool: Pool, group: Ints, order: Ints, weighs: bool) -> tuple[Floats, Ints, Floats]:
    """Return (R,) arrays: whether the vote's answer is right, the attempt returned for it (-1: none), and the lead.

    The lead is NaN unless ``recorded.staged`` asks for it.
    """
    if not (group >= 0).any():
        return np.zeros(len(order)), np.full(len(order), -1), np.full(len(order), 0.5)
    mine = group[order]
    tally = _tally(weighs, mine, pool.scores[order])
    never = order.shape[1]
    votes = np.where(tally.first < never, tally.votes, -np.inf)
    winner = np.where(votes == votes.max(axis=1, keepdims=True), tally.first, never).argmin(axis=1)
    found = (tally.first < never).any(axis=1)
    support = mine == winner[:, None]
    score = pool.scores[order] if weighs else np.zeros(order.shape)
    standing = np.where(support, np.where(np.isnan(score), -1.0, score), -2.0).argmax(axis=1)
    picked = np.where(found, order[np.arange(len(order)), standing], -1)
    leads = _leads(tally) if recorded.staged else np.full(len(order), np.nan)
    return np.where(found, _right(pool, group)[winner], 0.0), picked, leads


def _right(pool: Pool, group: Ints) -> Floats:
    """Return (A,) the share of right attempts among those with each answer: 0 or 1, unless the file says otherwise."""
    stated = np.flatnonzero(group >= 0)
    counts = np.bincount(group[stated])
    rights: Floats = np.bincount(group[stated], pool.correct[stated]) / np.maximum(counts, 1)
    return rights


def _sums(keys: Ints, weights: Floats, count: int) -> Floats:
    """Return (count,) sums of the weights of each key, added in the order given."""
    sums: Any = np.bincount(keys, weights, count)
    return np.asarray(sums, dtype=np.float64)
