"""Health and calls go by the engines, and what a bundle needs of them is looked for at the start."""

import asyncio
import json
import socket
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from router.backends import fit
from router.backends.probe import ServedModel
from router.backends.specs import Deployment, ModelSpec, Setup, VerifierSpec
from router.errors import EngineUnavailable, InvalidRequest
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.engine_watch import EngineWatch
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.support.fake_vllm import TEMPLATE
from tests.support.http import serving

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Engine:
    """Answers every request, until it is closed or told to be silent."""

    silent = False

    async def open(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not self.silent:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        else:
            await reader.read()
        writer.close()

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


@pytest.fixture
async def engine():
    engine = Engine()
    await engine.open()
    yield engine
    await engine.close()


async def shown(channel) -> int:
    return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("silent", [False, True])
async def test_dead_engines_are_not_serving_and_calls_hear_so_at_once(solver, engine, silent):
    watch = EngineWatch({f"http://127.0.0.1:{engine.port}/v1": {}}, seconds=0.2, again_seconds=0.05)
    async with (
        serving(solver, engines=watch, http=None) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = RouterServiceStub(channel)

        async def alive() -> bool:
            return await shown(channel) == SERVING

        async def dead() -> bool:
            return await shown(channel) == NOT_SERVING

        async def solves() -> bool:  # on a busy machine, an engine may seem dead for a moment
            try:
                await stub.Solve(pb.SolveRequest(prompt="7 + 7 ="))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return False
            return True

        await until(alive)
        await until(solves)
        engine.silent = silent
        if not silent:
            await engine.close()
        await until(dead)
        assert not await solves()
        await stub.Route(pb.RouteRequest(prompt="7 + 7 ="))  # needs none
        engine.silent = False
        if not silent:
            await engine.open(engine.port)
        await until(alive)
        await until(solves)


async def test_engines_that_are_dead_at_the_start(solver):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        watch = EngineWatch({f"http://127.0.0.1:{free.getsockname()[1]}/v1": {}}, seconds=1)
        async with (
            serving(solver, engines=watch, http=None) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            assert await shown(channel) == NOT_SERVING
            assert not server.serving


async def test_health_stays_not_serving_while_the_server_stops(solver, engine):
    watch = EngineWatch({f"http://127.0.0.1:{engine.port}/v1": {}})
    server = Server(BundleManager(solver), "127.0.0.1", 0, engines=watch)
    await server.start()
    await server.stop(grace=0)
    watch.changed(True)
    assert not server.serving


@pytest.mark.parametrize("dead_first", [True, False])
async def test_health_follows_the_servers_of_the_bundle_that_decides(solver, engine, dead_first):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        live, dead = ({f"http://127.0.0.1:{port}/v1": {}} for port in (engine.port, free.getsockname()[1]))
        watch = EngineWatch(dead if dead_first else live, seconds=0.2, again_seconds=0.05)
        async with serving(solver, engines=watch, http=None) as server:

            async def changed() -> bool:
                return server.serving is dead_first

            async def noticed() -> bool:
                return not server.serving

            if dead_first:
                assert not server.serving
            watch.follow(live if dead_first else dead)
            await until(changed)
            watch.follow({})  # models in this process
            assert server.serving
            watch.follow(dead)
            await until(noticed)


# At the start

SPEC = ModelSpec("m", 1_000, TEMPLATE, temperature=0.8, max_tokens=512, adapter="generator", reviser="reviser")
VERIFIER = VerifierSpec("likelihood", "verifier", 500)
SETUP = Setup("mine", "small", {"small": SPEC}, VERIFIER)
DEPLOYMENT = Deployment(urls={"small": ("http://a",), "verifier": ("http://v",)}, backends={"": "vllm"})


def listed(name: str, context: int | None = 2048) -> ServedModel:
    return ServedModel(name, name, "vllm", False, context, None)


@pytest.mark.parametrize(
    ("generator", "verifier", "problem"),
    [
        (["m", "generator", "reviser"], ["verifier"], None),
        (["m", "generator"], ["verifier"], r"small=http://a.*not 'reviser'.*--lora-modules"),
        (["m", "reviser"], ["verifier"], r"not 'generator'"),
        (["m", "generator", "reviser"], ["m"], r"verifier=http://v.*not 'verifier'.*--served-model-name"),
        ([], ["verifier"], None),  # does not answer: it may come
    ],
)
def test_what_engines_lack_is_found_at_the_start(monkeypatch, generator, verifier, problem):
    def served(url, key, headers):
        names = {"http://a": generator, "http://v": verifier}[url]
        if not names:
            raise EngineUnavailable("nothing answers")
        return [listed(name) for name in names]

    monkeypatch.setattr(fit, "served", served)
    if problem is None:
        fit.check_servers(SETUP, DEPLOYMENT)
    else:
        with pytest.raises(InvalidRequest, match=problem):
            fit.check_servers(SETUP, DEPLOYMENT)


def test_a_context_too_short_is_found_at_the_start(monkeypatch):
    setup = replace(SETUP, models={"small": replace(SPEC, adapter=None, reviser=None)})
    monkeypatch.setattr(fit, "served", lambda url, key, headers: [listed("verifier", 512)])
    with pytest.raises(InvalidRequest, match=r"512 tokens.*--max-model-len"):
        fit.check_servers(setup, DEPLOYMENT)


def test_a_verifiers_context_too_short_is_found_at_the_start(monkeypatch):
    large = replace(SPEC, adapter=None, reviser=None, max_tokens=1024)
    setup = replace(SETUP, models={"small": replace(large, max_tokens=512), "large": large})
    contexts = {"http://a": 2048, "http://v": 1024}
    monkeypatch.setattr(fit, "served", lambda url, key, headers: [listed("verifier", contexts[url])])
    with pytest.raises(InvalidRequest, match=r"verifier=http://v: has a context of 1024 tokens.*takes 1024"):
        fit.check_servers(setup, DEPLOYMENT)
    contexts["http://v"] = 1025
    fit.check_servers(setup, DEPLOYMENT)


def test_servers_that_the_bundle_does_not_ask_are_not_asked(monkeypatch):
    monkeypatch.setattr(fit, "served", lambda *_: json.loads("not asked"))
    fit.check_servers(SETUP, replace(DEPLOYMENT, backends={"": "fake"}))
