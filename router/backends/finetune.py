"""LoRA fine-tuning of the embedded model: the generator on worked solutions, the verifier on labelled steps.

The loops are transformers' Trainer and peft's adapters; here is only what one example looks like and what its loss is.
Both resume from the last checkpoint when started again with the same output folder.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from router.backends.examples import Example, LabelledSteps
from router.backends.template import Template

LORA = {
    "r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
IGNORED = -100


def train_generator(
    examples: Sequence[Example],
    base: str,
    out: Path,
    template: Template,
    *,
    start: Path | None = None,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> None:
    """Fine-tune the model in ``base`` to write the completions, each ended by EOS; save the adapter to ``out``.

    ``start`` is an adapter to go on from.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = []
    for example in examples:
        context = tokenizer.encode(template.render(example.prompt, example.earlier))
        target = [*tokenizer.encode(example.completion, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append({"input_ids": context + target, "labels": [IGNORED] * len(context) + target})
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = _with_lora(model, start)
    _train(_GeneratorTrainer, model, rows, out, learning_rate=learning_rate, seed=seed)


def _with_lora(model: Any, start: Path | None) -> Any:
    if start:
        return peft.PeftModel.from_pretrained(model, str(start), is_trainable=True)
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **LORA))


class _GeneratorTrainer(Trainer):
    """Cross-entropy on the completion, with logits (49,152 a token) computed nowhere else."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")[:, 1:]
        causal = model.get_base_model()
        hidden = causal.base_model(**inputs).last_hidden_state[:, :-1]
        learned = labels != IGNORED
        return cross_entropy(causal.lm_head(hidden[learned]), labels[learned])


def train_verifier(
    examples: Sequence[LabelledSteps],
    base: str,
    out: Path,
    template: Template,
    *,
    start: Path | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Fine-tune the model in ``base`` to score steps: one logit at each step's last token, binary cross-entropy.

    ``start`` is the generator's adapter: a model that can write the steps is closer to one that can judge them.
    Saves a token-classification adapter with its head to ``out``.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = []
    for example in examples:
        ids = tokenizer.encode(template.render(example.prompt))
        labels = [float(IGNORED)] * len(ids)
        for step, label in zip(example.steps, example.labels, strict=True):
            tokens = tokenizer.encode(step, add_special_tokens=False)
            ids += tokens
            labels += [float(IGNORED)] * (len(tokens) - 1) + [label]
        rows.append({"input_ids": ids, "labels": labels})
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="TOKEN_CLS", modules_to_save=["score"], **LORA))
    if start:
        fresh_head = peft.get_peft_model_state_dict(model)
        peft.set_peft_model_state_dict(model, fresh_head | load_file(start / "adapter_model.safetensors"))
    _train(_VerifierTrainer, model, rows, out, learning_rate=learning_rate, seed=seed)


class _VerifierTrainer(Trainer):
    """Binary cross-entropy at the last token of each step; labels may be soft (Snell et al., appendix D)."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")
        logits = model(**inputs).logits[..., 0]
        judged = labels != IGNORED
        return binary_cross_entropy_with_logits(logits[judged], labels[judged])


def _train(
    trainer: type[Trainer],
    model: torch.nn.Module,
    rows: list[dict[str, list[Any]]],
    out: Path,
    *,
    learning_rate: float,
    seed: int,
) -> None:
    checkpoints = out.with_name(out.name + ".checkpoints")
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=8,  # small batches of similar lengths: little padding, no huge activations
        gradient_accumulation_steps=3,
        num_train_epochs=1,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        train_sampling_strategy="group_by_length",  # padding is computed too
        logging_steps=5,
        save_steps=20,
        save_total_limit=1,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=False,
        seed=seed,
    )
    resume = get_last_checkpoint(str(checkpoints)) if checkpoints.exists() else None
    trainer(model=model, args=arguments, train_dataset=rows, data_collator=_pad).train(resume_from_checkpoint=resume)
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
    """In half precision: a few megabytes, no measurable difference. In one rename: a torn adapter is never found."""
    partial = out.with_name(out.name + ".partial")
    model.peft_config["default"].base_model_name_or_path = None  # a path on this machine; the manifest names the model
    model.half().save_pretrained(str(partial))
    (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
