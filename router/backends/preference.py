"""Shared code of generators that tell which of two answers a model would rather begin its reply with."""

from collections.abc import Sequence
from typing import Any

from router.errors import InvalidRequest


def label_tokens(tokenizer: Any, answers: tuple[str, str]) -> tuple[int, int]:
    """Return the first token of each of two answers. Raises InvalidRequest where these are the same."""
    first, second = (tokenizer.encode(answer, add_special_tokens=False)[0] for answer in answers)
    if first == second:
        raise InvalidRequest(
            "verifier", f"this model begins {answers[0]!r} and {answers[1]!r} with the same token", reason="UNSPECIFIED"
        )
    return int(first), int(second)


def within_cap(readings: Sequence[Sequence[int]], context: int, max_tokens: int | None) -> list[bool]:
    """Return for each reading whether it fits the model's context and, after those before it, the cap."""
    fits, spent = [], 0
    for reading in readings:
        fit = len(reading) < context and (max_tokens is None or spent + len(reading) <= max_tokens)
        spent += len(reading) * fit
        fits.append(fit)
    return fits
