"""Renders errors as OpenAI's clients expect them: status, body, and headers that say whether to try again."""

import math
from typing import Any

from google.protobuf.json_format import MessageToDict

from router.errors import InvalidRequest, RouterError
from router.service import conversion, statuses
from router.service.http.request import BodyTooLarge
from router.solving.bill import Bill

_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# Reasons for which HTTP has a more fitting status than the gRPC status's counterpart.
_BY_REASON = {"MODEL_UNKNOWN": 404, "TOKEN_CAP_REACHED": 422}
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def status(error: RouterError) -> int:
    if isinstance(error, BodyTooLarge):
        return 413
    return _BY_REASON.get(error.reason) or _STATUSES.get(error.status, 500)


def body(error: RouterError, call_id: str) -> dict[str, Any]:
    """Return ``{"error": {"message", "type", "param", "code"}, "router": {"call_id", "bill"}}``; code: the reason."""
    code = status(error)
    router: dict[str, Any] = {"call_id": call_id}
    if isinstance(error.bill, Bill):
        router["bill"] = MessageToDict(conversion.bill(error.bill), preserving_proto_field_name=True)
    return {
        "error": {
            "message": statuses.message(error),
            "type": _TYPES.get(code) or ("server_error" if code >= 500 else "invalid_request_error"),
            "param": statuses.field(error) if isinstance(error, InvalidRequest) else None,
            "code": error.reason.lower(),
        },
        "router": router,
    }


def headers(error: RouterError) -> dict[str, str]:
    """Return headers that say when to retry. OpenAI's clients read all three, others Retry-After in whole seconds."""
    if error.retry_seconds is None:
        return {"x-should-retry": "false"}  # without it, they retry at 429 and from 500 on
    return {
        "x-should-retry": "true",
        "retry-after": str(math.ceil(error.retry_seconds)),
        "retry-after-ms": str(round(1000 * error.retry_seconds)),
    }
