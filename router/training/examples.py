"""Training examples for fine-tuning."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.errors import InvalidFile
from router.jsonl import read_jsonl
from router.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Example:
    """One solution to learn from: ``earlier`` attempts are context only, the loss is on ``completion``."""

    prompt: Prompt
    completion: str
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """One attempt with a target in [0, 1] for each of its ``steps``, which keep their delimiter.

    ``count`` is how often it was sampled.
    """

    prompt: Prompt
    steps: tuple[str, ...]
    labels: tuple[float, ...]
    count: int = 1


def read_examples(path: Path) -> list[Example]:
    """Read JSON Lines with the fields of :class:`Example`; ``earlier`` is optional, messages may replace prompt.

    Raises InvalidFile, naming the line.
    """
    examples = [_example(row, where) for _, where, row in read_jsonl(path, f"write {_EXPECTED} a line")]
    if not examples:
        raise InvalidFile(f"{path} holds no examples; write {_EXPECTED} a line")
    return examples


_EXPECTED = '{"prompt": "...", "completion": "...", "earlier": ["..."]}'


def _example(row: dict[str, Any], where: str) -> Example:
    if set(row) - {"earlier"} not in ({"prompt", "completion"}, {"messages", "completion"}):
        raise InvalidFile(f"{where}: the keys must be as in {_EXPECTED}; earlier is optional")
    earlier = row.get("earlier", [])
    texts = [row.get("prompt", ""), row["completion"], *(earlier if isinstance(earlier, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidFile(f"{where}: prompt and completion must be strings, earlier a list of strings")
    try:
        prompt = Prompt.read(row["prompt"] if "prompt" in row else row["messages"])
    except ValueError as error:
        raise InvalidFile(f"{where}: {error}") from error
    return Example(prompt, row["completion"], tuple(earlier))
