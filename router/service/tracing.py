"""OpenTelemetry spans of a search: its decision, its rounds, their engine calls.

The span of the whole call is made by middleware. Spans hold no prompt, no answer and no exception's text, which could
quote them.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.trace import Span, Status, StatusCode, Tracer

from router.backends import Asked, Engines, Generator, Usage, Verifier, asks, check_room, prepared
from router.backends.states import State
from router.errors import InvalidRequest, MissingDependency
from router.prompt import Prompt
from router.solving.driver import Round
from router.solving.solver import Decision, Solution
from router.solving.stages import StageEnd
from strategies import Candidate


def exporter(endpoint: str) -> tuple[Tracer, Callable[[], None]]:
    """Return a tracer, and a function to call at the end, which sends what is left.

    endpoint  URL of an OpenTelemetry collector, e.g. http://localhost:4317

    Raises MissingDependency, InvalidRequest.
    """
    if "@" in urlsplit(endpoint).netloc:  # gRPC has no such thing, and would quote it in the log
        raise InvalidRequest(
            "traces",
            "--traces: a collector's URL has no user and password; headers are read from OTEL_EXPORTER_OTLP_HEADERS",
            reason="UNSPECIFIED",
        )
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingDependency(f"traces need {error.name}; pip install 'compute-optimal-router[traces]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "router"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, insecure=endpoint.startswith("http:"))))
    return provider.get_tracer("router"), provider.shutdown


async def traced_search(
    tracer: Tracer,
    events: AsyncGenerator[Decision | Round | StageEnd | Solution, None],
) -> AsyncGenerator[Decision | Round | StageEnd | Solution, None]:
    """Yield a search's events, each awaited inside a span: one for the decision, then one for each round."""
    name = "route"
    async with aclosing(events):
        while True:
            with span(tracer, name) as current:
                event = await anext(events, None)
                if isinstance(event, Round):
                    current.set_attributes(
                        {"router.round": event.number, "router.alive": event.alive, "router.finished": event.finished}
                    )
                elif isinstance(event, StageEnd):
                    current.update_name("stage")
                    current.set_attribute("router.stage", event.number)
                elif isinstance(event, Solution):
                    current.update_name("result")
            if event is None:
                return
            yield event
            name = "round"


def traced(engines: Engines, tracer: Tracer) -> Engines:
    """Return the engines with a span around each call."""
    models = {name: TracedGenerator(model, tracer) for name, model in engines.models.items()}
    return replace(engines, models=models, verifier=TracedVerifier(engines.verifier, tracer))


class TracedGenerator:
    """A generator with a span around each call; see ``backends.Generator``."""

    def __init__(self, generator: Generator, tracer: Tracer):
        self._generator, self._tracer = generator, tracer
        self.parameters = generator.parameters
        self.close = generator.close
        self.chat = getattr(generator, "chat", None)  # some generators also answer chat completions
        if prefer := getattr(generator, "prefer", None):  # some also have this method, which a judge uses
            self.prefer = prefer

    async def extend(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, usage: Usage, **options: Any
    ) -> list[Candidate]:
        before = usage.generated_tokens
        with span(self._tracer, "generator.extend") as current:
            try:
                return await self._generator.extend(prompt, candidates, usage=usage, **options)
            finally:
                current.set_attributes(
                    {"router.candidates": len(candidates), "router.generated_tokens": usage.generated_tokens - before}
                )

    async def embed(
        self, prompts: Sequence[Prompt], states: Sequence[State] = (State(),), *, usage: Usage
    ) -> list[list[float]]:
        with span(self._tracer, "generator.embed"):
            return await self._generator.embed(prompts, states, usage=usage)


class TracedVerifier:
    """A verifier with a span around each call; see ``backends.Verifier``."""

    def __init__(self, verifier: Verifier, tracer: Tracer):
        self._verifier, self._tracer = verifier, tracer
        self.parameters = verifier.parameters
        self.model = asks(verifier)
        self.close = verifier.close

    async def prepared(self, asked: Asked, usage: Usage) -> tuple["TracedVerifier", Any]:
        with span(self._tracer, "verifier.prepare"):
            verifier, task = await prepared(self._verifier, asked, usage)
        return TracedVerifier(verifier, self._tracer), task

    async def check_room(self, prompt: Prompt, longest: int) -> None:
        await check_room(self._verifier, prompt, longest)

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, usage: Usage, **options: Any
    ) -> list[Candidate]:
        before = usage.scored_tokens
        with span(self._tracer, "verifier.score") as current:
            try:
                return await self._verifier.score(prompt, candidates, usage=usage, **options)
            finally:
                current.set_attributes(
                    {"router.candidates": len(candidates), "router.scored_tokens": usage.scored_tokens - before}
                )


@contextmanager
def span(tracer: Tracer, name: str, **options: Any) -> Iterator[Span]:
    """Open a span inside the current one. Of an exception, only the type is recorded."""
    with tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **options
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
