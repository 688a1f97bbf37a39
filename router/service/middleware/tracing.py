"""The trace span of a call, within its caller's trace where the metadata name one."""

from typing import Any

from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.service.middleware.call import Call, ended_by
from router.service.middleware.chain import Handler
from router.service.tracing import span

_PARENT = "traceparent"  # ids of a trace and of a span, in hexadecimal
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Puts a span around each call. Stands inside Authentication, so that strangers write nothing into traces.

    Only the caller's traceparent is read. The other headers of W3C's, baggage and tracestate, hold texts, which nothing
    here needs, and which the library logs where they are malformed.
    """

    def __init__(self, tracer: Tracer):
        self._tracer = tracer

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            parent = _propagator.extract({_PARENT: call.metadata.get(_PARENT, "")})
            with span(self._tracer, f"{service}/{method}", context=parent, kind=SpanKind.SERVER) as current:
                code = "OK"
                try:
                    return await proceed(call)
                except BaseException as error:
                    code, _ = ended_by(error, call)
                    raise
                finally:
                    _describe(current, call, code)

        return handle


def _describe(current: Span, call: Call, code: str) -> None:
    current.set_attributes(
        {
            "rpc.service": call.service,
            "rpc.method": call.method,
            "rpc.response.status_code": code,
            "router.call_id": call.id,
        }
    )
    if decision := call.progress.decision:
        current.set_attributes(
            {"router.bundle": decision.bundle_id, "router.level": decision.level, "router.arm": str(decision.arm)}
        )
