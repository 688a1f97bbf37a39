"""The protocol of middleware, and how a method's chain is made of it: once, when the server is built."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from router.errors import RouterError
from router.service.middleware.call import Call

Handler = Callable[[Call], Awaitable[Any]]
"""Answers a call: returns the reply, or None where it has sent a stream of events. Raises RouterError."""


class Middleware(Protocol):
    """Stands around every call. One that waits, or looks at the reply, is a coroutine around the rest:

    def wrap(self, service, method, proceed):
        async def handle(call):
            ...
            return await proceed(call)

        return handle
    """

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        """What answers the method's calls in place of ``proceed``, which is the rest of the chain.

        Called once a method, when the server is built. It may return ``proceed`` itself: then nothing stands around
        this method. A handler that only checks may be a plain function that returns ``proceed(call)``.
        """


def chain(middleware: Sequence[Middleware], service: str, method: str, endpoint: Handler) -> Handler:
    """``endpoint`` within all of the middleware, the first outermost."""
    for each in reversed(middleware):
        endpoint = each.wrap(service, method, endpoint)
    return endpoint


def replying(behaviour: Callable[[Any, Call], Awaitable[Any]]) -> Handler:
    """The endpoint of a service's method that returns one reply."""

    def handle(call: Call) -> Awaitable[Any]:
        return behaviour(call.request, call)

    return handle


def streaming(behaviour: Callable[[Any, Call], AsyncIterator[Any]]) -> Handler:
    """The endpoint of a service's method that yields events.

    A coroutine that sends, not a generator: cancelling it ends the search at once, and not when it is collected.
    """

    async def handle(call: Call) -> None:
        async with aclosing(behaviour(call.request, call)) as events:  # type: ignore[type-var]
            async for event in events:
                await call.send(event)

    return handle


async def refuse(call: Call) -> Any:
    """The endpoint of a request that was refused before it was a call: its ``request`` is the error."""
    error: RouterError = call.request
    raise error
