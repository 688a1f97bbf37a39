"""What the models are fine-tuned on."""

import json
from dataclasses import dataclass
from pathlib import Path

from router.errors import InvalidFile


@dataclass(frozen=True, slots=True)
class Example:
    """One solution to learn from: ``earlier`` attempts are context only, the loss is on ``completion``."""

    prompt: str
    completion: str
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledSteps:
    """One attempt to judge: a target in [0, 1] for each of its ``steps``, which keep their delimiter."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[float, ...]


def read_examples(path: Path) -> list[Example]:
    """JSON Lines with the fields of :class:`Example`, ``earlier`` optional. Raises InvalidFile naming the line."""
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFile(f"{path} can't be read as text: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            examples.append(_example(line, f"{path}, line {number}"))
    if not examples:
        raise InvalidFile(f"{path} holds no examples; write {_EXPECTED} a line")
    return examples


_EXPECTED = '{"prompt": "...", "completion": "...", "earlier": ["..."]}'


def _example(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidFile(f"{where}: not JSON ({error}); write {_EXPECTED}") from error
    if not isinstance(row, dict) or not {"prompt", "completion"} <= set(row) <= {"prompt", "completion", "earlier"}:
        raise InvalidFile(f"{where}: the keys must be as in {_EXPECTED}, of which earlier may be left out")
    earlier = row.get("earlier", [])
    texts = [row["prompt"], row["completion"], *(earlier if isinstance(earlier, list) else [None])]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidFile(f"{where}: prompt and completion must be strings, earlier a list of strings")
    return Example(row["prompt"], row["completion"], tuple(earlier))
