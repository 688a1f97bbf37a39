"""Worker processes that a test began are ended at the end."""

from collections.abc import Iterator

import pytest

from router.tasks import workers


@pytest.fixture(scope="session", autouse=True)
def _no_workers_left() -> Iterator[None]:
    yield
    workers.close()
