"""Which of two answers a chat model prefers, read off the likeliest first tokens of its reply."""

from collections.abc import Sequence
from math import exp
from typing import Any

from router.backends import Usage
from router.backends.openai.samples import LARGEST_COUNT
from router.backends.replicas import Replicas
from router.prompt import Prompt

LIKELIEST = 20  # likeliest first tokens asked for: the most that servers show
_FRAME = 64  # most tokens that a chat template puts around the messages


async def prefer(
    replicas: Replicas,
    path: str,
    bodies: Sequence[tuple[Prompt, dict[str, Any]]],
    answers: tuple[str, str],
    *,
    max_tokens: int | None,
    usage: Usage,
) -> list[float | None]:
    """See :class:`router.backends.Prefers`. ``bodies``: each prompt with the request for it.

    Tokens are unknown until the server counts them, so a prompt counts as one token a byte against ``max_tokens``. A
    prompt is None also where neither answer is among the likeliest.
    """
    found: list[float | None] = []
    left = max_tokens
    for prompt, body in bodies:
        most = sum(len(message.text.encode()) for message in prompt.messages) + _FRAME
        if left is not None and most > left:
            found.append(None)
            continue
        asked = {**body, "logprobs": True, "top_logprobs": LIKELIEST, "temperature": 0.0}
        asked = {key: value for key, value in asked.items() if key not in ("stream", "stream_options", "n")}
        preferred, tokens = await replicas.post(path, asked, lambda answer: _read(answer, answers))
        usage.add(calls=1, scored_tokens=tokens)
        left = None if left is None else max(0, left - tokens)
        found.append(preferred)
    return found


def _read(answer: Any, answers: tuple[str, str]) -> tuple[float | None, int]:
    tokens = int(answer["usage"]["prompt_tokens"])
    if not 0 <= tokens < LARGEST_COUNT:
        raise ValueError(f"{tokens} tokens")
    listed = (answer["choices"][0].get("logprobs") or {}).get("content") or [{}]
    first, second = (
        sum(exp(each["logprob"]) for each in listed[0].get("top_logprobs") or () if _begins(each["token"], wanted))
        for wanted in answers
    )
    return (first / (first + second) if first + second else None), tokens


def _begins(token: str, answer: str) -> bool:
    said = token.strip().lower()
    return bool(said) and answer.lower().startswith(said)
