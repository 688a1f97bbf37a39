"""A bundle folder to begin with: ``models.json`` for one model, and a README that explains it and the next steps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.backends.specs import Setup
from router.bundle.setup import MODELS
from router.schema import read

INSTRUCTIONS: Mapping[str, str] = {
    "math": "Reason step by step. End with one line: Answer: <the final answer>",
    "number": "Reason step by step. End with one line: Answer: <the number>",
    "choice": "Think it over briefly. End with one line: Answer: <the letter>",
    "exact": "Think it over briefly. End with one line: Answer: <the answer>",
    "json": "Answer with one JSON object in a code block, and nothing else.",
    "code": "Answer with one Python code block, and nothing else.",
}
_PLAIN: Mapping[str, dict[str, Any]] = {  # for servers whose defaults would change the distribution of samples
    "vllm": {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": {"top_k": 0, "min_p": 0.0},
}
# What ends a step; other tasks end it at each line.
_DELIMITERS = {"code": "\n\n", "json": "\n\n"}


def starter(
    folder: Path,
    *,
    name: str,
    model: str,
    parameters: int,
    backend: str,
    task: str,
    system: str | None,
    temperature: float,
    max_tokens: int,
    owner: str = "",
    url: str | None = None,
) -> list[Path]:
    """Write the folder's files and return them.

    system  system message where a prompt has none; None: one that suits the task
    owner   name of the server's software, as the server gives it

    Raises ValueError where the arguments don't describe a model.
    """
    template: dict[str, Any] = {"delimiter": _DELIMITERS.get(task, "\n")}
    told = INSTRUCTIONS.get(task) if system is None else system
    if told:
        template["default_system"] = told
    entry: dict[str, Any] = {
        "model": model,
        "parameters": parameters,
        "template": template,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "backend": backend,
    }
    if backend == "openai" and owner in _PLAIN:
        entry["endpoint"] = {"extra_body": _PLAIN[owner]}
    described = {
        "name": folder.resolve().name,
        "task": task,
        "reference": name,
        "models": {name: entry},
        "verifier": {"kind": "log_prob", "adapter": None, "parameters": 0},
    }
    read(Setup, described)
    folder.mkdir(parents=True, exist_ok=True)
    models, readme = folder / MODELS, folder / "README.md"
    models.write_text(json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    readme.write_text(_readme(folder, name, entry, task, url))
    return [models, readme]


def _readme(folder: Path, name: str, entry: Mapping[str, Any], task: str, url: str | None) -> str:
    at = (
        f'export ROUTER_URL="{name}={url}"              # where the model answers; every command reads it\n'
        if url
        else ""
    )
    code = " --allow-code" if task == "code" else ""
    inputs = {
        "choice": ', "inputs": {"choices": ["red", "seven"]}',
        "code": ', "inputs": {"tests": ["assert add(1, 2) == 3"]}',
    }.get(task, "")
    reference = {"choice": "A", "code": "assert add(2, 5) == 7", "json": '{\\"total\\": 7}'}.get(task, "7")
    return f"""# {folder.resolve().name}

An unfinished bundle: `{MODELS}` describes the model, the verifier and the task. The commands below add the difficulty
model and the policy; then it can be served.

## {MODELS}

JSON has no comments, so they are here.

| key | now | what it is |
|---|---|---|
| `task` | `{task}` | how answers are found and compared: math, number, choice, exact, json, code, or module:object |
| `reference` | `{name}` | the model whose solutions budgets are counted in. Arms can use others that `models` has |
| `model` | `{entry["model"]}` | {_MODEL[entry["backend"]]} |
| `parameters` | {entry["parameters"]} | weights that a token passes through, for FLOPs. It may be a guess: check it |
| `template` | | {_TEMPLATE[entry["backend"]]} |
| `delimiter` | | the text that ends a step of a solution |
| `default_system` | | the system message where a prompt has none. It should ask for the form of the answer |
| `temperature` | {entry["temperature"]} | sampling temperature. Use 0.6 to 1.0: samples of one prompt must differ |
| `max_tokens` | {entry["max_tokens"]} | the longest solution, in tokens. A solution that is cut has no answer |
| `backend` | `{entry["backend"]}` | what runs the model |
| `verifier` | `log_prob` | what scores solutions: here the model's own log-probabilities, which cost nothing |

Don't write a server's API key here: set `ROUTER_ENGINE_API_KEY`.

## What is next

Prompts are JSON Lines, with the right answers. Keep some apart for `evaluate`:

```json
{{"prompt": "…"{inputs}, "reference": "{reference}"}}
```

```console
{at}router check --bundle {folder}                 # is everything there that the bundle needs?
router collect --prompts tune.jsonl --bundle {folder} --attempts 16 --out {folder}/attempts.parquet{code}
router train {folder}/attempts.parquet --bundle {folder}{code}
router tune {folder}/attempts.parquet --bundle {folder}{code}
router serve --bundle {folder}{code}
router solve "…"
```
"""


_MODEL = {
    "openai": "the name that the server has for it",
    "vllm": "a folder or hub id that transformers loads, for the tokenizer; vLLM serves the same",
    "in_process": "a folder or hub id that transformers loads",
    "fake": "any text: the model is scripted",
}
_TEMPLATE = {
    "openai": "the chat template is the server's",
    "vllm": "the chat template is the tokenizer's",
    "in_process": "the chat template is the tokenizer's",
    "fake": "there is none",
}
