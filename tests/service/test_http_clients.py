"""Programs that are not ours, on a server in a process of its own: OpenAI's client for Node.js, and curl.

OpenAI's client for Python is what the other tests of this door call with.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.service.auth.callers import digest_of
from tests.support.processes import Served, serve

pytestmark = pytest.mark.clients
ROOT = Path(__file__).parent.parent.parent
MODULES = ROOT / ".cache" / "openai" / "node_modules"
CLIENTS = (ROOT / "docs" / "clients.md").read_text()


@pytest.fixture
def served(bundle_folder: Path, tmp_path: Path) -> Iterator[Served]:
    """By scripted engines. It wants the token "s3cret"."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[app]\nsha256 = "{digest_of("s3cret").hex()}"\n')
    outcomes = f"sqlite:///{tmp_path}/outcomes.db"
    options = ("--backend", "fake", "--http", "127.0.0.1:0", "--tokens", tokens, "--outcomes", outcomes)
    with serve("--bundle", bundle_folder, *options) as served:
        yield served


def node(folder: Path, script: str, *arguments: str) -> list[Any]:
    """The lines that a script prints, which are JSON."""
    assert MODULES.is_dir(), "run `make test-clients`, which installs OpenAI's client"
    (folder / "node_modules").symlink_to(MODULES)
    (folder / "script.mjs").write_text(script)
    done = subprocess.run(
        ["node", folder / "script.mjs", *arguments], capture_output=True, check=False, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_openais_client_for_node(served, tmp_path):
    script = (ROOT / "tests" / "support" / "openai_client.mjs").read_text()
    printed = [json.loads(line) for line in node(tmp_path, script, served.url, "s3cret")]
    reply, streamed, rounds, names, unknown, capped, timed_out, stranger, outcome = printed
    assert reply["answer"] == "14"
    assert reply["usage"]["completion_tokens"] == reply["bill"]["generated_tokens"] > 0
    assert streamed == {"text": reply["text"], "total": reply["usage"]["total_tokens"]}
    assert rounds == list(range(1, len(rounds) + 1)) != []
    assert names[0] == "router"
    assert unknown == {"kind": "NotFoundError", "status": 404, "code": "model_unknown"}
    assert capped == {"kind": "UnprocessableEntityError", "status": 422, "code": "token_cap_reached"}
    assert timed_out["kind"] in ("APIConnectionTimeoutError", "InternalServerError")
    assert stranger == {"kind": "AuthenticationError", "status": 401, "code": "unauthenticated"}
    assert outcome == {"changed": True}


def test_the_pages_example_for_node(served, tmp_path):
    (example,) = (block for block in re.findall(r"```javascript\n(.*?)```", CLIENTS, re.S) if "'openai'" in block)
    here = example.replace("http://127.0.0.1:8080/v1", served.url).replace("'none'", "'s3cret'")
    text = "\n".join(node(tmp_path, here))
    assert re.fullmatch(r"71 - 46 = 25\n25 \+ 58 = 83\nAnswer: 83 83 \d+", text)


def curl(*arguments: str) -> str:
    environment = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(
        ["curl", "--silent", "--show-error", *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl(served):
    token = ("-H", "authorization: Bearer s3cret", "-H", "content-type: application/json")
    chat = f"{served.url}/chat/completions"
    body = {"model": "router", "messages": [{"role": "user", "content": "7 + 7 ="}]}
    reply = json.loads(curl(chat, *token, "-d", json.dumps(body)))
    assert reply["router"]["answer"] == "14"
    events = curl(chat, "-N", *token, "-d", json.dumps(body | {"stream": True})).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    texts = [
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content", "") for event in events[:-2]
    ]
    assert "".join(texts) == reply["choices"][0]["message"]["content"]
    shown = {"stream": True, "router": {"arm": "beam_search(n=4, m=2)", "progress": True}}
    assert '"progress": {"number": 1' in curl(chat, "-N", *token, "-d", json.dumps(body | shown))
    assert curl(chat, "-o", "/dev/null", "-w", "%{http_code}", *token[:2], "-d", "{}") == "400"  # curl calls it a form
    assert curl(chat, "-o", "/dev/null", "-w", "%{http_code}", "-d", "{}") == "401"
    assert curl(f"{served.url.removesuffix('/v1')}/health") == '{"status":"serving"}'


def test_sigterm_lets_a_stream_end(served):
    token = ("-H", "authorization: Bearer s3cret", "-H", "content-type: application/json")
    body = {"model": "router", "messages": [{"role": "user", "content": "7 + 7 ="}], "stream": True}
    command = ["curl", "--silent", "-N", f"{served.url}/chat/completions", *token, "-d", json.dumps(body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline().startswith("data: ")
        served.process.terminate()
        assert running.stdout.read().endswith("data: [DONE]\n\n")
    assert served.process.wait(timeout=30) == 0
