"""Every error that a caller can see.

RouterError
├── InvalidRequest        INVALID_ARGUMENT     a field of the request is wrong
├── InvalidFile           INVALID_ARGUMENT     a prompts, attempts or settings file is wrong
├── InvalidBundle         FAILED_PRECONDITION  a bundle is partial, altered or from another version
├── MissingWeights        FAILED_PRECONDITION  the model's weights are not on this machine
├── MissingDependency     FAILED_PRECONDITION  an optional package is not installed
├── CodeNotAllowed        FAILED_PRECONDITION  code would have to be run, which is not allowed here
├── AddressUnavailable    FAILED_PRECONDITION  the server's address can't be listened on
├── Unauthenticated       UNAUTHENTICATED      the caller's token is missing or unknown
├── PermissionDenied      PERMISSION_DENIED    the caller may not do this
├── EngineUnavailable     UNAVAILABLE          the engine does not answer; in a client: the server does not
├── OutcomesOff           FAILED_PRECONDITION  the server records no outcomes
├── OutcomesUnavailable   UNAVAILABLE          the outcome database does not answer
├── Overloaded            RESOURCE_EXHAUSTED   too many searches are running and waiting
├── Stopping              UNAVAILABLE          the server is about to stop, or its time for running calls is over
├── StreamNotRead         DEADLINE_EXCEEDED    the caller does not read its stream
├── MessageMissing        DEADLINE_EXCEEDED    the caller opened a call and did not send its message
├── TooManyCalls          RESOURCE_EXHAUSTED   too many calls are open
├── UnknownService        NOT_FOUND            health was asked for a service that does not exist
├── InternalError         INTERNAL             a bug in the server, as a client sees it
└── Stopped                                    a limit ended the search, and the caller did not allow a partial result
    ├── DeadlineExceeded  DEADLINE_EXCEEDED
    ├── SearchTooLong     DEADLINE_EXCEEDED    the server's limit on the duration of a search
    ├── GaveWay           RESOURCE_EXHAUSTED   the search gave its place to waiting callers
    ├── TokenCapReached   RESOURCE_EXHAUSTED
    └── ConfidenceInsufficient  FAILED_PRECONDITION  the answer's confidence is below the target accuracy

Each class carries the name of its gRPC status, each instance the name of a value of ``ErrorReason`` in the proto.
"""

import copyreg
from typing import Any, ClassVar


class RouterError(Exception):
    """Base of all errors. ``reason`` is a name in the proto's ErrorReason, without its prefix.

    retry_seconds  when the same call may succeed; None: waiting does not help
    bill           the Bill of a call that the error ended: its cost is reported without a result, too
    """

    status: ClassVar[str]
    reason: str = "UNSPECIFIED"
    retry_seconds: float | None = None
    bill: object = None

    def __init__(self, message: str, *, reason: str | None = None, retry_seconds: float | None = None):
        super().__init__(message)
        if reason:
            self.reason = reason
        if retry_seconds is not None:
            self.retry_seconds = retry_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without calling the class, whose arguments may differ: workers send errors back."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class InvalidRequest(RouterError):
    """A field of the request is wrong. ``field`` is its name as a client spells it, e.g. ``arm.n``."""

    status = "INVALID_ARGUMENT"

    def __init__(self, field: str, message: str, *, reason: str):
        super().__init__(message, reason=reason)
        self.field = field


class InvalidFile(RouterError):
    status = "INVALID_ARGUMENT"
    reason = "INVALID_FILE"


class InvalidBundle(RouterError):
    status = "FAILED_PRECONDITION"
    reason = "INVALID_BUNDLE"


class MissingWeights(RouterError):
    status = "FAILED_PRECONDITION"
    reason = "MISSING_WEIGHTS"


class MissingDependency(RouterError):
    status = "FAILED_PRECONDITION"
    reason = "MISSING_DEPENDENCY"


class CodeNotAllowed(RouterError):
    status = "FAILED_PRECONDITION"
    reason = "CODE_NOT_ALLOWED"


class AddressUnavailable(RouterError):
    status = "FAILED_PRECONDITION"
    reason = "ADDRESS_UNAVAILABLE"


class Unauthenticated(RouterError):
    status = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDenied(RouterError):
    status = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class EngineUnavailable(RouterError):
    """The engine does not answer. ``retry_seconds``: how long a caller should wait before the next try."""

    status = "UNAVAILABLE"
    reason = "ENGINE_UNAVAILABLE"
    retry_seconds = 1.0


class OutcomesOff(RouterError):
    status = "FAILED_PRECONDITION"
    reason = "OUTCOMES_OFF"


class OutcomesUnavailable(RouterError):
    status = "UNAVAILABLE"
    reason = "OUTCOMES_UNAVAILABLE"
    retry_seconds = 1.0


class Overloaded(RouterError):
    status = "RESOURCE_EXHAUSTED"
    reason = "OVERLOADED"
    retry_seconds = 1.0

    def __init__(self, message: str, *, reason: str | None = None, retry_seconds: float = 1.0):
        super().__init__(message, reason=reason)
        self.retry_seconds = retry_seconds


class Stopping(RouterError):
    status = "UNAVAILABLE"
    reason = "STOPPING"
    retry_seconds = 1.0


class StreamNotRead(RouterError):
    status = "DEADLINE_EXCEEDED"
    reason = "STREAM_NOT_READ"


class MessageMissing(RouterError):
    status = "DEADLINE_EXCEEDED"
    reason = "MESSAGE_MISSING"


class TooManyCalls(RouterError):
    status = "RESOURCE_EXHAUSTED"
    reason = "TOO_MANY_CALLS"
    retry_seconds = 1.0


class UnknownService(RouterError):
    status = "NOT_FOUND"


class InternalError(RouterError):
    status = "INTERNAL"
    reason = "INTERNAL"


class Stopped(RouterError):
    """A limit ended the search. The solver adds ``bill``."""


class DeadlineExceeded(Stopped):
    status = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class SearchTooLong(Stopped):
    status = "DEADLINE_EXCEEDED"
    reason = "SEARCH_TOO_LONG"


class GaveWay(Stopped):
    status = "RESOURCE_EXHAUSTED"
    reason = "GAVE_WAY"
    retry_seconds = 1.0


class TokenCapReached(Stopped):
    status = "RESOURCE_EXHAUSTED"
    reason = "TOKEN_CAP_REACHED"


class ConfidenceInsufficient(Stopped):
    """The answer's confidence is below the target accuracy, and the caller refuses such an answer."""

    status = "FAILED_PRECONDITION"
    reason = "CONFIDENCE_INSUFFICIENT"
