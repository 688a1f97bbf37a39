"""Independent samples, then a choice: single, majority, best-of-N, weighted best-of-N."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from strategies.requests import Candidate, Extend, Result, Score, Search
from strategies.selection import best, majority, weighted
from strategies.stopping import doubling, highest_score, lead, unanimous
from strategies.strategy import Strategy

if TYPE_CHECKING:
    from strategies.replaying.records import Recorded, Runs


@dataclass(frozen=True)
class Single(Strategy):
    """One greedy solution."""

    name: ClassVar[str] = "single"

    def search(self) -> Search:
        return majority((yield Extend((Candidate(model=self.model),), temperature=0)))


@dataclass(frozen=True)
class Sampling(Strategy):
    """Base of the strategies that write ``n`` solutions, score them if the choice needs it, and choose.

    The solutions are written at once or, with ``stop``, in rounds until the choice is that certain: see ``stopping``.
    Each solution is scored once. A subclass defines the choice. Its replay on recorded attempts follows from ``search``
    (see ``strategies.replaying.samples``); a subclass for which that is too slow has a ``from_pool`` of its own.
    """

    stops: ClassVar[tuple[float, ...]] = (0.8, 0.95)  # values that tuning tries: a cheap and a careful one
    stops_from: ClassVar[int] = 8  # smallest n with a stop: below, the first round is most of it

    n: int = 1
    stop: float = 0.0

    @classmethod
    def variants(cls, sizes: Iterable[int], model: str | None = None) -> "list[Strategy]":
        """Return the arms that tuning tries at these sizes."""
        # One sample leaves nothing to choose by scores.
        plain = [cls(n=n, model=model) for n in sizes if n > 1 or not cls.needs_scores]
        return [*plain, *(cls(n=n, stop=stop, model=model) for n in sizes if n >= cls.stops_from for stop in cls.stops)]

    def choose(self, candidates: Sequence[Candidate]) -> Result:
        raise NotImplementedError

    def certainty(self, candidates: Sequence[Candidate]) -> float:
        """Return the probability that more samples keep the choice; by default, that the leader keeps its lead."""
        return lead(candidates)

    def rounds(self) -> list[int]:
        """Return the number of samples after each round; one round where nothing may stop early."""
        return doubling(self.n, first=self.first) if self.stop else [self.n]

    @property
    def first(self) -> int:
        """Samples in the first round where an early stop is allowed: a vote of fewer is never certain enough."""
        return unanimous(self.stop)

    def search(self) -> Search:
        written: list[Candidate] = []
        for total in self.rounds():
            new = yield Extend((Candidate(model=self.model),) * (total - len(written)))
            written += (yield Score(tuple(new))) if self.needs_scores else new
            if self.stop and self.certainty(written) >= self.stop:
                break
        return self.choose(written)

    def replay(self, recorded: "Recorded") -> "Runs | None":
        return self.from_pool(recorded) or super().replay(recorded)

    def from_pool(self, recorded: "Recorded") -> "Runs | None":
        """Replay the arm from its model's pool of attempts, by running :meth:`search` on them; None if it can't be."""
        from strategies.replaying.samples import by_search

        return by_search(self, recorded)


@dataclass(frozen=True)
class Majority(Sampling):
    """The most frequent answer of ``n`` samples (self-consistency, arXiv 2203.11171).

    stop  end once the leading answer keeps its lead with this probability (adaptive consistency, arXiv 2305.11860)
    """

    name: ClassVar[str] = "majority"

    def choose(self, candidates: Sequence[Candidate]) -> Result:
        return majority(candidates)

    def from_pool(self, recorded: "Recorded") -> "Runs | None":
        from strategies.replaying.samples import by_votes

        return by_votes(self, recorded)


@dataclass(frozen=True)
class WeightedBestOfN(Sampling):
    """The answer with the largest sum of scores among ``n`` samples (Snell et al., section 5.1).

    stop  as for majority, on votes weighted by the verifier's scores
    """

    name: ClassVar[str] = "weighted_best_of_n"
    needs_scores: ClassVar[bool] = True

    def choose(self, candidates: Sequence[Candidate]) -> Result:
        return weighted(candidates)

    def from_pool(self, recorded: "Recorded") -> "Runs | None":
        from strategies.replaying.samples import by_votes

        return by_votes(self, recorded)


@dataclass(frozen=True)
class BestOfN(Sampling):
    """The one of ``n`` samples that has the highest score.

    stop  end once the verifier finds a solution right with this probability
    """

    name: ClassVar[str] = "best_of_n"
    needs_scores: ClassVar[bool] = True
    stops: ClassVar[tuple[float, ...]] = (0.6, 0.9)
    stops_from: ClassVar[int] = 2

    @property
    def first(self) -> int:
        return 1

    def choose(self, candidates: Sequence[Candidate]) -> Result:
        return best(candidates)

    def certainty(self, candidates: Sequence[Candidate]) -> float:
        return highest_score(candidates)

    def from_pool(self, recorded: "Recorded") -> "Runs | None":
        from strategies.replaying.samples import by_highest_score

        return by_highest_score(self, recorded)
