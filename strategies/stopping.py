"""When a search stops early.

A vote stops as soon as the leading answer is unlikely to lose its lead. This is adaptive consistency (Aggarwal et al.,
arXiv 2305.11860, section 3, its Beta criterion) with one addition: votes may be weighted by a verifier's scores.

Where the verifier alone decides, a search stops as soon as it finds a solution right with enough certainty. The scores
are probabilities once they are calibrated (``router calibrate``).

Either way samples come in rounds instead of one by one, so that an engine has batches to work on.
"""

from collections.abc import Sequence
from itertools import count
from math import exp, lgamma, log

from strategies.requests import Candidate
from strategies.selection import answered, tally, weights_of


def doubling(n: int, *, first: int) -> list[int]:
    """Return how many of ``n`` samples there are after each round: ``first``, then twice as many each time.

    There are few rounds to wait for, and batches are large. A choice that stays certain once it is costs less than
    twice as many samples as if the search could stop after each single one.
    """
    totals = []
    while first < n:
        totals.append(first)
        first *= 2
    return [*totals, n]


def unanimous(stop: float) -> int:
    """Return the smallest unanimous vote whose answer keeps its lead with this probability."""
    return next(votes for votes in count(1) if keeps_lead(votes, 0) >= stop)


def highest_score(candidates: Sequence[Candidate]) -> float:
    """Return the highest score of a solution with an answer: the probability that it is right. 0 without one."""
    return max(
        (candidate.score for candidate in candidates if answered(candidate) and candidate.score is not None),
        default=0.0,
    )


def lead(candidates: Sequence[Candidate]) -> float:
    """Return the probability that the leading answer would still lead if sampling went on for ever; 0.5 without votes.

    Without scores, each solution is one vote. With scores, votes are the sums in ``selection.weighted``, divided by
    Σscore² / Σscore. All votes together then count as many as Kish's effective sample size, (Σscore)² / Σscore². So
    equal scores count as one vote each, whatever their size: a verifier that scores everything high does not end
    searches early. Where a single solution has nearly all of the score, all solutions together count as one vote.
    """
    weights = weights_of(candidates)
    votes = sorted(tally(candidates, weights).values(), reverse=True)
    total = squares = 0.0
    for weight in weights:  # not by sum(): its rounding depends on Python's version, and a replay must agree to the bit
        if weight is not None:
            total += weight
            squares += weight * weight
    scale = total / squares if squares else 0.0
    return keeps_lead(votes[0] * scale if votes else 0.0, votes[1] * scale if len(votes) > 1 else 0.0)


def keeps_lead(leader: float, runner_up: float) -> float:
    """Return the probability, under a uniform prior, that the leader is the likelier of two answers with these votes.

    leader, runner_up  votes, leader ≥ runner_up ≥ 0; they need not be whole numbers

    It is 1 - I_0.5(leader + 1, runner_up + 1), where I is the regularised incomplete beta function, computed by its
    hypergeometric series (DLMF 8.17.8). At 1/2 and with leader ≥ runner_up, the terms are positive and shrink from the
    start, by a factor that tends to 1/2, so nothing cancels.
    """
    a, b = leader + 1, runner_up + 1
    term = exp(lgamma(a + b) - lgamma(a + 1) - lgamma(b) - (a + b) * log(2))
    tail, k = 0.0, 0
    while tail + term != tail:
        tail += term
        term *= (a + b + k) / (2 * (a + 1 + k))
        k += 1
    return 1 - tail
