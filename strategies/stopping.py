"""When to stop early.

Where answers are voted on: as soon as the leading one is unlikely to lose its lead. Adaptive consistency (Aggarwal et
al., arXiv 2305.11860, section 3, its Beta criterion) with one addition: votes may be weighted by a verifier's scores.

Where the verifier alone decides: as soon as it finds a solution right with enough certainty. Its scores are
probabilities once they are calibrated (``router calibrate``).

Either way samples come in rounds instead of one by one, so that an engine has batches to work on.
"""

from collections.abc import Sequence
from itertools import count
from math import exp, lgamma, log

from strategies.requests import Candidate
from strategies.selection import answered, tally, weights_of


def doubling(n: int, *, first: int) -> list[int]:
    """How many of ``n`` samples there are after each round: ``first``, then twice as many each time.

    Few rounds to wait for, large batches, and never twice as many samples as stopping after each single one would take.
    """
    totals = []
    while first < n:
        totals.append(first)
        first *= 2
    return [*totals, n]


def unanimous(stop: float) -> int:
    """The fewest votes that keep their lead with this probability: no vote can end before."""
    return next(votes for votes in count(1) if keeps_lead(votes, 0) >= stop)


def promise(candidates: Sequence[Candidate]) -> float:
    """Probability that the best solution is right, by the verifier; 0 where it scored none that has an answer."""
    return max(
        (candidate.score for candidate in candidates if answered(candidate) and candidate.score is not None),
        default=0.0,
    )


def lead(candidates: Sequence[Candidate]) -> float:
    """Probability that the answer that leads now also would if sampling went on for ever; 0.5 where none has a vote.

    Unscored, each solution is one vote. Scored, votes are sums of scores as in ``select.weighted``, divided by
    Σscore² / Σscore. That makes all votes together as many as Kish's effective sample size, (Σscore)² / Σscore²:
    equal scores count as one vote each, whatever their size, so a verifier that is generous by habit does not end
    searches early; and where a single solution has nearly all of the score, it counts as one vote, not as many.
    """
    weights = weights_of(candidates)
    votes = sorted(tally(candidates, weights).values(), reverse=True)
    total = squares = 0.0
    for weight in weights:  # not by sum(), whose rounding depends on Python's version: a replay agrees to the bit
        if weight is not None:
            total += weight
            squares += weight * weight
    scale = total / squares if squares else 0.0
    return keeps_lead(votes[0] * scale if votes else 0.0, votes[1] * scale if len(votes) > 1 else 0.0)


def keeps_lead(leader: float, runner_up: float) -> float:
    """1 - I_0.5(leader + 1, runner_up + 1): under a uniform prior, how likely the leader is the likelier of the two.

    leader, runner_up  votes, leader ≥ runner_up ≥ 0; they need not be whole numbers

    The regularised incomplete beta by its hypergeometric series (DLMF 8.17.8). At 1/2 and with more votes for the
    leader its terms are positive and shrink from the start, to half of the one before: nothing cancels.
    """
    a, b = leader + 1, runner_up + 1
    term = exp(lgamma(a + b) - lgamma(a + 1) - lgamma(b) - (a + b) * log(2))
    tail, k = 0.0, 0
    while tail + term != tail:
        tail += term
        term *= (a + b + k) / (2 * (a + 1 + k))
        k += 1
    return 1 - tail
