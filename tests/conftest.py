"""A small bundle, engines without a model, and a real server on a free port.

What takes long to import is imported where it is used: the process that only hands out tests reads this file as well.
"""

import gc
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.specs import ModelSpec, Setup, VerifierSpec
from router.backends.template import CHATML
from router.policy.objectives import Budget, BudgetPoint
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import parse

settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
settings.load_profile("untimed")

if TYPE_CHECKING:
    import grpc

    from router.service.app import Server
    from router.solving.solver import Solver
    from tests.support.vllm_servers import Servers


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage in what is imported and collected: it stays, and each look takes a third of a second."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# The best arm of each level, at a budget of 4 and of 16.
ARMS = {
    4: ["single", "majority(n=4)", "best_of_n(n=4)", "weighted_best_of_n(n=4)", "revision(n=4, chains=2)"],
    16: ["single", "majority(n=8)", "dvts(n=16, m=4)", "beam_search(n=16, m=4)", "lookahead(n=8, m=4, k=1)"],
}
SETUP = Setup(
    "tiny",
    "small",
    {"small": ModelSpec("fake", 1_000, CHATML, temperature=0.8, max_tokens=512)},
    VerifierSpec("prm", None, 500),
)


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import joblib
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from difficulty import DifficultyModel
    from router.bundle.manifest import FORMAT_VERSION, Manifest, digests, library_versions, write_manifest

    folder = tmp_path_factory.mktemp("bundle")
    prompts = [" + ".join(["7"] * terms) + " =" for terms in (2, 3, 4, 6, 8)]
    model = DifficultyModel()  # one that is sure of these prompts' levels
    model.estimator_ = make_pipeline(CountVectorizer(analyzer="char"), LogisticRegression(C=100, max_iter=10_000))
    model.seen_ = model.estimator_.fit(prompts, LEVELS).classes_
    joblib.dump(model, folder / "difficulty.joblib")
    arms = sorted({parse(arm) for best in ARMS.values() for arm in best})
    cells = []
    for i, level in enumerate(LEVELS):
        for arm in arms:
            best = [arm == parse(ARMS[budget][i]) for budget in (4, 16)]
            accuracy = 1 - level / 10 - 0.05 * (not best[1]) if any(best) else 0.01
            budget = arm.budget()
            cost = Cost(budget, 10, 20 * budget, 30, 40 * budget, 50)
            cells.append(Cell(level, arm, accuracy, max(0, accuracy - 0.2), 0.95, prompts=60, cost=cost))
    points = [BudgetPoint(1, 1.0), BudgetPoint(4, 0.001)]
    policy = Policy(cells, Budget(4), budget_points=points, deciding="mode", worth=SETUP.worth)
    (folder / "policy.json").write_text(policy.dumps())
    write_manifest(
        folder,
        Manifest(
            FORMAT_VERSION,
            SETUP,
            statistic="pass_rate",
            edges=(0.8, 0.6, 0.4, 0.2),
            files=digests(folder),
            libraries=library_versions(),
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
def solver(bundle_folder: Path, generator: FakeGenerator, verifier: FakeVerifier) -> "Solver":
    from router.bundle.bundle import load_bundle
    from router.solving.solver import Solver

    return Solver(load_bundle(bundle_folder), Engines({"small": generator}, "small", verifier))


@pytest.fixture
async def server(solver: "Solver") -> "AsyncIterator[Server]":
    from router.service.app import Server
    from router.service.bundle_manager import BundleManager

    server = Server(BundleManager(solver), "127.0.0.1", 0)
    await server.start()
    yield server
    await server.stop(grace=0)


@pytest.fixture
async def channel(server: "Server") -> "AsyncIterator[grpc.aio.Channel]":
    import grpc

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture(scope="session")
def vllm_servers(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Servers]":
    """Real ones. Only tests marked vllm may ask for them."""
    from tests.support import vllm_servers as live

    with ExitStack() as stack:
        yield live.start(tmp_path_factory.mktemp("vllm"), stack)


@pytest.fixture(scope="session")
def llama_cpp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server of the embedded model. Only tests marked llama_cpp may ask for it."""
    from tests.support.llama_cpp import embedded_weights, serving

    with serving(embedded_weights(), tmp_path_factory.mktemp("llama-cpp") / "server.log") as url:
        yield url


@pytest.fixture(scope="session")
def own_llama_cpp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server of Qwen2.5-Coder-0.5B. Only tests marked weights may ask for it."""
    from tests.support import weights
    from tests.support.llama_cpp import serving

    with serving(weights.gguf(), tmp_path_factory.mktemp("llama-cpp") / "server.log") as url:
        yield url


@pytest.fixture(scope="session")
def own_vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same on a real vLLM."""
    from tests.support import weights
    from tests.support.vllm_servers import serving

    with serving(weights.folder(), weights.NAME, tmp_path_factory.mktemp("vllm")) as url:
        yield url
