"""OpenTelemetry spans: the call, its route, its rounds, their engine calls. Free of charge until traces are exported.

No prompt and no answer is an attribute, and no exception's text is recorded: it could quote them.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from router.backends import Generator, Usage, Verifier
from router.errors import MissingDependency
from router.prompt import Prompt
from router.service.middleware import Call, Proceed
from router.solving.driver import Round
from router.solving.solver import Decision, Solution
from strategies import Candidate

_tracer = trace.get_tracer("router")


def export(endpoint: str) -> Callable[[], None]:
    """Send traces to an OpenTelemetry collector, e.g. http://localhost:4317; what is returned sends the rest at the
    end. Raises MissingDependency."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingDependency(f"traces need {error.name}; pip install 'compute-optimal-router[traces]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "router"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http:"))))
    trace.set_tracer_provider(provider)
    return provider.shutdown


async def traced(call: Call, context: grpc.aio.ServicerContext, proceed: Proceed) -> Any:
    """The call's own span, within the caller's trace where its metadata names one."""
    if not _on():
        return await proceed()
    parent = propagate.extract(call.metadata)
    with _span(f"{call.service}/{call.method}", context=parent, kind=SpanKind.SERVER) as span:
        try:
            return await proceed()
        finally:
            span.set_attributes(
                {
                    "rpc.service": call.service,
                    "rpc.method": call.method,
                    "rpc.response.status_code": call.code,
                    "router.call_id": call.id,
                }
            )
            if call.decision:
                span.set_attributes(
                    {
                        "router.bundle": call.decision.bundle_id,
                        "router.level": call.decision.level,
                        "router.arm": str(call.decision.arm),
                    }
                )


async def spanned(
    events: AsyncGenerator[Decision | Round | Solution, None],
) -> AsyncGenerator[Decision | Round | Solution, None]:
    """The events of a search, each awaited in a span: route, then one a round."""
    name = "route"
    async with aclosing(events):
        while True:
            with _span(name) as span:
                event = await anext(events, None)
                if isinstance(event, Round):
                    span.set_attributes(
                        {"router.round": event.number, "router.alive": event.alive, "router.finished": event.finished}
                    )
                elif isinstance(event, Solution):
                    span.update_name("result")
            if event is None:
                return
            yield event
            name = "round"


class TracedGenerator:
    """A generator whose calls are spans; see ``backends.Generator``."""

    def __init__(self, generator: Generator):
        self._generator = generator
        self.parameters = generator.parameters
        self.close = generator.close

    async def extend(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, usage: Usage, **options: Any
    ) -> list[Candidate]:
        before = usage.generated_tokens
        with _span("generator.extend") as span:
            try:
                return await self._generator.extend(prompt, candidates, usage=usage, **options)
            finally:
                span.set_attributes(
                    {"router.candidates": len(candidates), "router.generated_tokens": usage.generated_tokens - before}
                )

    async def embed(self, prompts: Sequence[Prompt], *, usage: Usage) -> list[list[float]]:
        with _span("generator.embed"):
            return await self._generator.embed(prompts, usage=usage)


class TracedVerifier:
    """A verifier whose calls are spans; see ``backends.Verifier``."""

    def __init__(self, verifier: Verifier):
        self._verifier = verifier
        self.parameters = verifier.parameters
        self.close = verifier.close

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, usage: Usage, **options: Any
    ) -> list[Candidate]:
        before = usage.scored_tokens
        with _span("verifier.score") as span:
            try:
                return await self._verifier.score(prompt, candidates, usage=usage, **options)
            finally:
                span.set_attributes(
                    {"router.candidates": len(candidates), "router.scored_tokens": usage.scored_tokens - before}
                )


def _on() -> bool:
    """Whether spans go anywhere; those that don't still cost a hundredth of a millisecond each."""
    return not (
        isinstance(_tracer, trace.ProxyTracer) and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    )


@contextmanager
def _span(name: str, **options: Any) -> Iterator[Span]:
    """A current span; of what it raises, only that it did and the type is told."""
    with _tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False, **options) as span:
        try:
            yield span
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
