"""Checks the inputs that a caller brings to a task in a worker process, where that may take long."""

from typing import Any

from router.errors import InvalidRequest
from router.tasks import workers


async def checked(field: str, target: str, *arguments: Any) -> Any:
    """Return what ``module:function`` finds in an input. The function raises InvalidRequest where the input is wrong.

    field  name of the input, for the error where checking it takes too much time or memory

    Raises InvalidRequest, and NoWorkers where no worker processes run.
    """
    try:
        return await workers.run(target, *arguments)
    except workers.NoWorkers:
        raise
    except workers.LimitReached as limit:
        if isinstance(limit.__cause__, InvalidRequest):
            raise limit.__cause__ from None
        raise InvalidRequest(
            field, f"checking {field} takes too much time or memory; make it smaller or simpler", reason="UNSPECIFIED"
        ) from limit
