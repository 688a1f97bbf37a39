"""Independent samples, then a choice: single, majority, best-of-N, weighted best-of-N; and the larger model's one."""

from strategies.requests import Extend, Path, Score, Search
from strategies.selection import Select, best, majority
from strategies.stopping import doubling, lead, promise, unanimous


def sample(n: int, *, select: Select, scored: bool, temperature: float | None = None, stop: float = 0.0) -> Search:
    """Write ``n`` solutions, score them if the choice needs it, choose.

    All at once, or with ``stop`` in rounds until it is that sure of the choice: see ``stopping``. Each solution is
    scored once.
    """
    paths: list[Path] = []
    for total in rounds(n, select, stop):
        written = yield Extend((Path(),) * (total - len(paths)), temperature=temperature)
        paths += (yield Score(tuple(written))) if scored else written
        if stop and (promise if select is best else lead)(paths) >= stop:
            break
    return select(paths)


def rounds(n: int, select: Select, stop: float) -> list[int]:
    """How many of ``n`` samples there are after each round; one round where nothing may stop early (0)."""
    if not stop:
        return [n]
    return doubling(n, first=1 if select is best else unanimous(stop))


def larger_model(n: int) -> Search:
    """One greedy solution, which the driver has a model of ``n`` times the parameters write: ``n`` is its price."""
    return sample(1, select=majority, scored=False, temperature=0)
