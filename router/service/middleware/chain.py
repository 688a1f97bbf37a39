"""The protocol of middleware, and the chains of it around each method, which are built once, with the server."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from router.errors import RouterError
from router.service.middleware.call import Call

Handler = Callable[[Call], Awaitable[Any]]
"""Answers a call: returns the reply, or None where it has sent a stream of events. Raises RouterError."""


class Middleware(Protocol):
    """Code around every call. Middleware that waits, or looks at the reply, wraps a coroutine around the rest:

    def wrap(self, service, method, proceed):
        async def handle(call):
            ...
            return await proceed(call)

        return handle
    """

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        """Return the handler of a method's calls, built around ``proceed``, the rest of the chain.

        Called once for each method, when the server is built. It may return ``proceed`` itself, to leave the method
        alone. A handler that only checks may be a plain function that returns ``proceed(call)``.
        """


def chain(middleware: Sequence[Middleware], service: str, method: str, endpoint: Handler) -> Handler:
    """Return ``endpoint`` inside all of the middleware, the first outermost."""
    for each in reversed(middleware):
        endpoint = each.wrap(service, method, endpoint)
    return endpoint


def replying(behaviour: Callable[[Any, Call], Awaitable[Any]]) -> Handler:
    """Return the endpoint of a service's method that returns one reply."""

    def handle(call: Call) -> Awaitable[Any]:
        return behaviour(call.request, call)

    return handle


def streaming(behaviour: Callable[[Any, Call], AsyncIterator[Any]]) -> Handler:
    """Return the endpoint of a service's method that yields events.

    It is a coroutine that sends, not a generator: cancelling a coroutine ends the search at once, while a generator
    would end it when collected as garbage.
    """

    async def handle(call: Call) -> None:
        async with aclosing(behaviour(call.request, call)) as events:  # type: ignore[type-var]
            async for event in events:
                await call.send(event)

    return handle


async def refuse(call: Call) -> Any:
    """Raise the error of a request that was refused before it became a call; ``call.request`` is the error."""
    error: RouterError = call.request
    raise error
