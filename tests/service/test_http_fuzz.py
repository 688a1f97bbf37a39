"""Whatever is sent to the door for HTTP, the answer is a clear one: never a bug of the server's."""

import json
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import InvalidRequest
from router.service.http.requests import Chat, read
from tests.support.http import asked, serving

pytestmark = pytest.mark.long

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]) | VALUES}, optional={"text": VALUES})
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"]) | VALUES},
        optional={
            "content": st.text(max_size=8) | st.lists(PARTS, max_size=2) | VALUES,
            "name": VALUES,
            "tool_calls": VALUES,
        },
    ),
    max_size=3,
)
OWN = st.dictionaries(
    st.sampled_from(["objective", "arm", "max_generated_tokens", "conversation", "inputs", "task", "progress", "x"]),
    VALUES,
    max_size=3,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES,
    "router": OWN,
    **dict.fromkeys(["model", "n", "stream", "stream_options", "temperature", "max_tokens", "seed", "tools"], VALUES),
    **dict.fromkeys(["stop", "logprobs", "top_p", "logit_bias", "response_format", "user", "unknown"], VALUES),
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A good request, some of whose fields are something else."""
    changed = draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3, unique=True))
    return asked("7 + 7 =") | {name: draw(FIELDS[name]) for name in changed}


@given(bodies() | VALUES)
@settings(max_examples=500)
def test_any_json_is_a_request_or_a_refusal(body):
    with suppress(InvalidRequest):
        chat = read(body, ["router"])
        assert isinstance(chat, Chat)
        assert (chat.message is None) == bool(chat.direct)


async def test_no_request_ends_in_a_bug(solver):
    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(bodies())
    def collect(body):
        sent.append(body)

    sent: list[Any] = []
    collect()
    async with serving(solver) as server, httpx2.AsyncClient() as client:
        for body in sent:
            content = json.dumps(body).encode()
            reply = await client.post(
                f"http://127.0.0.1:{server.http_port}/v1/chat/completions",
                content=content,
                headers={"content-type": "application/json", "x-request-timeout": "60"},
            )
            assert reply.status_code < 500, (body, reply.text)
            if reply.status_code != 200:
                assert reply.json()["error"]["code"], body
