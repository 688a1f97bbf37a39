"""The view of recorded calls: a caller sees its own, an administrator everybody's."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy.exc import SQLAlchemyError

from router.errors import InvalidRequest, OutcomesUnavailable
from router.outcomes.newest import Place
from router.service.auth.callers import Caller
from router.service.conversion import CALL_ID
from router.service.recorder import Recorder

ON_PAGE = 50
_MOST_FIELDS = 10  # of an address


class RecordedCalls:
    """Reads recorded calls in a thread of its own, one page at a time, so that a slow database delays nothing else.

    recorder  None: nothing is recorded
    """

    def __init__(self, recorder: Recorder | None):
        self._recorder = recorder
        self._reading = ThreadPoolExecutor(1, "recorded-calls")

    async def page(self, caller: Caller, before: Place | None) -> "Sequence[Mapping[str, Any]] | None":
        """Return the calls of a page and one more, if there are so many; None where nothing is recorded.

        Raises OutcomesUnavailable.
        """
        recorder = self._recorder
        if recorder is None:
            return None
        own = None if caller.admin else caller.name

        def read() -> Sequence[Mapping[str, Any]]:
            return recorder.newest(ON_PAGE + 1, caller=own, before=before)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._reading, read)
        except SQLAlchemyError:
            raise OutcomesUnavailable("the outcome database does not answer; try again later") from None


def place(query: str) -> Place | None:
    """Return the place where a page begins, from the URL's query. Raises InvalidRequest."""
    try:
        fields = dict(parse_qsl(query, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise InvalidRequest(
            "query", f"the address has more than {_MOST_FIELDS} fields", reason="MESSAGE_MALFORMED"
        ) from None
    if "at" not in fields:
        return None
    try:
        at = datetime.fromisoformat(fields["at"])
        if at.tzinfo is None or "\0" in fields["at"]:
            raise ValueError
        at = at.astimezone(UTC)  # SQLite compares times without their zone
    except (ValueError, OverflowError):
        raise InvalidRequest("at", "at must be a time with a time zone", reason="MESSAGE_MALFORMED") from None
    call_id = fields.get("id", "")
    if call_id and not re.fullmatch(CALL_ID, call_id):  # PostgreSQL refuses some texts, such as NUL
        raise InvalidRequest("id", "id must be the id of a call", reason="MESSAGE_MALFORMED")
    return Place(at, call_id)


def view(rows: Sequence[Mapping[str, Any]] | None, caller: Caller, *, first: bool) -> dict[str, Any]:
    """Return the values for the template."""
    shown = list(rows or [])[:ON_PAGE]
    more = rows is not None and len(rows) > ON_PAGE
    return {
        "rows": shown,
        "recorded": rows is not None,
        "everybody": caller.admin,
        "first": first,
        "older": {"at": shown[-1]["at"].isoformat(), "id": shown[-1]["call_id"]} if more else None,
        "arms": [row["arm"] for row in shown],
    }
