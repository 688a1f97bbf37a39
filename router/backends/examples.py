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
            try:
                row = json.loads(line)
                examples.append(Example(row["prompt"], row["completion"], tuple(row.get("earlier", ()))))
                unknown = set(row) - {"prompt", "completion", "earlier"}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidFile(
                    f'{path}, line {number}: expected {{"prompt": ..., "completion": ...}} ({error!r}); repair the line'
                ) from error
            if unknown:
                raise InvalidFile(f"{path}, line {number}: unknown key {min(unknown)!r}; remove it")
    return examples
