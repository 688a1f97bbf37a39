"""A newcomer's path (docs/first-steps.md): own prompts and model, from `router init` to an OpenAI client's answer.

`make test-weights` walks it with Qwen2.5-Coder-0.5B, on a llama.cpp server and on vLLM. `make test-newcomer` walks it
with the embedded model on a llama.cpp server, `make test-vllm` its choices on vLLM. That one gets few word problems and
functions right; where it gets none, nothing can be trained, and the test fails.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import openai
import pytest

from router.tasks.sandbox import Sandbox, SandboxUnavailable
from tests.support.fake_chat import FakeChat
from tests.support.fake_chat import serving as fake_server
from tests.support.newcomer import DATA, router, serving

pytestmark = [pytest.mark.timeout(3600), pytest.mark.filterwarnings("ignore")]

SCRIPTED = pytest.param("scripted", marks=pytest.mark.processes)
LLAMA_CPP = pytest.param("llama_cpp_url", marks=pytest.mark.newcomer)
VLLM = pytest.param("vllm_servers", marks=pytest.mark.vllm)
OWN = [pytest.param(fixture, marks=pytest.mark.weights) for fixture in ("own_llama_cpp_url", "own_vllm_url")]


@dataclass(frozen=True)
class Model:
    """Where it answers, and whether it follows instructions and needs room for its steps."""

    url: str
    able: bool = True


@pytest.fixture
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    if request.param == "scripted":
        with fake_server(FakeChat(write=guess)) as url:
            yield Model(url)
    elif request.param == "vllm_servers":
        yield Model(request.getfixturevalue("vllm_servers").generator, able=False)
    else:
        yield Model(request.getfixturevalue(request.param), able=request.param.startswith("own"))


def guess(body: dict, rng: Random) -> str:
    """An answer to any of the three tasks that is sometimes right."""
    asked = body["messages"][-1]["content"]
    if "A. " in asked:
        return f"Answer: {rng.choice('ABC')}"
    if signature := re.match(r"Write a Python function (\w+\(([^)]*)\))", asked):
        names = signature[2].split(", ")
        returned = rng.choice([" + ".join(names), f"len({names[0]})", f"2 * {names[0]}", f"{names[0]}[-1]"])
        return f"```python\ndef {signature[1]}:\n    return {returned}\n```"
    numbers = [int(number) for number in re.findall(r"\d+", asked)]
    return f"Answer: {rng.choice([sum(numbers), abs(numbers[0] - numbers[-1])])}"


def walk(folder: Path, prompts: Path, model: Model, *, task: str, max_tokens: int) -> str:
    """Init, collect, train, tune; returns what tune says. max_tokens: of a model that is not able."""
    url, allowed = model.url, ["--allow-code"] * (task == "code")
    described = [] if model.able else ["--system", "", "--max-tokens", max_tokens]
    router("init", folder, "--url", url, "--task", task, *(described or ["--max-tokens", 200]), url=url)
    attempts = folder / "attempts.parquet"
    router("collect", "--prompts", prompts, "--bundle", folder, "--attempts", 2, "--out", attempts, *allowed, url=url)
    said = router("train", attempts, "--bundle", folder, *allowed, url=url)
    assert "can't carry five levels" in said
    return router("tune", attempts, "--bundle", folder, *allowed, url=url)


def ask(base: str, prompt: str, **extra: object) -> openai.types.chat.ChatCompletion:
    with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=600) as client:
        return client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": prompt}],
            extra_body=extra or None,
        )


@pytest.mark.parametrize("model", [SCRIPTED, LLAMA_CPP, *OWN], indirect=True)
def test_sixty_word_problems(model, tmp_path):
    """So few can't carry levels: the best fixed arm is served, and tune says why."""
    folder, prompts = tmp_path / "mine", DATA / "word_problems.jsonl"
    said = walk(folder, prompts, model, task="math", max_tokens=64)
    assert "60 prompts can't carry five levels" in said
    assert "every prompt gets the best fixed arm of its budget" in said
    levels = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("level ")]
    assert len(levels) == 5
    assert len(set(levels)) == 1
    with serving(folder, url=model.url) as base:
        reply = ask(base, "I have 3 apples and get 4 more. How many do I have?")
    assert reply.choices[0].message.content
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0


@pytest.mark.parametrize("model", [SCRIPTED, LLAMA_CPP, VLLM, *OWN], indirect=True)
def test_choices(model, tmp_path):
    folder, prompts = tmp_path / "mine", DATA / "choices.jsonl"
    walk(folder, prompts, model, task="choice", max_tokens=24)
    one = json.loads(prompts.read_text().splitlines()[0])
    with serving(folder, url=model.url) as base:
        reply = ask(base, one["prompt"], router={"inputs": one["inputs"]})
    assert reply.choices[0].message.content


@pytest.mark.parametrize("model", [SCRIPTED, LLAMA_CPP, *OWN], indirect=True)
def test_functions(model, tmp_path):
    try:
        Sandbox(allow_code=True)
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    folder, prompts = tmp_path / "mine", DATA / "functions.jsonl"
    walk(folder, prompts, model, task="code", max_tokens=96)
    one = json.loads(prompts.read_text().splitlines()[0])
    with serving(folder, "--allow-code", url=model.url) as base:
        reply = ask(base, one["prompt"], router={"inputs": one["inputs"]})
    assert reply.choices[0].message.content
