"""Search over steps with a process reward model: beam search, DVTS and lookahead in one loop.

``n`` beams are divided among ``trees`` independent trees. Each round writes one step on every beam, scores it, keeps
the best 1/m of each tree's open candidates and continues each of those ``m`` times (Snell et al., section 5.2). One
tree is beam search; n/m trees, each keeping its single best candidate, is diverse verifier tree search (Hugging Face,
"Scaling test-time compute"). With ``k`` > 0 a step is judged by the score at the end of a greedy rollout of k further
steps (lookahead); the rollout itself is thrown away, but its tokens are spent and billed.

Trees are independent, so DVTS may also grow them a few at a time and stop early: see ``stopping``.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import ClassVar

from strategies.requests import Candidate, Extend, Score, Search
from strategies.selection import weighted
from strategies.stopping import doubling, highest_score
from strategies.strategy import Strategy

MAX_ROUNDS = 40  # Snell et al., section 5.2; beams that are still open then are dropped


@dataclass(frozen=True)
class BeamSearch(Strategy):
    """One tree of ``n`` beams; the best n/m survive each round, each continued ``m`` times."""

    name: ClassVar[str] = "beam_search"
    needs_steps: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = True

    n: int = 1
    m: int = 0

    def search(self) -> Search:
        return weighted((yield from grow(self.n, self.m, model=self.model)))


@dataclass(frozen=True)
class Dvts(Strategy):
    """n/m trees of ``m`` beams; the best of each tree survives each round.

    stop  grow one, then two, four, ... trees in all, until a solution is right with this probability; 0: all at once
    """

    name: ClassVar[str] = "dvts"
    needs_steps: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = True

    n: int = 1
    m: int = 0
    stop: float = 0.0

    def search(self) -> Search:
        finished: list[Candidate] = []
        grown, trees = 0, self.n // self.m
        for total in doubling(trees, first=1) if self.stop else [trees]:
            finished += yield from grow(self.m, self.m, trees=total - grown, model=self.model)
            grown = total
            if self.stop and highest_score(finished) >= self.stop:
                break
        return weighted(finished)


@dataclass(frozen=True)
class Lookahead(Strategy):
    """Beam search that judges a step by where ``k`` further greedy steps lead. Costs n * (k + 1) solutions."""

    name: ClassVar[str] = "lookahead"
    needs_steps: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = True

    n: int = 1
    m: int = 0
    k: int = 0

    @property
    def solutions(self) -> dict[str | None, int]:
        return {self.model: self.n * (self.k + 1)}

    @property
    def rows(self) -> int:
        return self.n

    def search(self) -> Search:
        return weighted((yield from grow(self.n, self.m, k=self.k, model=self.model)))


def grow(
    width: int, m: int, *, trees: int = 1, k: int = 0, model: str | None = None
) -> Generator[Extend | Score, Sequence[Candidate], list[Candidate]]:
    """Run the search that the module's docstring describes, with ``trees`` trees of ``width`` beams each.

    Returns the finished solutions of all trees, tree by tree.
    """
    beams = [[Candidate(model=model)] * width for _ in range(trees)]
    finished: list[list[Candidate]] = [[] for _ in range(trees)]
    used = [0] * trees

    for _ in range(MAX_ROUNDS):
        written = yield Extend(tuple(candidate for tree in beams for candidate in tree), steps=1)
        judged = (yield Extend(tuple(written), steps=k, temperature=0)) if k else written
        judged = yield Score(tuple(judged))
        ranked = iter(zip(written, judged, strict=True))
        for t, tree in enumerate(beams):
            pairs = list(islice(ranked, len(tree)))
            finished[t] += [judgement for candidate, judgement in pairs if candidate.finished]
            # A candidate that ended has used up its beam: what a tree writes never exceeds ``width`` solutions.
            used[t] += sum(candidate.end is not None for candidate, _ in pairs)
            beams[t] = survivors([(p, j) for p, j in pairs if p.end is None], m, width - used[t])
        if not any(beams):
            break
    return [candidate for tree in finished for candidate in tree]


def survivors(pairs: Sequence[tuple[Candidate, Candidate]], m: int, slots: int) -> list[Candidate]:
    """Return the beams of the next round: the best ``slots``/m different candidates, each continued ``m`` times.

    pairs  (candidate, the candidate as judged); a candidate that could not be scored ranks last

    Equal candidates count once: otherwise the same text would survive twice and crowd out the rest. Where that leaves
    fewer candidates than slots, they share the slots in turn, in order of rank.
    """
    unique = {candidate.tokens or candidate.steps: (candidate, judged.score) for candidate, judged in pairs}
    ranked = sorted(unique.values(), key=lambda pair: -1.0 if pair[1] is None else pair[1], reverse=True)
    kept = [candidate for candidate, _ in ranked[: -(-slots // m)]]
    return list(islice(cycle(kept), slots)) if kept else []
