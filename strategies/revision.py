"""Sequential revision: each attempt is written in sight of the ones before it (Snell et al., section 6)."""

from dataclasses import replace

from strategies.requests import Extend, Path, Score, Search
from strategies.selection import within_then_across

CONTEXT = 4  # the paper's reviser saw at most the last four attempts


def revision(n: int, chains: int) -> Search:
    """``chains`` parallel chains of n/chains attempts each; chains=n is all parallel, chains=1 all sequential."""
    attempts: list[list[Path]] = [[] for _ in range(chains)]
    for _ in range(n // chains):
        shown = [tuple(attempt.text for attempt in chain if attempt.finished)[-CONTEXT:] for chain in attempts]
        written = yield Extend(tuple(Path(earlier=earlier) for earlier in shown))
        for chain, attempt in zip(attempts, written, strict=True):
            chain.append(attempt)
    flat = yield Score(tuple(replace(attempt, earlier=()) for chain in attempts for attempt in chain))
    length = n // chains
    return within_then_across([flat[i : i + length] for i in range(0, n, length)])
