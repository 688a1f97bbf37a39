"""Choosing one answer among candidate solutions.

Only finished solutions with an answer take part: a cut one has no answer yet, and solutions without an answer are not a
group of their own.
"""

from collections.abc import Callable, Sequence

from strategies.requests import Outcome, Path

Select = Callable[[Sequence[Path]], Outcome]


def majority(paths: Sequence[Path]) -> Outcome:
    """The most frequent answer (self-consistency, arXiv 2203.11171)."""
    return _vote(paths, [1.0 if answered(path) else None for path in paths])


def weighted(paths: Sequence[Path]) -> Outcome:
    """Weighted best-of-N: the answer with the largest sum of scores (Snell et al., section 5.1).

    Unscored solutions have no say while any is scored; where none is, this is :func:`majority`.
    """
    return _vote(paths, weights_of(paths))


def best(paths: Sequence[Path]) -> Outcome:
    """Best-of-N: the answer of the one solution with the highest score; :func:`majority` where none is scored."""
    scored = [(path.score, path) for path in paths if answered(path) and path.score is not None]
    if not scored:
        return majority(paths)
    score, winner = max(scored, key=lambda pair: pair[0])
    total = sum(score for score, _ in scored)
    return Outcome(winner, weight=score, share=score / total if total else 0.0, candidates=tuple(paths))


def within_then_across(chains: Sequence[Sequence[Path]]) -> Outcome:
    """Weighted best-of-N within each chain of revisions, then across the chains' winners (Snell et al., section 6.1).

    Every attempt of a chain is a candidate, since a later revision may turn a right answer wrong. Without scores this
    is one flat majority over all attempts, as in the paper.
    """
    candidates = [path for chain in chains for path in chain]
    if all(path.score is None for path in candidates):
        return majority(candidates)
    # Where any attempt is scored, unscored ones have no say, in their chain or as a chain of their own.
    scored = [[path for path in chain if path.score is not None] for chain in chains]
    winners = [outcome for outcome in map(weighted, scored) if outcome.best]
    across = _vote([outcome.best for outcome in winners if outcome.best], [outcome.weight for outcome in winners])
    return Outcome(across.best, across.weight, across.share, tuple(candidates))


def weights_of(paths: Sequence[Path]) -> list[float | None]:
    """What each path's vote weighs: its score, 1 where none is scored; None: it has no vote."""
    scores = [path.score if answered(path) else None for path in paths]
    if all(score is None for score in scores):
        return [1.0 if answered(path) else None for path in paths]
    return scores


def tally(paths: Sequence[Path], weights: Sequence[float | None]) -> dict[str, float]:
    """Summed weights by answer, in the order in which the answers were first seen."""
    votes: dict[str, float] = {}
    for path, weight in zip(paths, weights, strict=True):
        if path.answer is not None and weight is not None:
            votes[path.answer] = votes.get(path.answer, 0.0) + weight
    return votes


def answered(path: Path) -> bool:
    """Whether it takes part."""
    return path.finished and path.answer is not None


def _vote(paths: Sequence[Path], weights: Sequence[float | None]) -> Outcome:
    """The answer with the largest summed weight, in its best-scored path; a tie goes to the answer seen first."""
    votes = tally(paths, weights)
    if not votes:
        return Outcome(candidates=tuple(paths))
    winner = max(votes, key=lambda answer: votes[answer])
    supporters = [path for path in paths if answered(path) and path.answer == winner]
    total = sum(votes.values())
    return Outcome(
        max(supporters, key=lambda path: -1.0 if path.score is None else path.score),
        weight=votes[winner],
        share=votes[winner] / total if total else 0.0,
        candidates=tuple(paths),
    )
