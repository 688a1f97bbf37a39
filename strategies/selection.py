"""Choosing one answer among candidate solutions.

Only finished solutions with an answer take part: a cut one has no answer yet, and solutions without an answer don't
vote as a group.
"""

from collections.abc import Sequence

from strategies.requests import Candidate, Result


def majority(candidates: Sequence[Candidate]) -> Result:
    """Choose the most frequent answer (self-consistency, arXiv 2203.11171)."""
    return _vote(candidates, [1.0 if answered(candidate) else None for candidate in candidates])


def weighted(candidates: Sequence[Candidate]) -> Result:
    """Weighted best-of-N: choose the answer with the largest sum of scores (Snell et al., section 5.1).

    If any solution is scored, unscored ones have no vote; if none is, this is :func:`majority`.
    """
    return _vote(candidates, weights_of(candidates))


def best(candidates: Sequence[Candidate]) -> Result:
    """Best-of-N: choose the answer of the solution with the highest score; :func:`majority` where none is scored."""
    scored = [
        (candidate.score, candidate) for candidate in candidates if answered(candidate) and candidate.score is not None
    ]
    if not scored:
        return majority(candidates)
    score, winner = max(scored, key=lambda pair: pair[0])
    total = sum(score for score, _ in scored)
    return Result(winner, weight=score, share=score / total if total else 0.0, candidates=tuple(candidates))


def within_then_across(chains: Sequence[Sequence[Candidate]]) -> Result:
    """Weighted best-of-N within each chain of revisions, then across the chains' winners (Snell et al., section 6.1).

    Every attempt of a chain is a candidate, since a later revision may turn a right answer wrong. Without scores this
    is one flat majority over all attempts, as in the paper.
    """
    candidates = [candidate for chain in chains for candidate in chain]
    if all(candidate.score is None for candidate in candidates):
        return majority(candidates)
    # Where any attempt is scored, unscored ones have no vote, neither in their chain nor as a chain of their own.
    scored = [[candidate for candidate in chain if candidate.score is not None] for chain in chains]
    winners = [outcome for outcome in map(weighted, scored) if outcome.best]
    across = _vote([outcome.best for outcome in winners if outcome.best], [outcome.weight for outcome in winners])
    return Result(across.best, across.weight, across.share, tuple(candidates))


def weights_of(candidates: Sequence[Candidate]) -> list[float | None]:
    """Return the weight of each candidate's vote: its score, or 1 where no candidate is scored; None: no vote."""
    scores = [candidate.score if answered(candidate) else None for candidate in candidates]
    if all(score is None for score in scores):
        return [1.0 if answered(candidate) else None for candidate in candidates]
    return scores


def tally(candidates: Sequence[Candidate], weights: Sequence[float | None]) -> dict[str, float]:
    """Sum the weights of each answer, in the order in which the answers were first seen."""
    votes: dict[str, float] = {}
    for candidate, weight in zip(candidates, weights, strict=True):
        if candidate.answer is not None and weight is not None:
            votes[candidate.answer] = votes.get(candidate.answer, 0.0) + weight
    return votes


def answered(candidate: Candidate) -> bool:
    """Whether the candidate takes part in a selection: it is finished and has an answer."""
    return candidate.finished and candidate.answer is not None


def _vote(candidates: Sequence[Candidate], weights: Sequence[float | None]) -> Result:
    """Choose the answer with the largest summed weight, in its best-scored candidate; the first seen wins a tie."""
    votes = tally(candidates, weights)
    if not votes:
        return Result(candidates=tuple(candidates))
    winner = max(votes, key=lambda answer: votes[answer])
    supporters = [candidate for candidate in candidates if answered(candidate) and candidate.answer == winner]
    total = sum(votes.values())
    return Result(
        max(supporters, key=lambda candidate: -1.0 if candidate.score is None else candidate.score),
        weight=votes[winner],
        share=votes[winner] / total if total else 0.0,
        candidates=tuple(candidates),
    )
