"""Has the reference model alone answer chat completions that no search can serve, such as those with tools."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

from router.backends import Engines, Usage
from router.backends.chat import ChatEndpoint
from router.backends.specs import ModelSpec
from router.errors import DeadlineExceeded, InvalidRequest, SearchTooLong
from router.service.bundle_manager import BundleManager
from router.service.http.requests import Chat
from router.service.middleware.call import Call
from router.service.middleware.chain import Handler
from router.solving.driver import margin
from router.solving.solver import Solver
from strategies import Candidate


class Direct:
    """Passes requests on to the reference model's server where that answers chat completions.

    Other engines only write several answers to a prompt.
    """

    def __init__(self, bundles: BundleManager):
        self._bundles = bundles

    async def reply(self, chat: Chat, call: Call) -> Mapping[str, Any]:
        """Return a chat completion, at least its choices.

        Raises InvalidRequest, EngineUnavailable.
        """
        with self._bundles.solver() as solver, _billed(chat, call, solver) as usage:
            if server := endpoint(solver):
                return await server.reply(_body(chat, solver.bundle.setup.main), usage)
            return {"choices": await _written(chat, solver.engines, usage)}

    async def events(self, chat: Chat, call: Call) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the chunks of a streamed chat completion. Raises as :meth:`reply`."""
        with self._bundles.solver() as solver, _billed(chat, call, solver) as usage:
            server = endpoint(solver)
            if server is None:
                for choice in await _written(chat, solver.engines, usage):
                    delta = choice.pop("message")
                    yield {"choices": [{**choice, "delta": delta}]}
                return
            async with aclosing(server.events(_body(chat, solver.bundle.setup.main), usage)) as events:
                async for event in events:
                    yield event


def endpoint(solver: Solver) -> ChatEndpoint | None:
    """Return the reference model's endpoint; None where its engine answers no chat completions."""
    server: ChatEndpoint | None = getattr(solver.engines.main, "chat", None)
    return server


def limited(proceed: Handler, longest: float | None) -> Handler:
    """Return the handler around ``proceed`` that ends calls at their limits, as searches end by themselves.

    longest  seconds that a call may take, whatever its caller's deadline; None: no limit
    """

    async def handle(call: Call) -> Any:
        left = call.seconds_left
        seconds = min((limit for limit in (left, longest) if limit is not None), default=None)
        try:
            # A little before the caller stops waiting, so that it still gets the bill.
            async with asyncio.timeout(None if seconds is None else seconds - margin(seconds)) as limit:
                return await proceed(call)
        except TimeoutError:
            if not limit.expired():
                raise
            error = _late(by_caller=seconds == left)
            error.bill = call.progress.bill
            raise error from None

    return handle


def _late(*, by_caller: bool) -> DeadlineExceeded | SearchTooLong:
    if by_caller:
        return DeadlineExceeded("the deadline ended the call; give it more time, or ask for less")
    return SearchTooLong(
        "the call took as long as this server lets one take (see serve --longest-search); ask for less"
    )


@contextmanager
def _billed(chat: Chat, call: Call, solver: Solver) -> Iterator[Usage]:
    """Start a bill, and give its line for the reference model; count the seconds until the end, whichever it is.

    Raises InvalidRequest where the reference model can't serve the request either.
    """
    if endpoint(solver) is None and (chat.prompt is None or list(chat.direct) != ["n"]):
        fields = ", ".join(chat.direct[:5])
        raise InvalidRequest(
            chat.direct[0],
            f"{fields}: a search can't do this, and the model's engine answers no chat completions itself",
            reason="NOT_SEARCHABLE",
        )
    bill = call.progress.bill = solver.new_bill()
    started = time.monotonic()
    try:
        yield bill.line(solver.engines.reference, "generator")
    finally:
        bill.seconds["generate"] += time.monotonic() - started


async def _written(chat: Chat, engines: Engines, usage: Usage) -> list[dict[str, Any]]:
    """Write ``n`` answers with different random numbers; return them as choices."""
    n = (chat.fields.model_extra or {})["n"]
    assert chat.prompt
    candidates = await engines.main.extend(
        chat.prompt,
        [Candidate()] * n,
        steps=None,
        temperature=chat.fields.temperature,
        max_tokens=chat.cap,
        deadline=None,
        seed=chat.fields.seed % 2**32,
        usage=usage,
        longest=chat.fields.longest,
    )
    return [
        {
            "index": index,
            "message": {"role": "assistant", "content": each.text, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop" if each.finished else "length",
        }
        for index, each in enumerate(candidates)
    ]


def _body(chat: Chat, spec: ModelSpec) -> dict[str, Any]:
    """Return the request to pass on, without the router's own fields, within the bundle's limits."""
    fields = chat.fields
    n = (fields.model_extra or {}).get("n") or 1
    longest = spec.longest_of(fields.longest)
    if chat.cap is not None:
        longest = min(longest, chat.cap // n)
        if not longest:
            raise InvalidRequest(
                "router.max_generated_tokens",
                f"{chat.cap} tokens are not enough for {n} answers",
                reason="CAP_OUT_OF_RANGE",
            )
    seed = {"seed": fields.seed} if "seed" in fields.model_fields_set else {}
    key = "max_tokens" if spec.endpoint is None else spec.endpoint.length_key
    return {**chat.passed, **seed, key: longest, "temperature": spec.temperature_of(fields.temperature)}
