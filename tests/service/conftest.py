"""Empty databases, a recorder that writes into one, and a bundle whose arms were timed."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.bundle.bundle import load_bundle
from router.policy.table import Policy
from router.service.recorder import Recorder
from router.solving.solver import Solver
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


@pytest.fixture
def timed(bundle_folder: Path, solver: Solver) -> Solver:
    """Revisions take ten seconds, everything else one."""
    bundle = load_bundle(bundle_folder)
    cells = [
        dataclasses.replace(
            cell, cost=dataclasses.replace(cell.cost, seconds=10.0 if cell.arm.name == "revision" else 1.0)
        )
        for cell in bundle.policy.cells
    ]
    policy = Policy(cells, bundle.policy.default, budget_points=bundle.policy.budget_points, deciding="mode")
    return Solver(dataclasses.replace(bundle, policy=policy), solver.engines)
