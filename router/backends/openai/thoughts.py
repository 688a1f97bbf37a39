"""Tells a server how long its model is to think, and asks again where a thought left no room for an answer."""

from dataclasses import replace
from typing import Any

from router.backends.specs import Thinking
from strategies import Candidate

HURRY = "The time to think is up. Give the final answer now, by what you have found so far."


def ask(body: dict[str, Any], thinking: Thinking | None, *, hurried: bool) -> None:
    """Add to a request how long to think. ``hurried``: ask for no thought at all, where the server can be told."""
    if thinking is None:
        return
    if thinking.effort and not hurried:
        body["reasoning_effort"] = thinking.effort
    if thinking.parameter and thinking.budget is not None:
        *path, last = thinking.parameter.split(".")
        place = body
        for key in path:
            place = place.setdefault(key, {})
        place[last] = 0 if hurried else thinking.budget


def hurry(thought: Candidate) -> list[dict[str, str]]:
    """Return messages that show the model its cut thought and ask for the answer."""
    return [{"role": "assistant", "content": thought.reasoning}, {"role": "user", "content": HURRY}]


def was_cut(candidate: Candidate) -> bool:
    """Tell whether the candidate is a thought without an answer because it reached the longest solution."""
    return candidate.end == "length" and not candidate.text.strip() and bool(candidate.reasoning)


def joined(thought: Candidate, answer: Candidate) -> Candidate:
    """Return the answer, with the earlier thought put before its own."""
    return replace(
        answer,
        reasoning="\n\n".join(filter(None, (thought.reasoning, answer.reasoning))),
        thinking_tokens=thought.thinking_tokens + answer.thinking_tokens,
    )
