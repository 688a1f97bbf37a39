"""Converts errors to google.rpc.Status and back, with the details that ErrorReason's documentation promises."""

from datetime import timedelta

from google.protobuf.any_pb2 import Any
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from router import errors
from router.errors import InvalidRequest, RouterError
from router.service.conversion import bill
from router.solving.bill import Bill
from router.v1 import router_pb2 as pb

DOMAIN = "router.v1"
MESSAGE_BYTES = 1000  # an error stands in headers three times, percent-encoded, and clients take only 8 KiB of them
FIELD_BYTES = 200


def message(error: RouterError) -> str:
    """Return the error's message. What exceeds :data:`MESSAGE_BYTES`, such as a long quote, is cut from its middle."""
    return _cut(str(error), MESSAGE_BYTES)


def field(error: InvalidRequest) -> str:
    """Return the name of the field that is wrong; a long one, which a caller chose, is cut from its middle."""
    return _cut(error.field, FIELD_BYTES)


def _cut(text: str, most: int) -> str:
    said = text.encode(errors="replace")
    if len(said) > most:
        half = most // 2 - 2
        said = said[:half] + "…".encode() + said[-half:]
    return said.decode(errors="ignore")


def status(error: RouterError) -> Status:
    """Return the error as a google.rpc.Status, with the details that ErrorReason's documentation promises."""
    said = message(error)
    details = [ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequest):
        # The solver's Request is flat; in the messages, limits are fields of options.
        name = field(error)
        if name in pb.SolveOptions.DESCRIPTOR.fields_by_name:
            name = f"options.{name}"
        details.append(BadRequest(field_violations=[{"field": name, "description": said, "reason": error.reason}]))
    if error.retry_seconds is not None:
        details.append(RetryInfo(retry_delay=timedelta(seconds=error.retry_seconds)))
    if isinstance(error.bill, Bill):
        details.append(bill(error.bill))
    return Status(code=Code.Value(error.status), message=said, details=[_packed(detail) for detail in details])


def _packed(message: ErrorInfo | BadRequest | RetryInfo | pb.Bill) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def error(received: Status) -> RouterError:
    """Return the error that a client received, the inverse of :func:`status`, with the bill in words."""
    info, violation, spent, retry = ErrorInfo(), BadRequest(), pb.Bill(), RetryInfo()
    message = received.message
    for detail in received.details:
        if detail.Unpack(spent):
            message += f" (spent: {spent.generated_tokens} tokens generated, {spent.scored_tokens} scored)"
        elif not detail.Unpack(info) and not detail.Unpack(retry):
            detail.Unpack(violation)
    if violation.field_violations:
        return InvalidRequest(violation.field_violations[0].field, message, reason=info.reason)
    seconds = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    return _CLASSES.get(info.reason, errors.InternalError)(message, reason=info.reason or None, retry_seconds=seconds)


_CLASSES: dict[str, type[RouterError]] = {
    cls.reason: cls
    for cls in (
        errors.InvalidFile,
        errors.InvalidBundle,
        errors.MissingWeights,
        errors.MissingDependency,
        errors.CodeNotAllowed,
        errors.AddressUnavailable,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.EngineUnavailable,
        errors.OutcomesOff,
        errors.OutcomesUnavailable,
        errors.Overloaded,
        errors.Stopping,
        errors.StreamNotRead,
        errors.MessageMissing,
        errors.TooManyCalls,
        errors.DeadlineExceeded,
        errors.SearchTooLong,
        errors.GaveWay,
        errors.TokenCapReached,
        errors.ConfidenceInsufficient,
        errors.InternalError,
    )
}
