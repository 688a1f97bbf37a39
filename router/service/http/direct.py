"""Has the reference model alone answer chat completions that no search can serve, such as those with tools."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from router.backends import Engines, Usage
from router.backends.chat import ChatEndpoint
from router.backends.specs import ModelSpec
from router.errors import InvalidRequest
from router.service.bundle_manager import BundleManager
from router.service.http.requests import Chat
from router.service.middleware.call import Call
from router.solving.solver import Solver
from strategies import Candidate

_OURS = ("router", "model", "max_tokens", "max_completion_tokens", "stream", "stream_options", "seed")


class Direct:
    """Passes requests on to the reference model's server where that answers chat completions.

    Other engines only write several answers to a prompt.
    """

    def __init__(self, bundles: BundleManager):
        self._bundles = bundles

    async def reply(self, chat: Chat, call: Call) -> Mapping[str, Any]:
        """Return a chat completion, at least its choices.

        Raises InvalidRequest, EngineUnavailable, DeadlineExceeded.
        """
        with self._bundles.solver() as solver:
            usage = _line(chat, call, solver)
            if endpoint := _endpoint(solver):
                return await endpoint.reply(_body(chat, solver.bundle.setup.main), usage)
            return {"choices": await _written(chat, solver.engines, usage)}

    async def events(self, chat: Chat, call: Call) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yield the chunks of a streamed chat completion. Raises as :meth:`reply`."""
        with self._bundles.solver() as solver:
            usage = _line(chat, call, solver)
            endpoint = _endpoint(solver)
            if endpoint is None:
                for choice in await _written(chat, solver.engines, usage):
                    delta = choice.pop("message")
                    yield {"choices": [{**choice, "delta": delta}]}
                return
            async with aclosing(endpoint.events(_body(chat, solver.bundle.setup.main), usage)) as events:
                async for event in events:
                    yield event


def _endpoint(solver: Solver) -> ChatEndpoint | None:
    """Return the reference model's endpoint; None where its engine answers no chat completions."""
    endpoint: ChatEndpoint | None = getattr(solver.engines.main, "chat", None)
    return endpoint


def _line(chat: Chat, call: Call, solver: Solver) -> Usage:
    """Start a bill, and return its line for the reference model.

    Raises InvalidRequest where the reference model can't serve the request either.
    """
    if _endpoint(solver) is None and (chat.prompt is None or list(chat.direct) != ["n"]):
        fields = ", ".join(chat.direct[:5])
        raise InvalidRequest(
            chat.direct[0],
            f"{fields}: a search can't do this, and the model's engine answers no chat completions itself",
            reason="NOT_SEARCHABLE",
        )
    bill = call.progress.bill = solver.new_bill()
    return bill.line(solver.engines.reference, "generator")


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
    """Return the request to pass on: all fields but the router's own, within the bundle's limits."""
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
    body = {name: value for name, value in chat.body.items() if name not in _OURS and value is not None}
    seed = {"seed": fields.seed} if "seed" in chat.body else {}
    key = "max_tokens" if spec.endpoint is None else spec.endpoint.length_key
    return {**body, **seed, key: longest, "temperature": spec.temperature_of(fields.temperature)}
