"""Qwen2.5-Coder-0.5B-Instruct, which gets word problems and functions right more often than the embedded model.

`make test-weights` fetches it into build/. TEST_WEIGHTS names another folder; its GGUF file lies beside it.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NAME = "qwen2.5-coder-0.5b"


def folder() -> Path:
    """For transformers and vLLM."""
    return _there(Path(os.environ.get("TEST_WEIGHTS") or ROOT / "build" / NAME))


def gguf() -> Path:
    """For llama.cpp."""
    return _there(folder().with_name(folder().name + ".gguf"))


def _there(path: Path) -> Path:
    assert path.exists(), f"{path} is missing; `make test-weights` fetches it"
    return path
