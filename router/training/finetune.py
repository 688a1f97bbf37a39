"""LoRA fine-tuning of the embedded model on worked solutions.

The loop is transformers' Trainer and the adapter is peft's; this module defines what an example looks like and its
loss. Started again with the same output folder, training resumes from the last checkpoint.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from router.backends.in_process.weights import device, fastest_dtype
from router.backends.template import ChatTemplate, Template, encode
from router.training.examples import Example
from strategies import Earlier

RANK = 8  # default rank of LoRA
BATCH = 24  # examples per optimizer step
LORA = {
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
IGNORED = -100
# Tokens per pass, padding included: their activations for backpropagation take 10 GB on a CPU, up to 80 on a GPU.
TOKENS = {"cpu": 2_500, "cuda": 40_000}
SAVE_STEPS = {"cpu": 20, "cuda": 200}  # steps between checkpoints: about a minute


def train_generator(
    examples: Sequence[Example],
    base: str,
    out: Path,
    template: Template | ChatTemplate,
    *,
    start: Path | None = None,
    rank: int = RANK,
    batch_size: int = BATCH,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> None:
    """Fine-tune the model in ``base`` to write the completions, each ended by EOS; save the adapter to ``out``.

    start       an adapter to continue from, which has its own rank
    batch_size  examples per optimizer step
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = []
    for example in examples:
        context = list(encode(tokenizer, template.parts(example.prompt, [Earlier(text) for text in example.earlier])))
        target = [*tokenizer.encode(example.completion, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append({"input_ids": context + target, "labels": [IGNORED] * len(context) + target})
    attention = "sdpa" if device().type == "cuda" else "eager"
    model = with_lora(plain(AutoModelForCausalLM, base, attention), start, rank)
    batch = batches(rows, batch_size, TOKENS[device().type])
    run(_GeneratorTrainer, model, rows, out, learning_rate=learning_rate, seed=seed, collator=_pad, batch=batch)


def batches(rows: Sequence[dict[str, list[Any]]], size: int, tokens: int) -> tuple[int, int]:
    """Return how many rows are computed at once, and how many such passes make a step of ``size`` rows.

    tokens  the most that fit in one pass
    """
    fits = max(1, tokens // max(len(row["input_ids"]) for row in rows))
    at_once = next(n for n in range(min(fits, size), 0, -1) if size % n == 0)
    return at_once, size // at_once


def plain(kind: Any, base: str, attention: str = "eager", **options: Any) -> Any:
    """Load the model. Its weights are not trained (see ``with_lora``), so they may be rounded.

    Attention is plain: fused attention costs more than it saves at a hundred tokens on a CPU, and everywhere under the
    mask of a tree.
    """
    return kind.from_pretrained(base, dtype=fastest_dtype(), attn_implementation=attention, **options)


def with_lora(model: Any, start: Path | None, rank: int) -> Any:
    if start:
        return peft.PeftModel.from_pretrained(model, str(start), is_trainable=True)
    return peft.get_peft_model(model, fresh_lora("CAUSAL_LM", rank))


def fresh_lora(task_type: str, rank: int, **options: Any) -> peft.LoraConfig:
    return peft.LoraConfig(task_type=task_type, r=rank, lora_alpha=2 * rank, **LORA, **options)


class _GeneratorTrainer(Trainer):
    """Cross-entropy on the completion. Logits (49,152 per token) are computed only there."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")[:, 1:]
        causal = model.get_base_model()
        learned = labels != IGNORED
        with mixed_precision(labels.device):
            hidden = causal.base_model(**inputs).last_hidden_state[:, :-1]
            logits = causal.lm_head(hidden[learned])
        return cross_entropy(logits.float(), labels[learned])


def mixed_precision(device: torch.device) -> torch.autocast:
    native = device.type != "cpu" or fastest_dtype() is torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def run(
    trainer: type[Trainer],
    model: torch.nn.Module,
    rows: list[dict[str, list[Any]]],
    out: Path,
    *,
    learning_rate: float,
    seed: int,
    collator: Callable[[Any], dict[str, torch.Tensor]],
    batch: tuple[int, int],
) -> None:
    """Train, and save the adapter to ``out``. ``batch``: see :func:`batches`."""
    checkpoints = out.with_name(out.name + ".checkpoints")
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=batch[0],
        gradient_accumulation_steps=batch[1],
        num_train_epochs=1,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        train_sampling_strategy="group_by_length",  # padding costs computation, too
        logging_steps=SAVE_STEPS[device().type] // 4,
        save_steps=SAVE_STEPS[device().type],
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        seed=seed,
    )
    resume = get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None
    trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train(
        resume_from_checkpoint=resume
    )
    _save(model, out)
    shutil.rmtree(checkpoints)


def _pad(rows: list[dict[str, list[Any]]]) -> dict[str, torch.Tensor]:
    """Right-pad a batch: ``input_ids``, ``attention_mask`` and ``labels``, each [batch, longest]."""
    longest = max(len(row["input_ids"]) for row in rows)

    def column(name: str, fill: Any) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])

    mask = [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
    return {
        "input_ids": column("input_ids", 0),
        "labels": column("labels", IGNORED),
        "attention_mask": torch.tensor(mask),
    }


def _save(model: peft.PeftModel, out: Path) -> None:
    """Save the adapter in half precision: a few megabytes, no measurable difference.

    One rename at the end makes sure that no incomplete adapter is ever found.
    """
    partial = out.with_name(out.name + ".partial")
    model.half().save_pretrained(str(partial))
    config = partial / "adapter_config.json"
    # peft stores a path on this machine; the manifest names the model instead.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None}, indent=2) + "\n")
    (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
