"""Bundles swapped under load, refused, rolled back, shadowed: over a real server with an admin's token."""

import asyncio
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import joblib
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from difficulty.familiarity import Familiarity
from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.bundle.bundle import load_bundle
from router.bundle.manifest import digests, read_manifest, sha256, write_manifest
from router.errors import CodeNotAllowed, InvalidBundle, InvalidRequest
from router.prompt import Prompt
from router.service.app import Server
from router.service.auth.callers import Caller, Token
from router.service.bundle_manager import BundleManager
from router.solving.request import Request
from router.solving.solver import Solver
from router.v1 import admin_pb2 as admin
from router.v1 import router_pb2 as pb
from router.v1.admin_pb2_grpc import AdminServiceStub
from router.v1.router_pb2_grpc import RouterServiceStub

EASY = "7 + 7 ="


class Closing(FakeGenerator):
    closed = False

    async def close(self) -> None:
        self.closed = True


def engines(generator: FakeGenerator) -> Engines:
    return Engines({"small": generator}, "small", FakeVerifier())


def changed(folder: Path, **setup) -> Path:
    """The bundle with another setup in its manifest, and the digests that its files have now."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["setup"] |= setup
    document["files"] = {name: sha256(folder / name) for name in document["files"]}
    path.write_text(json.dumps(document))
    return folder


def digest_of(folder: Path) -> str:
    return sha256(folder / "manifest.json")


@pytest.fixture
def root(bundle_folder: Path, tmp_path: Path) -> Path:
    """Three bundles for the same engines, ``one`` to ``three``; two more, and a folder that is none."""
    root = tmp_path / "models"
    for name in ("one", "two", "three", "altered", "senseless", "larger"):
        shutil.copytree(bundle_folder, root / name)
        changed(root / name, name=name)
    (root / "altered" / "policy.json").write_text("{}")
    joblib.dump({"no": "model"}, root / "senseless" / "difficulty.joblib")
    changed(root / "senseless")
    models = json.loads((root / "larger" / "manifest.json").read_text())["setup"]["models"]
    changed(root / "larger", models={"small": models["small"] | {"parameters": 7}})
    (root / "notes").mkdir()
    return root


@pytest.fixture
def generators() -> list[Closing]:
    return [Closing(latency=0.002)]


@pytest.fixture
def bundles(root: Path, generators: list[Closing]) -> BundleManager:
    def load(bundle):
        generators.append(Closing(parameters=bundle.setup.main.parameters))
        return engines(generators[-1])

    return BundleManager(Solver(load_bundle(root / "one"), engines(generators[0])), root, load)


@pytest.fixture
async def channel(bundles: BundleManager) -> AsyncIterator[grpc.aio.Channel]:
    tokens = [
        Token(hashlib.sha256(name.encode()).digest(), Caller(name, admin=name == "ops")) for name in ("ops", "app")
    ]
    server = Server(bundles, "127.0.0.1", 0, tokens=lambda: tokens)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel
    await server.stop(grace=0)


async def shadow_decision(caplog) -> dict[str, object]:
    """The one that is logged, some time soon."""
    while not (found := [record.shadow for record in caplog.records if hasattr(record, "shadow")]):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    (shadow,) = found
    return shadow


def sent_by(name: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {name}")]


async def test_only_an_admin_may_change_what_is_served(channel, bundles, root):
    stub = AdminServiceStub(channel)
    request = admin.ActivateBundleRequest(name="two", digest=digest_of(root / "two"))
    for metadata, reason in ((sent_by("app"), "PERMISSION_DENIED"), (None, "UNAUTHENTICATED")):
        with pytest.raises(grpc.RpcError) as raised:
            await stub.ActivateBundle(request, metadata=metadata)
        info = ErrorInfo()
        assert rpc_status.from_call(raised.value).details[0].Unpack(info)
        assert (info.reason, raised.value.code().name) == (reason, reason)
    assert bundles.active.bundle.manifest.name == "one"


async def test_without_tokens_nobody_is_an_admin(server, root):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            await AdminServiceStub(channel).ListBundles(admin.ListBundlesRequest())
    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_list_names_every_bundle_and_its_problem(channel, root):
    reply = await AdminServiceStub(channel).ListBundles(admin.ListBundlesRequest(), metadata=sent_by("ops"))
    listed = {each.name: each for each in reply.bundles}
    assert list(listed) == ["altered", "larger", "one", "senseless", "three", "two"]
    assert [name for name, each in listed.items() if each.active] == ["one"]
    assert listed["two"].digest == digest_of(root / "two")
    assert listed["two"].id == f"two@{listed['two'].digest[:12]}"
    assert "policy.json does not match" in listed["altered"].problem
    assert not listed["altered"].digest


async def test_activate_and_roll_back_over_the_wire(channel, root):
    stub, router = AdminServiceStub(channel), RouterServiceStub(channel)

    async def decided_by() -> str:
        reply = await router.Route(pb.RouteRequest(prompt=EASY), metadata=sent_by("app"))
        return reply.decision.bundle_id.partition("@")[0]

    request = admin.ActivateBundleRequest(name="two", digest=digest_of(root / "two"))
    reply = await stub.ActivateBundle(request, metadata=sent_by("ops"))
    assert (reply.id[:4], reply.previous_id[:4], await decided_by()) == ("two@", "one@", "two")
    shutil.rmtree(root / "one")  # what is rolled back to is in memory
    rolled_back = await stub.RollBackBundle(admin.RollBackBundleRequest(), metadata=sent_by("ops"))
    assert (rolled_back.id[:4], await decided_by()) == ("one@", "one")
    with pytest.raises(grpc.RpcError, match="no bundle to roll back to"):
        await stub.RollBackBundle(admin.RollBackBundleRequest(), metadata=sent_by("ops"))


async def test_activating_the_active_bundle_again_changes_nothing(channel, bundles, root):
    stub = AdminServiceStub(channel)

    async def activated(name: str, digest: str) -> tuple[str, str]:
        request = admin.ActivateBundleRequest(name=name, digest=digest)
        reply = await stub.ActivateBundle(request, metadata=sent_by("ops"))
        return reply.id.partition("@")[0], reply.previous_id.partition("@")[0]

    assert await activated("one", digest_of(root / "one")) == ("one", "")
    two = digest_of(root / "two")
    for digest in (two, two, two.upper()):
        assert await activated("two", digest) == ("two", "one")
    rolled_back = await stub.RollBackBundle(admin.RollBackBundleRequest(), metadata=sent_by("ops"))
    assert rolled_back.id.startswith("one@")
    with pytest.raises(grpc.RpcError, match="is no bundle's folder"):
        await activated("../one", digest_of(root / "one"))


async def test_a_swap_under_load_fails_no_call(channel, bundles, root):
    stub, ended, decided = RouterServiceStub(channel), asyncio.Event(), set()

    async def call() -> None:
        while not ended.is_set():
            reply = await stub.Solve(pb.SolveRequest(prompt=EASY), metadata=sent_by("app"))
            assert reply.solution.answer == "14"
            decided.add(reply.solution.decision.bundle_id.partition("@")[0])

    calls = [asyncio.create_task(call()) for _ in range(8)]
    for name in ("two", "three", "larger", "one"):
        await bundles.activate(name, digest_of(root / name))
        async with asyncio.timeout(60):
            while name not in decided:  # noqa: ASYNC110 - nothing to wait for
                await asyncio.sleep(0.02)
    await bundles.roll_back()
    ended.set()
    await asyncio.gather(*calls)
    assert {"two", "three", "larger", "one"} <= decided


@pytest.mark.parametrize(
    ("name", "digest", "error"),
    [
        ("altered", None, InvalidBundle),
        ("senseless", None, InvalidBundle),
        ("notes", "0" * 64, InvalidBundle),
        ("two", "0" * 64, InvalidBundle),
        ("two", "", InvalidRequest),
        ("two", "short", InvalidRequest),
        ("../models/two", None, InvalidRequest),
        ("..", "0" * 64, InvalidRequest),
        ("", "0" * 64, InvalidRequest),
    ],
)
async def test_a_bad_bundle_is_refused_and_the_old_one_keeps_serving(bundles, root, name, digest, error):
    with pytest.raises(error):
        await bundles.activate(name, digest_of(root / name) if digest is None else digest)
    with bundles.solver() as solver:
        assert solver.bundle.manifest.name == "one"
        assert (await solver.decide(Request(Prompt.of(EASY)))).level == 1
    with pytest.raises(InvalidBundle):
        await bundles.roll_back()


async def test_engines_that_do_not_load_are_a_refusal(root):
    def load(bundle):
        raise MemoryError("no room")

    bundles = BundleManager(Solver(load_bundle(root / "one"), engines(FakeGenerator())), root, load)
    with pytest.raises(InvalidBundle, match="no room"):
        await bundles.activate("larger", digest_of(root / "larger"))
    assert bundles.active.bundle.manifest.name == "one"


async def test_a_bundle_that_the_servers_do_not_fit_is_refused(channel, bundles, root):
    def fits(bundle):
        raise InvalidRequest("url", "--url small=http://a: serves m, not 'reviser'", reason="UNSPECIFIED")

    bundles._fits = fits
    request = admin.ActivateBundleRequest(name="two", digest=digest_of(root / "two"))
    with pytest.raises(grpc.RpcError, match=r"two can't be served .* not 'reviser'") as raised:
        await AdminServiceStub(channel).ActivateBundle(request, metadata=sent_by("ops"))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert bundles.active.bundle.manifest.name == "one"


async def test_every_change_says_which_bundle_decides(root):
    decides: list[str] = []
    solver = Solver(load_bundle(root / "one"), engines(FakeGenerator()))
    bundles = BundleManager(solver, root, activated=lambda bundle: decides.append(bundle.manifest.name))
    await bundles.set_shadow("three", digest_of(root / "three"))
    await bundles.activate("two", digest_of(root / "two"))
    await bundles.roll_back()
    assert decides == ["two", "one"]


async def test_engines_are_shared_where_they_can_be_and_closed_after_their_last_call(bundles, root, generators):
    shutil.copytree(root / "larger", root / "also-larger")
    changed(root / "also-larger", name="also-larger")
    await bundles.activate("two", digest_of(root / "two"))
    assert len(generators) == 1
    with bundles.solver() as solver:
        await bundles.activate("larger", digest_of(root / "larger"))
        await bundles.activate("also-larger", digest_of(root / "also-larger"))
        await asyncio.sleep(0)
        assert (len(generators), solver.engines.main.closed) == (2, False)
    await asyncio.sleep(0.01)
    assert [generator.closed for generator in generators] == [True, False]
    await bundles.close()
    assert generators[1].closed


async def test_engines_of_a_bundle_that_turns_out_unfit_are_closed(bundles, root, generators):
    changed(root / "larger", verifier={"kind": "tests", "adapter": None, "parameters": 0})
    with pytest.raises(CodeNotAllowed):
        await bundles.activate("larger", digest_of(root / "larger"))
    assert [generator.closed for generator in generators] == [False, True]
    assert bundles.active.bundle.manifest.name == "one"


class Slow:
    """Loads engines that take until ``go``, and says when it has ``begun``."""

    def __init__(self, generators: list[Closing], error: Exception | None = None):
        self.begun, self.go = threading.Event(), threading.Event()
        self._generators, self._error = generators, error

    def __call__(self, bundle) -> Engines:
        self.begun.set()
        assert self.go.wait(20)
        if self._error:
            raise self._error
        self._generators.append(Closing(parameters=bundle.setup.main.parameters))
        return engines(self._generators[-1])


async def left(change: Coroutine[Any, Any, Any], slow: Slow) -> None:
    """Begin a change, and leave it while its engines are loaded."""
    task = asyncio.create_task(change)
    await asyncio.to_thread(slow.begun.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_activation_whose_caller_leaves_goes_on_and_holds_off_others(root):
    generators = [Closing()]
    slow = Slow(generators)
    bundles = BundleManager(Solver(load_bundle(root / "one"), engines(generators[0])), root, slow)
    await left(bundles.activate("larger", digest_of(root / "larger")), slow)
    again = asyncio.create_task(bundles.activate("larger", digest_of(root / "larger")))
    waiting = asyncio.create_task(bundles.activate("two", digest_of(root / "two")))
    await asyncio.sleep(0)
    waiting.cancel()  # it has not begun, so it never does
    assert bundles.active.bundle.manifest.name == "one"
    slow.go.set()
    bundle, previous = await again
    assert (bundle.manifest.name, previous.manifest.name, len(generators)) == ("larger", "one", 2)
    assert (await bundles.roll_back()).manifest.name == "one"
    await bundles.close()
    assert [generator.closed for generator in generators] == [True, True]


async def test_a_bundle_whose_hidden_states_these_models_lack_is_not_activated(bundles, generators, root, monkeypatch):
    async def embed(prompts, states, *, usage):
        raise InvalidRequest("features", "the model has 2 layers", reason="UNSPECIFIED")

    monkeypatch.setattr(generators[0], "embed", embed)
    known = Familiarity.of(["Was ist die Hauptstadt von Frankreich?", "Wie hoch ist der höchste Berg Europas?"])
    (root / "two" / "familiarity.json").write_text(json.dumps(asdict(known)))  # so the test request is not read
    manifest, _ = read_manifest(root / "two")
    files = digests(root / "two")
    write_manifest(root / "two", replace(manifest, features="hidden(layer=99, position=last)", files=files))
    with pytest.raises(InvalidBundle, match=r"two loads and then fails to decide.*2 layers"):
        await bundles.activate("two", digest_of(root / "two"))
    assert bundles.active.bundle.manifest.name == "one"


async def test_a_shadow_whose_caller_leaves_is_set_all_the_same(root):
    generators = [Closing()]
    slow = Slow(generators)
    bundles = BundleManager(Solver(load_bundle(root / "one"), engines(generators[0])), root, slow)
    await left(bundles.set_shadow("larger", digest_of(root / "larger")), slow)
    slow.go.set()
    told = await bundles.set_shadow("larger", digest_of(root / "larger"))  # it is loaded once
    assert (told, len(generators)) == (bundles.shadow.bundle.id, 2)
    assert (await bundles.set_shadow("", "")) == ""
    await bundles.close()
    assert [generator.closed for generator in generators] == [True, True]


async def test_an_activation_that_fails_after_its_caller_left_changes_nothing_and_is_logged(root, caplog):
    generators = [Closing()]
    slow = Slow(generators, MemoryError("no room"))
    bundles = BundleManager(Solver(load_bundle(root / "one"), engines(generators[0])), root, slow)
    await left(bundles.activate("larger", digest_of(root / "larger")), slow)
    slow.go.set()
    await bundles.close()
    assert bundles.active.bundle.manifest.name == "one"
    assert "larger does not load" in caplog.text


async def test_a_server_that_stops_during_an_activation_closes_what_it_loads(root):
    generators = [Closing()]
    slow = Slow(generators)
    bundles = BundleManager(Solver(load_bundle(root / "one"), engines(generators[0])), root, slow)
    await left(bundles.activate("larger", digest_of(root / "larger")), slow)
    closing = asyncio.create_task(bundles.close())
    while not generators[0].closed:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0)  # what runs is closed at once
    slow.go.set()
    await closing
    assert [generator.closed for generator in generators] == [True, True]


async def test_the_shadow_decides_too_and_is_only_logged(channel, bundles, root, caplog):
    document = json.loads((root / "two" / "policy.json").read_text().replace("single", "majority(n=2)"))
    (root / "two" / "policy.json").write_text(json.dumps(document))
    changed(root / "two")
    stub, router = AdminServiceStub(channel), RouterServiceStub(channel)
    request = admin.ShadowBundleRequest(name="two", digest=digest_of(root / "two"))
    assert (await stub.ShadowBundle(request, metadata=sent_by("ops"))).id.startswith("two@")
    with caplog.at_level(logging.INFO):
        reply = await router.Solve(pb.SolveRequest(prompt=EASY), metadata=sent_by("app"))
        shadow = await shadow_decision(caplog)
    assert reply.solution.decision.bundle_id.startswith("one@")
    assert (shadow["arm"], shadow["shadow_arm"], shadow["agree"]) == ("single", "majority(n=2)", False)
    assert EASY not in str(shadow)
    assert (await stub.ShadowBundle(admin.ShadowBundleRequest(), metadata=sent_by("ops"))).id == ""
    assert bundles.shadow is None


async def test_a_shadow_that_fails_harms_nobody(bundles, root, caplog):
    await bundles.set_shadow("two", digest_of(root / "two"))
    bundles.shadow.decide = lambda request: 1 / 0
    with caplog.at_level(logging.INFO):
        bundles.compare(Request(Prompt.of(EASY)), await bundles.active.decide(Request(Prompt.of(EASY))))
        assert (await shadow_decision(caplog))["shadow_error"] == "ZeroDivisionError"


def test_bundles_of_the_same_engines_are_recognised(root):
    served_by = {name: load_bundle(root / name).served_by for name in ("one", "two", "larger")}
    assert served_by["one"] == served_by["two"] != served_by["larger"]
    assert read_manifest(root / "two")[0].name == "two"
