"""Chat completions that are passed through to the model's server, for requests that no search can serve."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from router.backends import Usage
from router.backends.replicas import Replicas, Unfit, understood
from router.errors import InvalidRequest

Body = Mapping[str, Any]
"""The JSON of a chat completion in OpenAI's API: a request, a reply, or an event of a streamed reply."""


class ChatEndpoint:
    """The chat completions endpoint of a model's server. Generators that have one offer it as their ``chat``.

    model  returns the name that the server has for the model
    """

    def __init__(self, replicas: Replicas, path: str, model: Callable[[], Awaitable[str]]):
        self._replicas, self._path, self._model = replicas, path, model

    async def reply(self, body: Body, usage: Usage) -> Body:
        """Return the whole reply. Raises InvalidRequest where the server refuses the request, EngineUnavailable."""
        asked = {**body, "model": await self._model(), "stream": False}
        asked.pop("stream_options", None)

        def read(answer: Any) -> Body:
            _add(usage, answer["usage"])
            return {**answer, "choices": list(answer["choices"])}

        usage.add(calls=1)
        try:
            return await self._replicas.post(self._path, asked, read, load=body.get("n") or 1)
        except Unfit as error:
            raise _not_taken(error) from error

    async def events(self, body: Body, usage: Usage) -> AsyncGenerator[Body, None]:
        """Yield the reply as a stream of events, without those that report usage. Raises as :meth:`reply`."""
        asked = {**body, "model": await self._model(), "stream": True, "stream_options": {"include_usage": True}}
        usage.add(calls=1)
        try:
            async with self._replicas.stream(self._path, asked, load=body.get("n") or 1) as events:
                last: Any = None
                async for event in events:
                    with understood():
                        choices = list(event["choices"])
                    last = event.get("usage") or last
                    if choices:
                        yield {**event, "choices": choices}
                if last:
                    with understood():
                        _add(usage, last)
        except Unfit as error:
            raise _not_taken(error) from error


def _add(usage: Usage, reported: Any) -> None:
    """Add the tokens that a server reports, except prompt tokens it found in its prefix cache and did not read."""
    details = reported.get("prompt_tokens_details") or {}
    read = int(reported["prompt_tokens"]) - int(details.get("cached_tokens") or 0)
    usage.add(prompt_tokens=max(0, read), generated_tokens=int(reported.get("completion_tokens") or 0))


def _not_taken(error: Unfit) -> InvalidRequest:
    return InvalidRequest("", f"the model's server does not take this request: {error.said}", reason="NOT_SEARCHABLE")
