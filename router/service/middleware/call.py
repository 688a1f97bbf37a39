"""A call: what came in, its progress while it runs, and its record once it is finished."""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from router.errors import RouterError
from router.service.auth.callers import Caller, Peer
from router.service.average_budgets import Kept
from router.service.conversion import CALL_ID
from router.solving.bill import Bill
from router.solving.driver import StopReason
from router.solving.request import Request
from router.solving.solver import Decision, Solution

REQUEST_ID = "x-request-id"  # the metadata entry that carries a call's id, in both directions
_CALL_ID = re.compile(CALL_ID)
_LONGEST_ID = 120  # characters of a batch's id; the ids of its prompts are a little longer
_DECIDING = ("Route", "RouteBatch")  # methods that only decide
_arm_name = lru_cache(1024)(str)  # room for a policy's arms, and some that callers pin


@dataclass(frozen=True, slots=True)
class Verdict:
    """A caller's report on a decision.

    arm       as the policy lists it
    expected  the accuracy promised
    right     whether the answer was right
    """

    level: int
    arm: str
    bundle_id: str
    expected: float
    right: bool


class Part(NamedTuple):
    """One prompt of a RouteBatch call."""

    id: str
    request: Request
    decision: Decision


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A finished call, for the log, the metrics, the trace and the recorder.

    caller          the caller's name; None: the call was refused before the caller was known
    code, reason    names of its gRPC status and its ErrorReason; the reason of a call that succeeded is empty
    seconds         from its arrival to its end
    door            the server it came in through: "grpc" or "http"
    queue_seconds   how many of the seconds it waited for a place to search
    verdict         for RecordOutcome, where the outcome is the first for a decision that promised an accuracy
    parts           for RouteBatch, one for each prompt; prompts of SolveBatch have records of their own
    kept            for a search under an average budget, what it asked for and spent

    The other fields are None where the call did not come so far.
    """

    id: str
    service: str
    method: str
    caller: str | None
    code: str
    reason: str
    seconds: float
    queue_seconds: float = 0.0
    request: Request | None = None
    decision: Decision | None = None
    bill: Bill | None = None
    solution: Solution | None = None
    verdict: Verdict | None = None
    door: str = "grpc"
    parts: Sequence[Part] = ()
    kept: Kept | None = None

    @property
    def arm(self) -> str | None:
        """The name of the chosen arm."""
        return _arm_name(self.decision.arm) if self.decision else None

    @property
    def listed_arm(self) -> str | None:
        """The name of the chosen arm as the policy lists it: without numbers that a caller's objective gave it."""
        return _arm_name(self.decision.listed or self.decision.arm) if self.decision else None

    @property
    def promised(self) -> float | None:
        """The promised probability that the answer is right: the solution's confidence, else the decision's accuracy.

        None where the arm was not the policy's choice, or did not run to its end.
        """
        whole = self.solution.stop is StopReason.COMPLETE if self.solution else self.method in _DECIDING
        promised = self.decision.promised if self.decision and whole else None
        confidence = self.solution.confidence if self.solution else None
        return promised if promised is None or confidence is None else confidence


@dataclass(slots=True)
class Progress:
    """What is known of a call while it runs. Middleware and the service's methods fill it in; observers get the record.

    release_place  gives the place to search back before the call ends; calling it again does nothing
    parts          for RouteBatch, what was decided for each prompt
    kept           for a search under an average budget, what it asked for and spent, once it has ended
    show           shows observers the record of one prompt of a SolveBatch call that goes on
    record         set once the call is finished
    """

    caller: Caller | None = None
    queue_seconds: float = 0.0
    release_place: Callable[[], None] | None = None
    request: Request | None = None
    decision: Decision | None = None
    bill: Bill | None = None
    solution: Solution | None = None
    verdict: Verdict | None = None
    parts: Sequence[Part] = ()
    kept: Kept | None = None
    show: Callable[[CallRecord], None] | None = None
    record: CallRecord | None = None


@dataclass(slots=True)
class Call:
    """An inbound call. Nothing of it changes but its ``request``, once, and its ``progress``.

    id               given by the caller, or made here; see :func:`call_id`
    service, method  e.g. "router.v1.RouterService", "Solve"
    metadata         what was sent beside the request: gRPC metadata or HTTP headers, by lower-case name
    started          when it came in, by time.monotonic()
    deadline         when its caller stops waiting, by the same clock; None: never
    request          a decoded message of the method's request type, or an asynchronous iterator of such messages; None
                     until :class:`Receiving` has read it
    send             sends an event of a method that answers with a stream, and waits until the connection takes it
    receive          reads the message where it isn't there yet; raises MessageMissing, InvalidRequest
    progress         what is known of it so far
    door             the server it came in through: "grpc" or "http"
    """

    id: str
    service: str
    method: str
    metadata: Mapping[str, str | bytes]
    peer: Peer
    started: float
    deadline: float | None
    request: Any
    send: Callable[[Any], Awaitable[None]]
    receive: Callable[[], Awaitable[Any]] | None = None
    progress: Progress = field(default_factory=Progress)
    door: str = "grpc"

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline, at least 0; None: there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def code_when_left(self) -> str:
        """The name of the status that the call ends with if it is cancelled now."""
        return "DEADLINE_EXCEEDED" if self.seconds_left == 0 else "CANCELLED"


def ended_by(error: BaseException, call: Call) -> tuple[str, str]:
    """Return the code and the reason of a call that ends with this exception; see :class:`CallRecord`."""
    if isinstance(error, RouterError):
        return error.status, error.reason
    if isinstance(error, asyncio.CancelledError):
        return call.code_when_left, ""
    return ("INTERNAL", "INTERNAL") if isinstance(error, Exception) else ("OK", "")


def call_id(metadata: Mapping[str, str | bytes]) -> str:
    """Return the caller's ``x-request-id`` where it is a valid id, else a new one, which nobody can guess."""
    given = metadata.get(REQUEST_ID)
    return given if isinstance(given, str) and _CALL_ID.fullmatch(given) else os.urandom(16).hex()


def part_id(call: Call, index: int) -> str:
    """Return the id of one prompt of a batch."""
    own = call.id if len(call.id) <= _LONGEST_ID else hashlib.sha256(call.id.encode()).hexdigest()
    return f"{own}.{index}"
