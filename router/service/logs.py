"""JSON logs, one line for each call. Prompts and answers stay out unless they are asked for."""

import logging
import re
import sys
import threading
import traceback
from collections import Counter
from types import TracebackType
from typing import Any

import orjson
from pythonjsonlogger.json import JsonEncoder, JsonFormatter

from router.service.middleware.call import CallRecord

# Quotes and tokens in lines of other libraries may be a caller's secret.
_QUOTED = re.compile(r"""(?<!\w)b?(?:'(?:[^'\\]|\\.)*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$))""")
_SECRET = re.compile(r"\b(bearer|authorization|api[-_ ]?key|tokens?)\b.*", re.IGNORECASE | re.DOTALL)
_LOGIN = re.compile(r"(?<=//)[^/@\s]+@")  # user and password of a URL
_encode = JsonEncoder().encode
_MOST_DIGESTS = 20  # most digests in one line, of a batch's unfamiliar prompts
_log = logging.getLogger(__name__)


def configure() -> None:
    """Log as JSON on standard error: the router's messages from INFO on, other libraries' from WARNING on."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    handler.addFilter(without_secrets)
    threading.excepthook = lambda raised: _uncaught(raised.exc_type, raised.exc_traceback)
    sys.unraisablehook = lambda raised: _uncaught(raised.exc_type, raised.exc_traceback)
    logging.basicConfig(handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("router").setLevel(logging.INFO)
    # Saves looking up what no line shows, see "Optimization" in Python's logging HOWTO.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def without_secrets(record: logging.LogRecord) -> bool:
    """Remove what could be a caller's secret from other libraries' lines, and return True: a filter for logging.

    That is: quoted texts, texts after a word for a token, users and passwords of URLs, and texts of exceptions. gRPC,
    for one, quotes a header that is not UTF-8, which may be an authorization.
    """
    if record.name.partition(".")[0] != "router":
        record.msg, record.args = redacted(record.getMessage()), None
        if record.exc_info and record.exc_info[0]:
            kind, _, where = record.exc_info
            record.exc_info, record.exc_text = None, _raised(kind, where)
    return True


def redacted(text: str) -> str:
    return _SECRET.sub(r"\1 …", _QUOTED.sub("'…'", _LOGIN.sub("…@", text)))


def _uncaught(kind: type[BaseException] | None, where: TracebackType | None) -> None:
    """Log an exception that ended a thread, or that nobody could catch, as JSON and not as text on standard error."""
    if kind and kind is not SystemExit:
        _log.error("%s was not caught", kind.__name__, extra={"traceback": _raised(kind, where)})


def _raised(kind: type[BaseException], where: TracebackType | None) -> str:
    """Return an exception's stack and type, but not its text, which could quote anything."""
    return "".join(traceback.format_tb(where)) + kind.__name__


def formatter() -> logging.Formatter:
    names = {"asctime": "time", "levelname": "severity", "name": "logger"}
    return JsonFormatter("{asctime}{levelname}{name}{message}", style="{", rename_fields=names, json_serializer=_line)


def _line(data: Any, **options: Any) -> str:
    """Return the data as JSON in ASCII. orjson takes a twentieth off a call of `Route`; it knows fewer types."""
    try:
        line = orjson.dumps(data)
    except TypeError:  # such as for a number of more than 64 bits, or half of a surrogate pair
        return _encode(data)
    return line.decode() if line.isascii() else _encode(data)


def log_call(call: CallRecord, *, text: bool = False) -> None:
    """Log a finished call in one line. ``text``: include its prompt and answer."""
    _log.info("call", extra={"call": fields(call, text=text)})


def fields(call: CallRecord, *, text: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": call.id,
        "method": call.method,
        "door": call.door,
        "caller": call.caller,
        "code": call.code,
        "reason": call.reason or None,
        "seconds": round(call.seconds, 4),
    }
    if call.decision and call.request:
        record |= {
            "bundle": call.decision.bundle_id,
            "level": call.decision.level,
            "arm": call.arm,
            "pinned": call.request.arm is not None,
            "kept": call.decision.kept,
        }
        if not call.decision.familiar:
            record |= {"unfamiliar": True, "prompt_sha256": call.request.prompt.digest}
    if call.parts:
        strange = [part.request.prompt.digest for part in call.parts if not part.decision.familiar]
        record |= {
            "prompts": len(call.parts),
            "arms": {str(arm): count for arm, count in Counter(part.decision.arm for part in call.parts).items()},
            "unfamiliar": len(strange),
            "unfamiliar_sha256": strange[:_MOST_DIGESTS],
        }
    if call.bill:
        record |= {
            "queue_seconds": round(call.queue_seconds, 4),
            **{f"{phase}_seconds": round(seconds, 4) for phase, seconds in call.bill.seconds.items()},
            "prompt_tokens": call.bill.prompt_tokens,
            "generated_tokens": call.bill.generated_tokens,
            "scored_tokens": call.bill.scored_tokens,
            "flops": call.bill.flops(),
            "engine_calls": call.bill.calls,
        }
    if call.solution:
        record["stop"] = call.solution.stop.value
    if text and call.request:
        record["prompt"] = call.request.prompt.question if call.request.prompt.plain else call.request.prompt.json
        record["answer"] = call.solution.answer if call.solution else None
    return record
