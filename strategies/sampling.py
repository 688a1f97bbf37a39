"""Independent samples, then a choice: single, majority, best-of-N, weighted best-of-N."""

from strategies.asks import Extend, Path, Score, Search
from strategies.select import Select


def sample(n: int, *, select: Select, scored: bool, temperature: float | None = None) -> Search:
    """Write ``n`` solutions at once, score them if the choice needs it, choose."""
    paths = yield Extend((Path(),) * n, temperature=temperature)
    if scored:
        paths = yield Score(tuple(paths))
    return select(paths)
