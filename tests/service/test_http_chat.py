"""Chat completions over HTTP by OpenAI's own client: answers, bills, streams, what is honoured and what is named."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from router.service.app import Server
from router.service.http import stream
from tests.support.http import asked, client_of, serving

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="


@pytest.fixture
async def server(solver) -> AsyncIterator[Server]:
    async with serving(solver) as server:
        yield server


@pytest.fixture
async def client(server) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(server) as client:
        yield client


def router(**fields: Any) -> dict[str, Any]:
    return {"extra_body": {"router": fields}}


async def test_an_answer_with_its_bill(client, generator, verifier):
    reply = await client.chat.completions.create(**asked(HARD), **router(objective={"budget": 16}))
    choice, told = reply.choices[0], reply.router
    assert (choice.message.role, choice.finish_reason) == ("assistant", "stop")
    assert choice.message.content.endswith("Answer: 56")
    assert (told["answer"], told["level"], told["arm"]) == ("56", 5, "lookahead(n=8, m=4, k=1)")
    assert reply.usage.prompt_tokens == told["bill"]["prompt_tokens"] == generator.counted.prompt_tokens
    assert reply.usage.completion_tokens == told["bill"]["generated_tokens"] == generator.counted.generated_tokens > 0
    assert reply.usage.scored_tokens == told["bill"]["scored_tokens"] == verifier.counted.scored_tokens > 0
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


async def test_the_call_has_one_id_everywhere(client):
    raw = await client.chat.completions.with_raw_response.create(
        **asked(EASY), extra_headers={"x-request-id": "mine-1"}
    )
    reply = raw.parse()
    assert (raw.headers["x-request-id"], reply.id, reply.router["call_id"]) == ("mine-1", "chatcmpl-mine-1", "mine-1")


async def test_the_router_object_pins_caps_and_shows(client):
    asks = router(arm="best_of_n(n=4)", return_candidates=True, allow_partial=True, max_generated_tokens=30)
    reply = await client.chat.completions.create(**asked(EASY), **asks)
    assert reply.router["arm"] == "best_of_n(n=4)"
    assert reply.router["stop_reason"] == "STOP_REASON_TOKEN_CAP"
    assert len(reply.router["candidates"]) == 4
    assert reply.usage.completion_tokens == 30
    assert reply.choices[0].finish_reason == "length"


async def test_history_and_system_reach_the_engine(client, generator):
    seen = []
    write = generator.write

    def spy(prompt, path, rng):
        seen.append(prompt)
        return write(prompt, path, rng)

    generator.write = spy
    said = [
        {"role": "developer", "content": "Be brief. "},
        {"role": "user", "content": [{"type": "text", "text": "Hello. "}]},
        {"role": "assistant", "content": "Hi. ", "refusal": None, "annotations": [], "tool_calls": None},
        {"role": "user", "content": EASY},
    ]
    await client.chat.completions.create(model="router", messages=said)
    assert seen[0] == f"Be brief. Hello. Hi. {EASY}"


async def test_fields_that_change_nothing_are_named(client):
    said = [{"role": "user", "name": "ann", "content": EASY}]
    reply = await client.chat.completions.create(model="router", messages=said, user="ann", metadata={"a": "b"}, n=1)
    assert reply.router["ignored"] == ["metadata", "user", "messages[0].name"]
    assert "ignored" not in (await client.chat.completions.create(**asked(EASY))).router


@pytest.mark.parametrize("name", ["router", "tiny"])
async def test_the_model_has_its_own_name_and_the_bundles(client, name):
    assert (await client.chat.completions.create(**asked(EASY) | {"model": name})).router["answer"] == "14"


async def test_models_are_what_is_served(client, solver):
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["router", "tiny", solver.bundle.id]
    for name in ("router", "tiny"):
        one = await client.models.retrieve(name)
        assert (one.id, one.router["digest"]) == (name, solver.bundle.digest)
        assert (one.router["models"][0]["parameters"], one.router["verifier"]["parameters"]) == (1_000, 500)
    assert listed[0].router["digest"] == solver.bundle.digest
    assert [model.router for model in listed[1:]] == [{"alias_of": "router"}] * 2
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-4")


# Streams


async def test_a_stream_is_the_text_the_router_object_and_the_usage(client):
    stream = await client.chat.completions.create(**asked(EASY), stream=True, stream_options={"include_usage": True})
    *texts, finish, usage = [chunk async for chunk in stream]
    whole = await client.chat.completions.create(**asked(EASY))
    assert "".join(chunk.choices[0].delta.content for chunk in texts) == whole.choices[0].message.content
    assert texts[0].choices[0].delta.role == "assistant"
    assert finish.choices[0].finish_reason == "stop"
    assert finish.router["answer"] == "14"
    assert (usage.choices, usage.usage.total_tokens) == ([], whole.usage.total_tokens)


async def test_only_who_asks_sees_the_rounds(client):
    asks = asked(HARD, stream=True)
    quiet = [
        chunk async for chunk in await client.chat.completions.create(**asks, **router(arm="beam_search(n=4, m=2)"))
    ]
    assert all(chunk.choices for chunk in quiet)
    shown = await client.chat.completions.create(**asks, **router(arm="beam_search(n=4, m=2)", progress=True))
    rounds = [chunk.router["progress"]["number"] async for chunk in shown if not chunk.choices]
    assert rounds == list(range(1, len(rounds) + 1))
    assert len(rounds) > 2


async def test_who_asks_for_progress_sees_the_stages_of_a_cascade(client):
    arm = "single @1 > majority(n=4)"
    shown = await client.chat.completions.create(**asked(EASY, stream=True), **router(arm=arm, progress=True))
    told = [chunk.router async for chunk in shown if not chunk.choices]
    stages = [each["stage"] for each in told if "stage" in each]
    assert [(each["number"], each["arm"]["text"], each["ends"]) for each in stages] == [
        (1, "single", False),
        (2, "majority(n=4)", True),
    ]
    assert stages[0] == stages[0] | {"answer": "14", "confidence": 0.9, "threshold": 1.0}
    assert told.index({"stage": stages[0]}) < next(i for i, each in enumerate(told) if _stage_of_round(each) == 2)
    quiet = await client.chat.completions.create(**asked(EASY, stream=True), **router(arm=arm))
    assert all([chunk.choices async for chunk in quiet])


def _stage_of_round(told: dict[str, Any]) -> int:
    return told["progress"]["stage"] if "progress" in told else 0


async def test_a_long_silence_is_broken_by_comments(client, generator, monkeypatch):
    monkeypatch.setattr(stream, "QUIET_SECONDS", 0.03)
    generator.latency = 0.05
    async with httpx2.AsyncClient(trust_env=False) as plain:
        reply = await plain.post(f"{client.base_url}chat/completions", json=asked(EASY, stream=True), timeout=60)
    assert reply.text.startswith(": searching\n\n")
    assert reply.text.endswith("data: [DONE]\n\n")
    chunks = [chunk async for chunk in await client.chat.completions.create(**asked(EASY, stream=True))]
    assert all(chunk.choices for chunk in chunks)  # clients skip comments


async def test_an_error_before_the_first_event_has_its_status(client):
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        await client.chat.completions.create(**asked(EASY, stream=True), **router(max_generated_tokens=3))
    assert raised.value.code == "token_cap_reached"


async def test_an_error_after_it_ends_the_stream(client):
    asks = asked(EASY, stream=True)
    stream = await client.chat.completions.create(
        **asks, **router(max_generated_tokens=60, progress=True, arm="beam_search(n=4, m=2)")
    )
    with pytest.raises(openai.APIError) as raised:
        async for _ in stream:
            pass
    assert raised.value.code == "token_cap_reached"


# Beside OpenAI's


async def test_route_runs_nothing(client, generator):
    reply = await client.post(
        "/router/route", body={"prompt": HARD, "objective": {"budget": 16}}, cast_to=dict[str, Any]
    )
    assert (reply["decision"]["level"], reply["decision"]["arm"]["text"]) == (5, "lookahead(n=8, m=4, k=1)")
    assert generator.counted.calls == 0


async def test_the_bundle_with_its_policy(client, solver):
    bundle = await client.get("/router/bundle", cast_to=dict[str, Any])
    assert (bundle["id"], len(bundle["cells"])) == (solver.bundle.id, 45)


# Temperature and length


async def test_its_own_temperature_and_length_are_honoured(client, generator):
    asks = router(arm="majority(n=4)", return_candidates=True)
    greedy = await client.chat.completions.create(**asked(HARD, temperature=0), **asks)
    assert len({str(each["steps"]) for each in greedy.router["candidates"]}) == 1
    assert len(greedy.router["candidates"]) == 4
    short = await client.chat.completions.create(**asked(HARD, max_tokens=5), **asks)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 20)
    assert short.choices[0].message.content == "7 + 7"
    assert "bounded" not in short.router


async def test_more_than_the_bundle_has_is_bounded_and_named(client):
    reply = await client.chat.completions.create(**asked(EASY, temperature=1.5, max_completion_tokens=4096))
    assert reply.router["bounded"] == ["temperature", "max_completion_tokens"]
    assert reply.router["expectation"]["accuracy"] == 0.9


async def test_nothing_is_promised_of_what_was_not_measured(client):
    reply = await client.chat.completions.create(**asked(EASY, temperature=0.3))
    assert "expectation" not in reply.router
