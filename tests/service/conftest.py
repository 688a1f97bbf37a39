"""Empty databases, and a recorder that writes into one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.service.recorder import Recorder
from tests.support.postgresql import Cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Only tests marked postgresql may ask for it."""
    with contextlib.closing(Cluster()) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/outcomes.db"
    return request.getfixturevalue("cluster").database()


@pytest.fixture
def recorder(url: str) -> Iterator[Recorder]:
    with contextlib.closing(Recorder(url)) as recorder:
        yield recorder
