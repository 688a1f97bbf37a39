"""A small bundle, engines without a model, and a real server on a free port."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import joblib
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from router.backends import GeneratorSpec, VerifierSpec
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.template import CHATML
from router.bundle import (
    FORMAT_VERSION,
    Manifest,
    digests,
    library_versions,
    load_bundle,
    write_manifest,
)
from router.policy import LEVELS, Cell, Cost, Policy
from router.server import Server
from router.serving import Serving
from router.solver import Solver
from strategies import Arm

# One arm a level, at a budget of 4 and of 16.
ARMS = {
    4: ["single", "majority(n=4)", "best_of_n(n=4)", "weighted_best_of_n(n=4)", "revision(n=4, chains=2)"],
    16: ["single", "majority(n=8)", "dvts(n=16, m=4)", "beam_search(n=16, m=4)", "lookahead(n=8, m=4, k=1)"],
}


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    prompts = [" + ".join(["7"] * terms) + " =" for terms in (2, 3, 4, 6, 8)]
    model = make_pipeline(CountVectorizer(analyzer="char"), LogisticRegression(C=100, max_iter=10_000)).fit(
        prompts, LEVELS
    )
    model.input = "text"
    joblib.dump(model, folder / "difficulty.joblib")
    cost = Cost(10, 20, 30, 40, 50)
    cells = [
        Cell(level, budget, Arm.parse(arm), accuracy=1 - level / 10, low=0.1, high=0.95, prompts=60, cost=cost)
        for budget, arms in ARMS.items()
        for level, arm in zip(LEVELS, arms, strict=True)
    ]
    (folder / "policy.json").write_text(Policy(cells, default_budget=4).dumps())
    write_manifest(
        folder,
        Manifest(
            FORMAT_VERSION,
            "tiny",
            GeneratorSpec("fake", None, 1_000, CHATML, temperature=0.8, max_tokens=512),
            VerifierSpec("prm", None, 500),
            statistic="pass_rate",
            edges=(0.8, 0.6, 0.4, 0.2),
            files=digests(folder),
            libraries=library_versions(),
            provenance={},
        ),
    )
    return folder


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture
def solver(bundle_folder: Path, generator: FakeGenerator, verifier: FakeVerifier) -> Solver:
    return Solver(load_bundle(bundle_folder), generator, verifier)


@pytest.fixture
async def server(solver: Solver) -> AsyncIterator[Server]:
    server = Server(Serving(solver), "127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop(grace=0)


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
