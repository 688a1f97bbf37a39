"""Errors over HTTP: OpenAI's shape, statuses that its client knows, and whether it tries again."""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from router.errors import EngineUnavailable, InvalidRequest
from router.service.admission import Admission
from router.service.auth.callers import Caller, Token
from router.service.http.messages import parse
from router.service.http.requests import read
from router.v1 import router_pb2 as pb
from tests.support.http import asked, client_of, serving

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="
TOKEN = Token(hashlib.sha256(b"s3cret").digest(), Caller("app"))


@pytest.fixture
async def seen(solver) -> AsyncIterator[tuple[Any, list[Any]]]:
    """A server, and its finished calls."""
    calls: list[Any] = []
    async with serving(solver, observers=[calls.append]) as server:
        yield server, calls


@pytest.fixture
async def client(seen) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(seen[0]) as client:
        yield client


async def refused(client: AsyncOpenAI, **fields: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as raised:
        await client.chat.completions.create(**{**asked(EASY), **fields})
    return raised.value


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "message_malformed"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "prompt_empty"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages", "prompt_invalid"),
        (
            {"messages": [{"role": "user", "content": ""}] * 1000 + asked(EASY)["messages"]},
            "messages",
            "prompt_too_long",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "prompt_invalid"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood", "message_malformed"),
        ({"model": "gpt-4"}, "model", "model_unknown"),
        ({"temperature": 3}, "temperature", "message_malformed"),
        ({"extra_body": {"top_k": 5}}, "top_k", "message_malformed"),
        ({"extra_body": {"router": {"budget": 8}}}, "router.budget", "message_malformed"),
        ({"extra_body": {"router": {"objective": {"budget": 17}}}}, "router.objective.budget", "budget_out_of_range"),
        ({"extra_body": {"router": {"arm": "guess"}}}, "router.arm", "arm_invalid"),
        ({"extra_body": {"router": {"arm": "majority(n=999)"}}}, "router.arm", "arm_invalid"),
        ({"extra_body": {"router": {"max_scored_tokens": 0}}}, "router.max_scored_tokens", "cap_out_of_range"),
        ({"extra_body": {"router": {"inputs": {"x": 1}}}}, "router.inputs.x", "inputs_invalid"),
        ({"extra_body": {"router": {"task": "chess"}}}, "router.task", "task_unknown"),
        ({"extra_body": {"router": {"seed": 1}}}, "router.seed", "message_malformed"),
    ],
)
async def test_bad_input_names_the_field_and_reaches_no_engine(client, seen, generator, *, fields, param, code):
    error = await refused(client, **fields)
    assert (error.param, error.code) == (param, code)
    assert (error.status_code, error.type) == (
        (404, "not_found_error") if code == "model_unknown" else (400, "invalid_request_error")
    )
    assert error.response.headers["x-should-retry"] == "false"
    assert generator.counted.calls == 0
    assert [call.reason for call in seen[1]] == [code.upper()]


# What a caller may write in the place of a field, and what it is told.
KINDS = "budget, average_budget, target_accuracy, price_per_flop, max_seconds, on_insufficient"
UNFIT = [
    ({"objective": {"budgett": 1}}, "objective.budgett", f'{{}}objective has no field "budgett"; it has {KINDS}'),
    ({"objective": {"budget": "much"}}, "objective.budget", '{}objective.budget must be a number, found "much"'),
    ({"objective": {"budget": True}}, "objective.budget", "{}objective.budget must be a number, found true"),
    ({"objective": {"budget": 10**400}}, "objective.budget", "{}objective.budget must be a number, found 1000"),
    (
        {"objective": {"budget": 8, "target_accuracy": 0.9}},
        "objective.target_accuracy",
        "{}objective has both budget and target_accuracy; give one of them",
    ),
    (
        {"objective": {"on_insufficient": "maybe"}},
        "objective.on_insufficient",
        '{}objective.on_insufficient must be best or refuse, found "maybe"',
    ),
    ({"objective": {"on_insufficient": 77}}, "objective.on_insufficient", "must be best or refuse, found 77"),
    ({"objective": 8}, "objective", "{}objective must be an object, found 8"),
    ({"objective": []}, "objective", "{}objective must be an object, found []"),
    ({"objective": "speed=8"}, "objective", "{}objective must be an object or one of budget=…, average_budget=…"),
    ({"task": 5}, "task", "{}task must be text, found 5"),
    ({"inputs": [1]}, "inputs", "{}inputs must be an object, found a list"),
    ({"inputs": {"x": 10**400}}, "inputs", "{}inputs is nested too deeply, or has a number above 1.8e308"),
    ({"conversation": "\ud800"}, "conversation", "{}conversation: half of a surrogate pair is not valid text"),
]
UNFIT_OPTIONS = [
    ({"arm": 5}, "arm", "{}arm must be text, found 5"),
    ({"allow_partial": "yes"}, "allow_partial", '{}allow_partial must be true or false, found "yes"'),
    (
        {"max_scored_tokens": 1.5},
        "max_scored_tokens",
        "{}max_scored_tokens must be a whole number from 0 to 4294967295",
    ),
]


@pytest.mark.parametrize(("own", "param", "says"), [*UNFIT, *UNFIT_OPTIONS])
def test_what_a_field_can_not_hold_is_told_in_the_callers_words(own, param, says):
    with pytest.raises(InvalidRequest) as raised:
        read({**asked(EASY), "router": own}, ["router"])
    assert raised.value.field == f"router.{param}"
    assert says.format("router.") in str(raised.value)


@pytest.mark.parametrize(("own", "param", "says"), UNFIT)
def test_the_routers_own_methods_tell_it_as_well(own, param, says):
    with pytest.raises(InvalidRequest) as raised:
        parse(pb.RouteRequest, {"prompt": EASY, **own})
    assert raised.value.field == param
    assert says.format("") in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": [5]}, "messages[0] must be an object, found 5"),
        ({"messages": []}, "messages must have at least one message, found []"),
        ({"router": "budget=8"}, 'router must be an object, found "budget=8"'),
        ({"seed": 1.5}, "seed must be a whole number, found 1.5"),
        ({"model": None}, "model is missing"),
    ],
)
def test_openais_fields_are_told_in_the_same_words(fields, says):
    with pytest.raises(InvalidRequest) as raised:
        read(asked(EASY) | fields, ["router"])
    assert str(raised.value) == says


@pytest.mark.parametrize("body", [None, [], [1], "x", 5])
async def test_a_body_must_be_an_object(client, body):
    with pytest.raises(openai.BadRequestError, match="the body must be a JSON object"):
        await client.post(
            "/router/route",
            content=json.dumps(body).encode(),
            options={"headers": {"content-type": "application/json"}},
            cast_to=object,
        )


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("budget=8", {"budget": 8}),
        ("target_accuracy=0.9", {"target_accuracy": 0.9}),
        ({"target_accuracy": 0.9, "on_insufficient": "refuse"}, {"target_accuracy": 0.9, "on_insufficient": 2}),
        ({"onInsufficient": "ON_INSUFFICIENT_BEST"}, {"on_insufficient": 1}),
        ({"budget": "Infinity"}, {"budget": float("inf")}),
        ({"budget": None, "max_seconds": "2"}, {"max_seconds": 2}),
    ],
)
def test_an_objective_may_be_written_in_several_ways(given, means):
    chat = read({**asked(EASY), "router": {"objective": given}}, ["router"])
    assert chat.message
    assert chat.message.objective == pb.Objective(**means)


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"{", "application/json", "not JSON"),
        (b"[" * 100_000, "application/json", "nested too deeply"),
        (b'{"model": NaN}', "application/json", "not a number"),
        (b'{"model": 1e999, "model": "router"}', "application/json", "the body has a number above"),
        (b'"%s"' % (b"[" * 200), "application/json", "must be a JSON object"),
        (rb'{"model": "router", "messages": [{"role": "user", "content": "\ud800"}]}', "application/json", "surrogate"),
        (b"[]", "application/json", "must be a JSON object"),
        (b"{}", "text/plain", "content-type"),
    ],
)
async def test_what_is_no_request_is_a_clear_error(client, seen, body, kind, says):
    with pytest.raises(openai.BadRequestError, match=says):
        await client.post(
            "/chat/completions", content=body, options={"headers": {"content-type": kind}}, cast_to=object
        )
    assert len(seen[1]) == 1


async def test_a_body_that_is_too_large_is_a_clear_error(client, seen):
    with pytest.raises(openai.APIStatusError, match="larger than 1048576 bytes") as raised:
        await client.post("/chat/completions", body={"model": "x" * 2**20}, cast_to=object)
    assert (raised.value.status_code, raised.value.type) == (413, "invalid_request_error")
    assert len(seen[1]) == 1


@pytest.mark.parametrize(("path", "status"), [("/v1/completions", 404), ("/", 404), ("/v1/chat/completions", 405)])
async def test_other_pages_have_openais_shape_too(client, path, status):
    with pytest.raises(openai.APIStatusError, match="the API is /v1/chat/completions") as raised:
        await client.get(f"{str(client.base_url).removesuffix('/v1/')}{path}", cast_to=object)
    assert raised.value.status_code == status


async def test_a_long_name_of_a_field_is_cut(client):
    error = await refused(client, extra_body={"router": {"inputs": {"x" * 20_000: 1}}})
    assert error.param
    assert error.param.startswith("router.inputs.xx")
    assert len(error.param) <= 200


@pytest.mark.parametrize("host", ["[::1", "foo]", "["])
@pytest.mark.parametrize(("path", "status"), [("/v1/models", 400), ("/nothing", 404)])
async def test_a_host_that_can_not_be_read_is_a_clear_error(seen, host, path, status):
    async with httpx2.AsyncClient() as client:
        reply = await client.get(f"http://127.0.0.1:{seen[0].http_port}{path}", headers={"host": host})
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_nobody_is_sent_to_the_host_that_a_request_names(seen):
    async with httpx2.AsyncClient() as client:
        url = f"http://127.0.0.1:{seen[0].http_port}/v1/models/"
        reply = await client.get(url, headers={"host": "evil.example"}, follow_redirects=False)
    assert reply.status_code == 404
    assert "location" not in reply.headers


async def test_an_engine_that_is_down_says_when_to_retry(client, generator):
    async def extend(prompt, paths, **options):
        raise EngineUnavailable("the engine does not answer; start it")

    generator.extend = extend
    error = await refused(client)
    assert (error.status_code, error.code, error.type) == (503, "engine_unavailable", "server_error")
    assert error.response.headers["retry-after"] == "1"


async def test_an_overloaded_server_is_asked_again_when_it_says(solver, generator):
    generator.latency = 0.1
    calls: list[Any] = []

    async def hurry() -> None:
        """One ends as soon as the other was refused: a client that asks a few times only does not give up."""
        while "OVERLOADED" not in [call.reason for call in calls]:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        generator.latency = 0

    async with (
        serving(solver, admission=Admission(1, 0), observers=[calls.append]) as server,
        client_of(server, max_retries=4) as client,
    ):
        completions = [client.chat.completions.create(**asked(EASY)) for _ in range(2)]
        *replies, _ = await asyncio.gather(*completions, hurry())
    assert [reply.router["answer"] for reply in replies] == ["14", "14"]


async def test_a_bug_is_logged_here_and_hidden_there(client, solver, caplog):
    solver.decide = lambda *args: 1 / 0
    with caplog.at_level(logging.ERROR):
        error = await refused(client)
    assert (error.status_code, error.code) == (500, "internal")
    assert "division" not in str(error)
    assert "ZeroDivisionError" in caplog.text


async def test_a_bug_outside_the_calls_is_logged_with_its_place(client, monkeypatch, caplog):
    monkeypatch.setattr("router.service.http.replies.models", lambda *args: {}["a prompt"])
    with caplog.at_level(logging.ERROR), pytest.raises(openai.InternalServerError):
        await client.models.list()
    (logged,) = (each for each in caplog.records if "KeyError" in each.getMessage())
    assert "in models" in logged.traceback
    assert "a prompt" not in logged.getMessage()


async def test_a_limit_that_ends_the_search_has_its_bill(client):
    error = await refused(client, extra_body={"router": {"max_generated_tokens": 3}})
    assert (error.status_code, error.code) == (422, "token_cap_reached")
    assert json.loads(error.response.text)["router"]["bill"]["generated_tokens"] == 3


@pytest.mark.parametrize("partial", [True, False])
async def test_the_clients_timeout_is_the_deadline(client, seen, generator, partial, monkeypatch):
    monkeypatch.setattr("router.solving.driver._MARGIN", 0.6)  # to send the reply, on a busy machine
    generator.latency = 0.2
    asks = asked(HARD, extra_body={"router": {"arm": "majority(n=4)", "allow_partial": partial}})
    slow = client.with_options(timeout=3)
    if partial:
        reply = await slow.chat.completions.create(**asks)
        assert reply.router["stop_reason"] == "STOP_REASON_DEADLINE"
    else:
        with pytest.raises(openai.APIStatusError) as raised:
            await slow.chat.completions.create(**asks)
        assert (raised.value.status_code, raised.value.code) == (504, "deadline_exceeded")
    assert [call.code for call in seen[1]] == ["OK" if partial else "DEADLINE_EXCEEDED"]


async def test_a_wrong_request_is_refused_at_once_where_all_places_are_busy(solver, generator):
    """It neither waits for a place nor takes one from a search that runs."""
    generator.latency = 0.5
    calls: list[Any] = []
    async with (
        serving(solver, admission=Admission(1, 0), observers=[calls.append]) as server,
        client_of(server, timeout=20) as client,
    ):
        running = asyncio.create_task(client.chat.completions.create(**asked(HARD)))
        while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        json_kind: Any = {"headers": {"content-type": "application/json"}}
        for body, status in ((b"{", 400), (b'{"model": "%s"}' % (b"x" * 2**20), 413)):
            with pytest.raises(openai.APIStatusError) as raised:
                await client.post("/chat/completions", content=body, options=json_kind, cast_to=object)
            assert raised.value.status_code == status
        assert not running.done()
        assert [call.code for call in calls] == ["INVALID_ARGUMENT"] * 2
        running.cancel()


async def test_a_deadline_ends_waiting_for_a_place_as_well(solver, generator):
    generator.latency = 0.5
    async with serving(solver, admission=Admission(1, 8)) as server, client_of(server) as client:
        running = asyncio.create_task(client.chat.completions.create(**asked(HARD)))
        while not generator.counted.calls:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        error = await refused(client, extra_headers={"x-request-timeout": "0.5"})
        running.cancel()
    assert (error.status_code, error.code) == (504, "deadline_exceeded")


@pytest.mark.parametrize("stream", [True, False])
async def test_who_goes_away_frees_the_engine(client, seen, generator, stream):
    generator.latency = 0.01
    running = asyncio.create_task(client.chat.completions.create(**asked(HARD, stream=stream)))
    while not generator.counted.generated_tokens:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
    running.cancel()
    while not seen[1]:  # noqa: ASYNC110 - nothing to wait for
        await asyncio.sleep(0.01)
    assert seen[1][0].code == "CANCELLED"


# Tokens and outcomes


async def test_tokens_are_the_same_as_grpcs(solver):
    calls: list[Any] = []
    async with serving(solver, tokens=lambda: [TOKEN], observers=[calls.append]) as server:
        async with client_of(server, api_key="s3cret") as client:
            assert (await client.chat.completions.create(**asked(EASY))).router["answer"] == "14"
        async with client_of(server, api_key="guess") as client:
            error = await refused(client, messages=[{"role": "user", "content": "x" * 2_000_000}])
    assert (error.status_code, error.code, error.type) == (401, "unauthenticated", "authentication_error")
    assert [(call.caller, call.reason) for call in calls] == [("app", ""), (None, "UNAUTHENTICATED")]


async def test_callers_have_one_name_through_both_doors(client, seen):
    from router.client import connect_aio
    from router.v1 import router_pb2 as pb

    await client.chat.completions.create(**asked(EASY))
    async with connect_aio(f"127.0.0.1:{seen[0].port}") as stub:
        await stub.Solve(pb.SolveRequest(prompt=EASY), timeout=60)
    assert len({call.caller for call in seen[1]}) == 1


async def test_outcomes_are_recorded(solver, recorder):
    async with serving(solver, recorder=recorder) as server, client_of(server) as client:
        reply = await client.chat.completions.create(**asked(EASY))
        outcome = {"call_id": reply.router["call_id"], "correct": True}
        assert await client.post("/router/outcomes", body=outcome, cast_to=dict[str, Any]) == {"changed": True}
        assert await client.post("/router/outcomes", body=outcome, cast_to=dict[str, Any]) == {"changed": False}
        with pytest.raises(openai.BadRequestError, match="an outcome needs correct, score or both"):
            await client.post("/router/outcomes", body={"call_id": "x"}, cast_to=object)


async def test_a_server_without_a_database_says_so(client):
    with pytest.raises(openai.BadRequestError, match="records no outcomes") as raised:
        await client.post("/router/outcomes", body={"call_id": "x", "correct": True}, cast_to=object)
    assert raised.value.code == "outcomes_off"
