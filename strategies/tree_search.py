"""Search over steps against a process reward model: beam search, DVTS, lookahead. One loop.

``n`` beams are shared out over ``trees`` independent trees. Each round writes one step on every beam, scores it, keeps
the best 1/m of each tree's open paths and continues each of those ``m`` times (Snell et al., section 5.2). One tree is
beam search; n/m trees, each keeping its single best path, is diverse verifier tree search (Hugging Face, "Scaling
test-time compute"). With ``k`` > 0 a step is judged by the score at the end of a greedy rollout of k further steps
(lookahead); the rollout itself is thrown away, but its tokens are spent and billed.

Trees know nothing of each other, so DVTS may also grow them a few at a time and stop early: see ``stopping``.
"""

from collections.abc import Generator, Sequence
from itertools import cycle, islice

from strategies.requests import Extend, Path, Score, Search
from strategies.selection import weighted
from strategies.stopping import doubling, promise

MAX_ROUNDS = 40


def beam_search(n: int, m: int) -> Search:
    """One tree of ``n`` beams; the best n/m survive each round."""
    return weighted((yield from grow(n, m)))


def dvts(n: int, m: int, stop: float = 0.0) -> Search:
    """n/m trees of ``m`` beams; the best of each tree survives each round.

    All at once, or with ``stop`` one, then two, four, ... in all, until a solution is right with that probability.
    """
    solutions: list[Path] = []
    grown = 0
    for trees in doubling(n // m, first=1) if stop else [n // m]:
        solutions += yield from grow(m, m, trees=trees - grown)
        grown = trees
        if stop and promise(solutions) >= stop:
            break
    return weighted(solutions)


def lookahead(n: int, m: int, k: int) -> Search:
    """Beam search that judges a step by where ``k`` further greedy steps lead. Costs n * (k + 1)."""
    return weighted((yield from grow(n, m, k=k)))


def grow(width: int, m: int, *, trees: int = 1, k: int = 0) -> Generator[Extend | Score, Sequence[Path], list[Path]]:
    """See the module's docstring. Returns all solutions that ``trees`` of ``width`` beams each finished, by tree."""
    beams = [[Path()] * width for _ in range(trees)]
    finished: list[list[Path]] = [[] for _ in range(trees)]
    used = [0] * trees

    for _ in range(MAX_ROUNDS):
        written = yield Extend(tuple(path for tree in beams for path in tree), steps=1)
        judged = (yield Extend(tuple(written), steps=k, temperature=0)) if k else written
        judged = yield Score(tuple(judged))
        ranked = iter(zip(written, judged, strict=True))
        for t, tree in enumerate(beams):
            pairs = list(islice(ranked, len(tree)))
            finished[t] += [judgement for path, judgement in pairs if path.finished]
            # A path that ended has used up its beam: what a tree writes never exceeds ``width`` solutions.
            used[t] += sum(path.end is not None for path, _ in pairs)
            beams[t] = survivors([(p, j) for p, j in pairs if p.end is None], m, width - used[t])
        if not any(beams):
            break
    return [path for tree in finished for path in tree]


def survivors(pairs: Sequence[tuple[Path, Path]], m: int, slots: int) -> list[Path]:
    """The beams of the next round: the best ``slots``/m different paths, each continued ``m`` times.

    pairs  (path, the path as judged); a path that could not be scored ranks last

    The same text twice would survive twice and crowd out the rest, so equal paths count once; when that leaves fewer
    paths than places, the places go round in order of rank.
    """
    unique = {path.tokens or path.steps: (path, judged.score) for path, judged in pairs}
    ranked = sorted(unique.values(), key=lambda pair: -1.0 if pair[1] is None else pair[1], reverse=True)
    kept = [path for path, _ in ranked[: -(-slots // m)]]
    return list(islice(cycle(kept), slots)) if kept else []
