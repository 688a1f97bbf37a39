"""How arms, objectives and amounts are written for people."""

import re
from collections.abc import Iterable

import strategies

STRATEGIES = {
    "single": "one solution, written without randomness",
    "majority": "n independent solutions; the most frequent answer",
    "best_of_n": "n independent solutions; the one that the verifier scores highest",
    "weighted_best_of_n": "n independent solutions; the answer whose solutions have the largest sum of verifier scores",
    "beam_search": "n solutions grown step by step; after each step the verifier keeps the best n/m, and each of those "
    "is continued m times",
    "dvts": "diverse verifier tree search: n/m independent beam searches that each keep one",
    "lookahead": "beam search that judges a step by where k further steps lead",
    "revision": "n solutions in parallel chains; each is written with the chain's earlier ones shown",
    "repair": "up to n solutions one after the other, until one passes all tests; each is written with the "
    "wrong one before it and the failed test shown",
    "cascade": "arms tried in turn until the confidence in an answer is high enough; @p ends it at p",
}
PARAMETERS = {
    "stop": "ends early once it is that sure of its answer; n is then an upper bound",
    "model": "that model writes, and not the reference model, whose solutions budgets count",
}
OBJECTIVES = {
    "budget": "fixed budget",
    "average_budget": "average budget",
    "target_accuracy": "target accuracy",
    "price_per_flop": "price of a FLOP",
}


def strategies_in(arms: Iterable[str]) -> dict[str, str]:
    """Return the strategies and parameters that occur in arms' texts, each with its meaning."""
    text = " ".join(arms)
    words = set(re.findall(r"\w+", text)) | ({"cascade"} if ">" in text else set())
    others = {name: _first_line(kind) for name, kind in strategies.STRATEGIES.items() if name not in STRATEGIES}
    found = {name: meaning for name, meaning in (STRATEGIES | others).items() if name in words}
    return found | {f"{name}=": meaning for name, meaning in PARAMETERS.items() if name in words}


def _first_line(of: type) -> str:
    return (of.__doc__ or "").strip().partition("\n")[0].replace("``", "")


def si(value: float) -> str:
    """Format a number like ``18.5 G``: three digits with k, M, G, T, P or E."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}".rstrip()
        value /= 1000
    return f"{value:.3g} E"


def number(found: float | None) -> str:
    """Format a number like ``4.96``, ``8`` or ``0.9``: at most two decimals."""
    return "" if found is None else minus(f"{found:.2f}".rstrip("0").rstrip("."))


def minus(text: str) -> str:
    """Replace hyphens by minus signs."""
    return text.replace("-", "−")
