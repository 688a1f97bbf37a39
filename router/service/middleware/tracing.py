"""The trace span of a call, within its caller's trace where the metadata name one."""

from typing import Any

from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Tracer

from router.service.middleware.call import Call, CallRecord
from router.service.middleware.chain import Handler
from router.service.tracing import span


class Tracing:
    """Puts a span around each call. Stands around Observation, whose record becomes the span's attributes."""

    def __init__(self, tracer: Tracer):
        self._tracer = tracer

    def wrap(self, service: str, method: str, proceed: Handler) -> Handler:
        async def handle(call: Call) -> Any:
            parent = propagate.extract(call.metadata)
            with span(self._tracer, f"{service}/{method}", context=parent, kind=SpanKind.SERVER) as current:
                try:
                    return await proceed(call)
                finally:
                    if call.progress.record:
                        _describe(current, call.progress.record)

        return handle


def _describe(current: Span, record: CallRecord) -> None:
    current.set_attributes(
        {
            "rpc.service": record.service,
            "rpc.method": record.method,
            "rpc.response.status_code": record.code,
            "router.call_id": record.id,
        }
    )
    if record.decision:
        current.set_attributes(
            {
                "router.bundle": record.decision.bundle_id,
                "router.level": record.decision.level,
                "router.arm": record.arm or "",
            }
        )
