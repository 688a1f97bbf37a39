"""Chat completions that are passed through to the model's server, for requests that no search can serve."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from router.backends import Usage
from router.backends.replicas import Replicas, Unfit, understood
from router.errors import InvalidRequest

CHARACTERS = 4  # per token: an estimate, for texts whose tokens the server has not counted
MEDIUM = 1_000  # tokens of an image, a sound or a file: an estimate, whatever its size
_MEDIA = ("image_url", "input_audio", "file")  # types of the parts of a message that hold one
ESTIMATED = "it reports no usage, so bills are estimates: four characters a token read, an event a token written"
log = logging.getLogger(__name__)

Body = Mapping[str, Any]
"""The JSON of a chat completion in OpenAI's API: a request, a reply, or an event of a streamed reply."""


class ChatEndpoint:
    """The chat completions endpoint of a model's server. Generators that have one offer it as their ``chat``.

    model  returns the name that the server has for the model
    """

    def __init__(self, replicas: Replicas, path: str, model: Callable[[], Awaitable[str]]):
        self._replicas, self._path, self._model = replicas, path, model
        self._told = False  # whether the log says that bills are estimates

    async def reply(self, body: Body, usage: Usage) -> Body:
        """Return the whole reply. Raises InvalidRequest where the server refuses the request, EngineUnavailable."""
        asked = {**body, "model": await self._model(), "stream": False}
        asked.pop("stream_options", None)

        def read(answer: Any) -> Body:
            choices, spent = list(answer["choices"]), _reported(answer["usage"])
            usage.add(prompt_tokens=spent.prompt_tokens, generated_tokens=spent.generated_tokens)
            return {**answer, "choices": choices}

        usage.add(calls=1)
        try:
            return await self._replicas.post(self._path, asked, read, load=body.get("n") or 1)
        except Unfit as error:
            raise _not_taken(error) from error
        except asyncio.CancelledError:  # the server has read it; what it wrote until then, nobody knows
            usage.add(prompt_tokens=_asked(asked))
            raise

    async def events(self, body: Body, usage: Usage) -> AsyncGenerator[Body, None]:
        """Yield the reply as a stream of events, without those that report usage. Raises as :meth:`reply`.

        Where the stream ends early, or its server reports no usage, what came is billed: see :func:`_shown`.
        """
        asked = {**body, "model": await self._model(), "stream": True, "stream_options": {"include_usage": True}}
        usage.add(calls=1)
        seen, reported, begun, whole = Usage(), None, False, False
        try:
            async with self._replicas.stream(self._path, asked, load=body.get("n") or 1) as events:
                begun = True
                async for event in events:
                    with understood():
                        choices = list(event["choices"])
                        seen.generated_tokens += sum(map(_shown, choices))
                        reported = _reported(event["usage"]) if event.get("usage") else reported
                    if choices:
                        yield {**event, "choices": choices}
                whole = True
                if reported is None:
                    self._tell_of_estimates()
        except Unfit as error:
            raise _not_taken(error) from error
        finally:
            spent = reported or Usage(_asked(asked) if begun else 0, seen.generated_tokens)
            if not whole:  # some servers tell on the way how much it was then
                spent.generated_tokens = max(spent.generated_tokens, seen.generated_tokens)
            usage.add(prompt_tokens=spent.prompt_tokens, generated_tokens=spent.generated_tokens)

    def _tell_of_estimates(self) -> None:
        if not self._told:
            self._told = True
            log.warning("engine %s: %s", self._replicas.urls, ESTIMATED)


def _asked(body: Body) -> int:
    """Return the number of tokens of a request, estimated by its length; of media each counts :data:`MEDIUM`."""
    media = 0

    def words(part: Any) -> Any:
        nonlocal media
        if isinstance(part, Mapping) and part.get("type") in _MEDIA:
            media += 1
            return None
        return part

    messages = [
        {**each, "content": list(map(words, each["content"]))} if isinstance(each.get("content"), list) else each
        for each in body.get("messages") or ()
    ]
    return len(json.dumps([messages, body.get("tools")], ensure_ascii=False)) // CHARACTERS + MEDIUM * media


def _shown(choice: Any) -> int:
    """Return the number of tokens that a choice of an event shows: those listed, else one, and more for long texts."""
    listed = len((choice.get("logprobs") or {}).get("content") or ())
    delta = choice.get("delta") or {}
    calls = [call.get("function") or {} for call in delta.get("tool_calls") or ()]
    texts = [text for name, text in delta.items() if name != "role"] + [each.get("arguments") for each in calls]
    written = sum(len(text) for text in texts if isinstance(text, str))
    return listed or max(bool(written or calls), written // CHARACTERS)


def _reported(usage: Any) -> Usage:
    """Return the tokens that a server reports, except prompt tokens it found in its prefix cache and did not read."""
    details = usage.get("prompt_tokens_details") or {}
    read = int(usage["prompt_tokens"]) - int(details.get("cached_tokens") or 0)
    return Usage(max(0, read), max(0, int(usage.get("completion_tokens") or 0)))


def _not_taken(error: Unfit) -> InvalidRequest:
    return InvalidRequest("", f"the model's server does not take this request: {error.said}", reason="NOT_SEARCHABLE")
