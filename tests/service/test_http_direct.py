"""What no search can serve goes straight to the reference model, marked so, or is refused by a setting."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from router.backends.chat import ChatEndpoint
from router.backends.replicas import Replicas
from router.service.admission import Admission
from router.service.bundle_manager import BundleManager
from router.service.metrics import Metrics
from tests.support.http import asked, client_of, serving

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
JSON: Any = {"headers": {"content-type": "application/json"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 2}}


class Endless(httpx2.AsyncByteStream):
    """A streamed reply of so many events, which then waits until its reader leaves."""

    def __init__(self, *events: dict[str, Any]):
        self.events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for event in self.events:
            yield f"data: {json.dumps(event)}\n\n".encode()
        await asyncio.Event().wait()


def delta(index: int = 0, **written: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"role": "assistant", **written}, "finish_reason": None}]}


class ChatServer:
    """A model's server that calls a tool, or refuses with ``status``. ``asked``: the bodies that came."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.stream = ""  # the events of streamed replies; empty: a call of a tool
        replicas = Replicas(["http://a/v1"], transport=httpx2.MockTransport(self.answer))
        self.endpoint = ChatEndpoint(replicas, "/chat/completions", self.name)

    async def name(self) -> str:
        return "their-name"

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        if self.status != 200:
            return httpx2.Response(self.status, text="no tools here")
        message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
        if not body["stream"]:
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
            return httpx2.Response(200, json={"id": "theirs", "model": "x", "choices": [choice], "usage": USAGE})
        delta = {"index": 0, "delta": message | {"tool_calls": [{"index": 0, **CALL}]}}
        end = {"index": 0, "delta": {}, "finish_reason": "tool_calls"}
        events = [{"choices": [delta]}, {"choices": [end]}, {"choices": [], "usage": USAGE}]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx2.Response(200, text=self.stream or text)


@pytest.fixture
def model(generator) -> ChatServer:
    model = ChatServer()
    generator.chat = model.endpoint
    return model


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


async def test_tools_are_the_models_own_and_marked_so(client, model, seen, generator):
    reply = await client.chat.completions.create(**asked(EASY, tools=TOOLS, seed=3, user="ann"))
    assert reply.choices[0].message.tool_calls[0].function.name == "add"
    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.router["direct"] == {"model": "small", "because": ["tools"]}
    assert generator.counted.calls == 0
    (sent,) = model.asked
    assert (sent["model"], sent["tools"], sent["seed"]) == ("their-name", TOOLS, 3)
    assert "user" not in sent
    assert reply.router["ignored"] == ["user"]
    assert (sent["temperature"], sent["max_tokens"]) == (0.8, 512)  # the bundle's
    assert "router" not in sent
    assert [(call.method, call.code) for call in seen[1]] == [("Complete", "OK")]


async def test_its_usage_is_the_bill(client, model, seen):
    reply = await client.chat.completions.create(**asked(EASY, tools=TOOLS))
    bill = reply.router["bill"]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 4)  # less what its cache held
    assert (bill["prompt_tokens"], bill["generated_tokens"], bill["engine_calls"]) == (7, 4, 1)
    assert seen[1][0].bill.generated_tokens == 4


async def test_a_stream_of_it(client, model):
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked(EASY, tools=TOOLS, **options))]
    called, finish, usage = chunks
    assert called.choices[0].delta.tool_calls[0].function.name == "add"
    assert (finish.choices[0].finish_reason, finish.router["direct"]["because"]) == ("tool_calls", ["tools"])
    assert (usage.usage.prompt_tokens, finish.model) == (7, "router")


@pytest.mark.parametrize(
    ("fields", "because"),
    [
        ({"logprobs": True, "top_logprobs": 2}, ["logprobs", "top_logprobs"]),
        ({"stop": ["\n"]}, ["stop"]),
        ({"response_format": {"type": "json_object"}}, ["response_format"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            ["messages[0].content"],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "call_1", "content": "5"},
                ]
            },
            ["messages[1].tool_calls", "messages[2].tool_call_id", "messages[2].role"],
        ),
    ],
)
async def test_what_no_search_gives(client, model, fields, because):
    reply = await client.chat.completions.create(**{**asked(EASY), **fields})
    assert reply.router["direct"]["because"] == because
    sent = model.asked[0]
    assert all(sent[name] == value for name, value in fields.items())


async def test_limits_hold_and_what_is_for_searches_is_named(client, model):
    router = {"max_generated_tokens": 30, "arm": "majority(n=4)", "objective": {"budget": 4}}
    asks = asked(EASY, n=2, logprobs=True, temperature=1.7, max_tokens=9999, extra_body={"router": router})
    reply = await client.chat.completions.create(**asks)
    assert (model.asked[0]["max_tokens"], model.asked[0]["temperature"]) == (15, 0.8)
    assert reply.router["ignored"] == ["router.arm", "router.objective"]
    assert reply.router["bounded"] == ["temperature", "max_tokens"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_request_that_the_models_server_does_not_take(client, model, stream):
    model.status = 400
    with pytest.raises(openai.BadRequestError, match="no tools here") as raised:
        await client.chat.completions.create(**asked(EASY, tools=TOOLS, stream=stream))
    assert raised.value.code == "not_searchable"


@pytest.mark.parametrize("stream", [True, False])
async def test_any_engine_writes_several_answers(client, generator, stream):
    reply = await client.chat.completions.create(**asked(EASY, n=3, stream=stream))
    if stream:
        chunks = [chunk async for chunk in reply]
        texts = [chunk.choices[0].delta.content for chunk in chunks]
        told = chunks[-1].router
    else:
        texts = [choice.message.content for choice in reply.choices]
        told = reply.router
        assert reply.usage.completion_tokens == generator.counted.generated_tokens
    assert len(texts) == 3
    assert all("Answer: " in text for text in texts)
    assert told["direct"] == {"model": "small", "because": ["n"]}


UNUSED = {"user": "ann", "metadata": {"a": "b"}, "service_tier": "flex", "store": True, "prompt_cache_key": "others"}
OTHERS = {**UNUSED, "verbosity": "low"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("passed_on", [True, False])
async def test_what_is_not_passed_on_is_named(client, request, *, passed_on, stream):
    model = request.getfixturevalue("model") if passed_on else None
    messages = [{"role": "user", "content": EASY, "name": "ann"}]
    fields = {**OTHERS, "messages": messages, "extra_body": {"router": {"task": "math", "progress": True}}}
    reply = await client.chat.completions.create(**{**asked(EASY, n=2, stream=stream), **fields})
    told = [chunk async for chunk in reply][-1].router if stream else reply.router
    for_searches = ["router.task", "router.progress"]
    only_a_model = [] if passed_on else ["verbosity", "messages[0].name"]
    assert sorted(told["ignored"]) == sorted([*for_searches, *UNUSED, *only_a_model])
    if model:
        assert not UNUSED.keys() & model.asked[0].keys()
        assert (model.asked[0]["verbosity"], model.asked[0]["messages"]) == ("low", messages)


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Look:"}, *parts]}]}


def image(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


PNG = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (said(image("http://169.254.169.254/latest/meta-data")), "messages[0].content[1].image_url.url"),
        (said(image("https://example.org/a.png")), "messages[0].content[1].image_url.url"),
        (said(image("file:///etc/passwd")), "messages[0].content[1].image_url.url"),
        (said(image(PNG), image(" http://a/")), "messages[0].content[2].image_url.url"),
        (said(image(None)), "messages[0].content[1].image_url.url"),
        (said({"type": "image_url", "image_url": "http://a"}), "messages[0].content[1].image_url.url"),
        (said({"image_url": {"url": "http://a"}}), "messages[0].content[1]"),
        (said({"type": "video_url", "video_url": {"url": "http://a"}}), "messages[0].content[1]"),
        (said({"type": "file", "file": {"file_id": "file-1"}}), "messages[0].content[1].file.file_data"),
        (said({"type": "input_audio", "input_audio": "http://a"}), "messages[0].content[1].input_audio"),
        (
            {"messages": [{"role": "assistant", "audio": {"id": "a"}}, {"role": "user", "content": "x"}]},
            "messages[0].audio",
        ),
        ({"tools": [*TOOLS, {"type": "web_search"}]}, "tools[1].type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
async def test_what_the_models_server_would_fetch_or_look_up_is_refused(client, model, fields, param):
    with pytest.raises(openai.BadRequestError, match=re.escape(param)) as raised:
        await client.chat.completions.create(**{**asked(EASY), **fields})
    assert (raised.value.param, raised.value.code) == (param, "not_searchable")
    assert model.asked == []


async def test_of_a_messages_parts_only_what_is_known_is_passed_on(client, model):
    given = said(
        image(PNG, detail="low", headers={"x": "y"}) | {"uuid": "another callers"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav", "url": "http://a"}},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf", "file_id": "f"},
        },
    )
    given["messages"][0]["content"][0]["cache_control"] = {"type": "ephemeral"}
    await client.chat.completions.create(**{**asked(EASY), **given})
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    file = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
    assert model.asked[0]["messages"] == said(image(PNG, detail="low"), sound, file)["messages"]


async def test_its_seconds_are_billed(client, generator):
    generator.latency = 0.01
    reply = await client.chat.completions.create(**asked(EASY, n=3))
    assert reply.router["bill"]["generate_seconds"] > 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("limit", ["deadline_exceeded", "search_too_long"])
async def test_a_limit_that_ends_it_is_named_and_has_the_bill(solver, generator, *, limit, stream):
    generator.latency = 0.2
    calls: list[Any] = []
    own = limit == "deadline_exceeded"
    timeout = {"x-request-timeout": "2"} if own else {}
    options = {"longest_search": None if own else 2.0, "observers": [calls.append]}
    async with serving(solver, **options) as server, client_of(server, timeout=60) as client:
        server_only = {} if own else {"x-stainless-timeout": "None", "x-stainless-read-timeout": "None"}
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(
                **asked(HARD, n=8, stream=stream, extra_headers={**timeout, **server_only})
            )
    assert (raised.value.status_code, raised.value.code) == (504, limit)
    bill = json.loads(raised.value.response.text)["router"]["bill"]
    assert bill["generated_tokens"] > 0
    assert bill["generate_seconds"] > 1
    assert [(call.code, call.reason) for call in calls] == [("DEADLINE_EXCEEDED", limit.upper())]


async def test_a_limit_that_ends_a_models_own_chat_completion_has_its_bill(solver, model, generator):
    async def never(request: httpx2.Request) -> httpx2.Response:
        await asyncio.Event().wait()
        raise AssertionError

    replicas = Replicas(["http://a/v1"], transport=httpx2.MockTransport(never))
    generator.chat = ChatEndpoint(replicas, "/chat/completions", model.name)
    async with serving(solver) as server, client_of(server) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(**asked(EASY, tools=TOOLS, extra_headers={"x-request-timeout": "1"}))
    bill = json.loads(raised.value.response.text)["router"]["bill"]
    assert (raised.value.code, bill["engine_calls"]) == ("deadline_exceeded", 1)
    assert bill["prompt_tokens"] > 0  # estimated: the model's server had it all
    assert bill["generate_seconds"] > 0.5


def nested(levels: int) -> str:
    return '{"a": ' * levels + "1" + "}" * levels


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("logit_bias", '{"5": 1e999}', "logit_bias has a number above 1.8e308"),
        ("tools", '[{"function": {"parameters": {"maximum": -1e999}}}]', "tools has a number above 1.8e308"),
        ("tools", f"[{nested(966)}]", "tools is nested too deeply: at most 100 lists and objects in a row"),
        ("metadata", nested(100), "metadata is nested too deeply"),
        ("router", '{"inputs": {"x": [1e999]}}', "router has a number above 1.8e308"),
        ("temperature", "1e999", "temperature has a number above 1.8e308"),
    ],
)
async def test_what_no_json_can_hold_is_refused_by_its_field(client, model, *, field, value, says, stream):
    messages = json.dumps(asked(EASY)["messages"])
    body = f'{{"model": "router", "n": 2, "stream": {stream}, "messages": {messages}, "{field}": {value}}}'
    with pytest.raises(openai.BadRequestError, match=says) as raised:
        await client.post("/chat/completions", content=body.encode(), cast_to=object, options=JSON)
    assert (raised.value.param, raised.value.code) == (field, "message_malformed")
    assert not model.asked


async def test_a_schema_of_many_levels_is_passed_on(client, model):
    tools = [{"type": "function", "function": {"name": "add", "parameters": json.loads(nested(95))}}]
    await client.chat.completions.create(**asked(EASY, tools=tools))
    assert model.asked[0]["tools"] == tools


async def test_an_engine_without_chat_completions_says_so(client, generator):
    with pytest.raises(openai.BadRequestError, match="tools: a search can't do this") as raised:
        await client.chat.completions.create(**asked(EASY, tools=TOOLS))
    assert (raised.value.param, raised.value.code) == ("tools", "not_searchable")
    assert generator.counted.calls == 0


TOOLS_TURN = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": ""}], "n": 2}, "prompt", "prompt_empty"),
        ({"messages": [{"role": "user", "content": " "}], "stop": ["x"]}, "prompt", "prompt_empty"),
        ({"messages": [{"role": "user", "content": []}], "n": 2}, "prompt", "prompt_empty"),
        ({"messages": [TOOLS_TURN, {"role": "user", "content": None}]}, "prompt", "prompt_empty"),
        ({"messages": [{"role": "user", "content": "x" * 400_001}], "n": 2}, "prompt", "prompt_too_long"),
        (
            {"messages": [{"role": "system", "content": "x" * 400_000}, {"role": "user", "content": "y"}], "n": 2},
            "prompt",
            "prompt_too_long",
        ),
        ({"messages": [{"role": "user", "content": "x"}] * 1001, "n": 2}, "messages", "prompt_too_long"),
        ({"n": 129}, "n", "message_malformed"),
        ({"n": 0}, "n", "message_malformed"),
        ({"n": "two"}, "n", "message_malformed"),
    ],
)
@pytest.mark.parametrize("passed_on", [True, False])
async def test_it_refuses_the_prompts_that_a_search_refuses(
    client, seen, request, generator, *, fields, param, code, passed_on
):
    model = request.getfixturevalue("model") if passed_on else None
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(**{**asked(EASY), **fields})
    assert (raised.value.param, raised.value.code) == (param, code)
    assert generator.counted.calls == 0
    assert not model or model.asked == []
    assert [call.reason for call in seen[1]] == [code.upper()]


async def test_it_refuses_text_that_can_not_be_passed_on(client, model):
    body = rb'{"model": "router", "n": 2, "messages": [{"role": "user", "content": "\ud800"}]}'
    json_kind = {"headers": {"content-type": "application/json"}}
    with pytest.raises(openai.BadRequestError, match="surrogate"):
        await client.post("/chat/completions", content=body, options=json_kind, cast_to=object)


@pytest.mark.parametrize("content", ["", None, [{"type": "text", "text": ""}]])
async def test_a_tools_message_may_be_empty(client, model, content):
    messages = [
        {"role": "user", "content": "x"},
        TOOLS_TURN,
        {"role": "tool", "tool_call_id": "call_1", "content": content},
    ]
    reply = await client.chat.completions.create(**{**asked(EASY), "messages": messages})
    assert reply.router["direct"]["model"] == "small"
    assert model.asked[0]["messages"] == messages


async def test_it_is_refused_by_a_setting(solver, model):
    async with serving(solver, http_direct=False) as server, client_of(server) as client:
        with pytest.raises(openai.BadRequestError, match="passes nothing on to a model"):
            await client.chat.completions.create(**asked(EASY, tools=TOOLS))
        assert (await client.chat.completions.create(**asked(EASY, tools=[]))).router["answer"] == "14"
    assert model.asked == []


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        # An event is a token, but for long ones: four characters a token.
        ([delta(content=""), delta(content="So"), delta(content="7 + 7")], 2),
        ([delta(reasoning_content="x" * 40), delta(content="y" * 8)], 12),
        ([delta(tool_calls=[{"index": 0, "function": {"name": "add", "arguments": "{" * 12}}])], 3),
        ([delta(0, content="a"), delta(1, content="b"), delta(1, content="c")], 3),
        # The server's own count, where it tells one on the way, unless that is behind what it sent.
        ([{**delta(content="So"), "usage": {**USAGE, "completion_tokens": 5}}], 5),
        ([{**delta(content="So"), "usage": {**USAGE, "completion_tokens": 0}}, delta(content="So")], 2),
    ],
)
async def test_a_stream_that_its_caller_ends_early_is_billed_by_what_came(solver, generator, model, events, tokens):
    told = httpx2.Response(200, stream=Endless(*events, delta(content="")))
    calls: list[Any] = []
    replicas = Replicas(["http://a/v1"], transport=httpx2.MockTransport(lambda _: told))
    generator.chat = ChatEndpoint(replicas, "/chat/completions", model.name)
    async with serving(solver, observers=[calls.append]) as server, client_of(server) as client:
        stream = await client.chat.completions.create(**asked(EASY, tools=TOOLS, stream=True))
        for _ in events:
            await anext(stream)
        await stream.close()
        async with asyncio.timeout(20):
            while not calls:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.005)
    (call,) = calls
    assert call.code == "CANCELLED"
    assert call.bill.generated_tokens == tokens
    assert call.bill.prompt_tokens > 0


async def test_a_stream_without_usage_is_billed_by_estimates_and_the_log_says_so(client, model, seen, caplog):
    texts = "".join(f"data: {json.dumps(each)}\n\n" for each in (delta(content="So"), delta(content="14")))
    model.stream = texts + "data: [DONE]\n\n"
    for _ in range(2):
        stream = await client.chat.completions.create(**asked(EASY, tools=TOOLS, stream=True))
        assert len([chunk async for chunk in stream]) == 2
    assert [call.bill.generated_tokens for call in seen[1]] == [2, 2]
    assert caplog.text.count("it reports no usage, so bills are estimates") == 1


@pytest.mark.parametrize(
    "medium",
    [
        image(PNG + "A" * 400_000),
        {"type": "input_audio", "input_audio": {"data": "A" * 400_000, "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64," + "A" * 400_000}},
    ],
    ids=["image", "sound", "file"],
)
async def test_media_are_estimated_each_as_one_and_not_by_their_bytes(client, model, seen, medium):
    model.stream = f"data: {json.dumps(delta(content='A cat'))}\n\ndata: [DONE]\n\n"
    parts = [{"type": "text", "text": "What is it?"}, medium]
    messages = [{"role": "user", "content": parts}]
    stream = await client.chat.completions.create(**{**asked(EASY, tools=TOOLS, stream=True), "messages": messages})
    assert len([chunk async for chunk in stream]) == 1
    (call,) = seen[1]
    assert 1_000 < call.bill.prompt_tokens < 1_200


async def test_its_tokens_are_counted(solver, model):
    bundles = BundleManager(solver)
    metrics = Metrics(bundles, Admission())
    async with serving(solver, observers=[metrics.observe]) as server, client_of(server) as client:
        await client.chat.completions.create(**asked(EASY, tools=TOOLS))
    labels = {"level": "none", "arm": "direct", "kind": "generated"}
    assert metrics.registry.get_sample_value("router_tokens_total", labels) == 4
    labels = {"door": "http", "method": "Complete", "code": "OK", "reason": ""}
    assert metrics.registry.get_sample_value("router_calls_total", labels) == 1
