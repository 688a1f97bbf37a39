"""Which of two answers a model prefers as the next thing to say: what generators that can tell have in common."""

from collections.abc import Sequence
from typing import Any

from router.errors import InvalidRequest


def label_tokens(tokenizer: Any, answers: tuple[str, str]) -> tuple[int, int]:
    """The tokens that the two answers begin with. Raises InvalidRequest where they begin alike."""
    first, second = (tokenizer.encode(answer, add_special_tokens=False)[0] for answer in answers)
    if first == second:
        raise InvalidRequest(
            "verifier", f"this model begins {answers[0]!r} and {answers[1]!r} with the same token", reason="UNSPECIFIED"
        )
    return int(first), int(second)


def within_cap(readings: Sequence[Sequence[int]], context: int, max_tokens: int | None) -> list[bool]:
    """Which of the readings a model with this context has room for and, in their order, the cap has."""
    fits, spent = [], 0
    for reading in readings:
        fit = len(reading) < context and (max_tokens is None or spent + len(reading) <= max_tokens)
        spent += len(reading) * fit
        fits.append(fit)
    return fits
