"""Clients send anything at all."""

import asyncio
import random
import struct
import time
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.v1 import admin_pb2 as admin
from router.v1 import router_pb2 as pb
from tests.support.faults import ARMS, Caller, Tally

pytestmark = pytest.mark.processes


def methods() -> list[tuple[str, MethodDescriptor]]:
    """Paths and descriptors of all methods of both services."""
    services = [
        file.DESCRIPTOR.services_by_name[name] for file, name in ((pb, "RouterService"), (admin, "AdminService"))
    ]
    return [(f"/{service.full_name}/{method.name}", method) for service in services for method in service.methods]


BATCH_BUDGET = pb.BatchBudget(generations=16)
VALID: dict[str, list[Any]] = {
    "Route": [
        pb.RouteRequest(prompt="7 + 7 =", objective=pb.Objective(budget=4)),
        pb.RouteRequest(
            messages=[pb.Message(role="system", content="Be brief."), pb.Message(role="user", content="7 + 7 =")],
            objective=pb.Objective(target_accuracy=0.5),
        ),
    ],
    "Solve": [
        pb.SolveRequest(prompt="7 + 7 =", options=pb.SolveOptions(arm="beam_search(n=4, m=2)", seed=3)),
        pb.SolveRequest(
            prompt="7 + 7 + 7 =",
            objective=pb.Objective(price_per_flop=0.1),
            options=pb.SolveOptions(max_generated_tokens=30),
        ),
    ],
    "StreamSolve": [pb.StreamSolveRequest(prompt="7 - 7 =", options=pb.SolveOptions(allow_partial=True))],
    "RouteBatch": [
        pb.RouteBatchRequest(prompts=[pb.BatchPrompt(prompt=f"7 + {i} =") for i in range(5)], budget=BATCH_BUDGET)
    ],
    "SolveBatch": [
        pb.SolveBatchRequest(
            prompts=[pb.BatchPrompt(prompt="7 - 7 ="), pb.BatchPrompt(prompt="7 + 7 + 7 =")],
            budget=BATCH_BUDGET,
            options=pb.SolveOptions(allow_partial=True),
        )
    ],
    "GetBundle": [pb.GetBundleRequest()],
    "RecordOutcome": [pb.RecordOutcomeRequest(call_id="a", correct=True, score=0.5)],
    "ListBundles": [admin.ListBundlesRequest()],
    "ActivateBundle": [admin.ActivateBundleRequest(name="one", digest="0" * 64)],
    "RollBackBundle": [admin.RollBackBundleRequest()],
    "ShadowBundle": [admin.ShadowBundleRequest(name="../one", digest="f" * 64), admin.ShadowBundleRequest()],
}
PROPER = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def strange(rng: random.Random, method: MethodDescriptor) -> bytes:
    """Random bytes, or a valid request with some of its bytes changed."""
    if rng.random() < 0.5:
        return rng.randbytes(min(int(rng.expovariate(1 / 40)), 60_000))
    data = bytearray(rng.choice(VALID[method.name]).SerializeToString())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(5)
        if change == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        elif change == 2:
            del data[at : at + rng.randint(1, 4)]
        elif change == 3:
            data += data[at:]
        else:
            data[at:at] = b"\x22" + struct.pack("B", rng.randrange(128)) + rng.randbytes(rng.randrange(20))
    return bytes(data)


async def test_malformed_requests(scripted, often, tallied):
    rng, known = random.Random(7), methods()
    headers = [(), (("x-request-id", "x" * 500),), (("traceparent", "00-zz"),), (("data-bin", b"\xff\x00"),)]
    with tallied("malformed requests: random bytes, and valid ones with bytes changed") as tally:
        async with scripted.channel() as channel:
            pending = asyncio.Semaphore(16)

            async def send(path: str, method: MethodDescriptor, data: bytes, metadata: tuple) -> None:
                async with pending:
                    began = time.monotonic()
                    code = await status(channel, path, data, metadata, stream=method.server_streaming)
                    tally.slowest = max(tally.slowest, time.monotonic() - began)
                    if code not in PROPER:
                        tally.lost.append(f"{method.name} {data!r}: {code}")

            memory = 0
            for _ in range(5):
                sent = []
                for _ in range(often(60, 1400)):
                    path, method = rng.choice(known)
                    metadata = (("authorization", "Bearer ops"), *rng.choice(headers))
                    sent.append(send(path, method, strange(rng, method), metadata))
                await asyncio.gather(*sent)
                tally.calls += len(sent)
                tally.times += len(sent)
                memory = memory or scripted.memory()  # after the first part
            grown = scripted.memory() - memory
            assert grown < 50e6, f"{grown / 1e6:.0f} MB"
            await still_well(channel, tally)


async def status(channel: grpc.aio.Channel, path: str, data: bytes, metadata: tuple, *, stream: bool) -> object:
    """What a call of 10 seconds ends with; gRPC's own answers, without the service's details, are none."""
    try:
        if stream:
            async for _ in channel.unary_stream(path)(data, timeout=10, metadata=metadata):
                pass
        else:
            await channel.unary_unary(path)(data, timeout=10, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def still_well(channel: grpc.aio.Channel, tally: Tally) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    health = await stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    await Caller(channel, tally, exact=False).solve(1, "single")


def structs() -> st.SearchStrategy[Message]:
    """Any inputs of a task."""
    value = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=30),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=6,
    )
    names = st.sampled_from(["choices", "tests", "schema", "fields"]) | st.text(max_size=10)

    def struct_of(given: dict[str, Any]) -> Struct:
        made = Struct()
        made.update(given)
        return made

    return st.dictionaries(names, value, max_size=3).map(struct_of)


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of a type, in range or not."""
    if cls is Struct:
        return structs()
    kinds: dict[int, Any] = {
        FieldDescriptor.TYPE_STRING: st.text(max_size=30) | st.text(min_size=1000, max_size=9000),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_DOUBLE: st.floats() | st.floats(0, 1),
        FieldDescriptor.TYPE_UINT32: st.integers(0, 20) | st.integers(0, 2**32 - 1),
        FieldDescriptor.TYPE_ENUM: st.integers(0, 9) | st.integers(-(2**31), 2**31 - 1),
    }
    sensible: dict[str, Any] = {
        "arm": st.sampled_from([*ARMS, "single @0.7 > majority(n=4)", "majority(n=2, model=large)"]),
        "role": st.sampled_from(["system", "user", "assistant"]),
    }

    def values(field: Any) -> st.SearchStrategy[object]:
        one = messages(GetMessageClass(field.message_type)) if field.message_type else kinds[field.type]
        one = sensible.get(field.name, one) | one
        return st.lists(one, max_size=3) if field.is_repeated else one

    fields = {field.name: values(field) for field in cls.DESCRIPTOR.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: cls(**given))


def test_strange_requests(scripted, often, tallied):
    known = methods()
    with tallied("strange requests: well-formed messages with any values") as tally:
        channel = grpc.insecure_channel(scripted.address)
        with channel:

            @settings(
                max_examples=often(150, 3000),
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(st.data())
            def answers(data: st.DataObject) -> None:
                path, method = data.draw(st.sampled_from(known))
                message = data.draw(messages(GetMessageClass(method.input_type)))
                tally.calls += 1
                tally.times += 1
                began = time.monotonic()
                call = (channel.unary_stream if method.server_streaming else channel.unary_unary)(path)
                code = grpc.StatusCode.OK
                try:
                    reply = call(message.SerializeToString(), timeout=10, metadata=(("authorization", "Bearer ops"),))
                    if method.server_streaming:
                        list(reply)
                except grpc.RpcError as error:
                    code = error.code()
                tally.slowest = max(tally.slowest, time.monotonic() - began)
                assert code in PROPER, f"{method.name} {message}: {code}"

            answers()
