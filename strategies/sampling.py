"""Independent samples, then a choice: single, majority, best-of-N, weighted best-of-N; and the larger model's one."""

from strategies.asks import Extend, Path, Score, Search
from strategies.select import Select, majority
from strategies.stopping import lead, rounds


def sample(n: int, *, select: Select, scored: bool, temperature: float | None = None, stop: float = 0.0) -> Search:
    """Write ``n`` solutions, score them if the choice needs it, choose.

    All at once, or with ``stop`` in rounds until the leading answer keeps its lead with that probability: see
    ``stopping``. Each solution is scored once.
    """
    paths: list[Path] = []
    for total in rounds(n, stop):
        written = yield Extend((Path(),) * (total - len(paths)), temperature=temperature)
        paths += (yield Score(tuple(written))) if scored else written
        if stop and lead(paths) >= stop:
            break
    return select(paths)


def larger_model(n: int) -> Search:
    """One greedy solution, which the driver has a model of ``n`` times the parameters write: ``n`` is its price."""
    return sample(1, select=majority, scored=False, temperature=0)
