"""Worker processes: begun once, ended at the end."""

from collections.abc import Iterator

import pytest

from router.tasks import workers


@pytest.fixture(scope="session", autouse=True)
def _workers() -> Iterator[None]:
    workers.start()
    yield
    workers.close()
