"""LoRA fine-tuning of the embedded model: the generator on worked solutions, the verifier on labelled steps.

The loops are transformers' Trainer and peft's adapters; here is only what one example looks like and what its loss is.
Both resume from the last checkpoint when started again with the same output folder.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, softplus
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
from router.backends.weights import fastest_dtype

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
    # Plain attention: at a hundred tokens the fused one costs more than it saves.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    model = _with_lora(model, start)
    _train(_GeneratorTrainer, model, rows, out, learning_rate=learning_rate, seed=seed, collator=_pad, batch=(24, 1))


def _with_lora(model: Any, start: Path | None) -> Any:
    if start:
        return peft.PeftModel.from_pretrained(model, str(start), is_trainable=True)
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **LORA))


class _GeneratorTrainer(Trainer):
    """Cross-entropy on the completion, with logits (49,152 a token) computed nowhere else."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        labels = inputs.pop("labels")[:, 1:]
        causal = model.get_base_model()
        learned = labels != IGNORED
        with _mixed_precision(labels.device):
            hidden = causal.base_model(**inputs).last_hidden_state[:, :-1]
            logits = causal.lm_head(hidden[learned])
        return cross_entropy(logits.float(), labels[learned])


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
    attempts: dict[str, list[LabelledSteps]] = defaultdict(list)
    for example in examples:
        attempts[example.prompt].append(example)
    trees = [tree(tokenizer, template.render(prompt), group) for prompt, group in attempts.items()]
    rows = [row for row in trees if any(row["right_weights"])]
    model = AutoModelForTokenClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="TOKEN_CLS", modules_to_save=["score"], **LORA))
    if start:
        fresh_head = peft.get_peft_model_state_dict(model)
        peft.set_peft_model_state_dict(model, fresh_head | load_file(start / "adapter_model.safetensors"))
    _train(
        _VerifierTrainer, model, rows, out, learning_rate=learning_rate, seed=seed, collator=pack_trees, batch=(1, 8)
    )


def tree(tokenizer: Any, context: str, attempts: Sequence[LabelledSteps]) -> dict[str, list[Any]]:
    """All attempts at one prompt as one token tree: a prefix that many share is read, and learned, once.

    parents        index of each token's predecessor, -1 for the first
    positions      of each token in its own attempt
    right_weights, wrong_weights  at the last token of each step, else 0: of its two terms in the loss. Right and wrong
                   attempts weigh the same at each step number of a prompt, so nothing is learned from knowing which
                   prompts are hard, and a step number where all are right, or all wrong, teaches nothing
    """
    ids: list[int] = tokenizer.encode(context)
    parents = list(range(-1, len(ids) - 1))
    positions = list(range(len(ids)))
    root = len(ids) - 1
    children: dict[tuple[int, int], int] = {}
    right: dict[tuple[int, int], float] = defaultdict(float)  # by step number and token index: attempts, fractions too
    wrong: dict[tuple[int, int], float] = defaultdict(float)
    for attempt in attempts:
        node = root
        for number, (step, label) in enumerate(zip(attempt.steps, attempt.labels, strict=True)):
            for token in tokenizer.encode(step, add_special_tokens=False):
                if (node, token) not in children:
                    children[node, token] = len(ids)
                    ids.append(token)
                    parents.append(node)
                    positions.append(positions[node] + 1)
                node = children[node, token]
            right[number, node] += attempt.count * label
            wrong[number, node] += attempt.count * (1 - label)
    weights = {"right_weights": [0.0] * len(ids), "wrong_weights": [0.0] * len(ids)}
    right_total, wrong_total = _by_step_number(right), _by_step_number(wrong)
    for (number, node), mass in right.items():
        if right_total[number] > 0 and wrong_total[number] > 0:
            weights["right_weights"][node] += mass / right_total[number] / 2
            weights["wrong_weights"][node] += wrong[number, node] / wrong_total[number] / 2
    return {"input_ids": ids, "parents": parents, "positions": positions, **weights}


def _by_step_number(masses: Mapping[tuple[int, int], float]) -> dict[int, float]:
    totals: dict[int, float] = defaultdict(float)
    for (number, _), mass in masses.items():
        totals[number] += mass
    return totals


def pack_trees(rows: Sequence[dict[str, list[Any]]]) -> dict[str, torch.Tensor]:
    """Several trees as one sequence without padding; a token attends to itself and its ancestors only.

    Returns ``input_ids``, ``position_ids`` and both weights as [1, tokens], ``attention_mask`` [1, 1, tokens, tokens].
    """
    tokens = sum(len(row["input_ids"]) for row in rows)
    sees = torch.zeros((tokens, tokens), dtype=torch.bool)
    start = 0
    for row in rows:
        for i, parent in enumerate(row["parents"], start):
            if parent >= 0:
                sees[i] = sees[start + parent]
            sees[i, i] = True
        start += len(row["parents"])

    def column(name: str) -> torch.Tensor:
        return torch.tensor([[value for row in rows for value in row[name]]])

    return {
        "input_ids": column("input_ids"),
        "position_ids": column("positions"),
        "attention_mask": sees[None, None],
        "right_weights": column("right_weights"),
        "wrong_weights": column("wrong_weights"),
    }


class _VerifierTrainer(Trainer):
    """Weighted binary cross-entropy at the last token of each step; labels may be soft (Snell et al., appendix D)."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        right, wrong = inputs.pop("right_weights"), inputs.pop("wrong_weights")
        with _mixed_precision(right.device):
            logits = model(**inputs).logits[..., 0].float()
        return (right * softplus(-logits) + wrong * softplus(logits)).sum() / (right + wrong).sum()


def _mixed_precision(device: torch.device) -> torch.autocast:
    native = device.type != "cpu" or fastest_dtype() is torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def _train(
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
    """``batch``: examples computed at once, and how many of those to a step."""
    checkpoints = out.with_name(out.name + ".checkpoints")
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=batch[0],
        gradient_accumulation_steps=batch[1],
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
    """In half precision: a few megabytes, no measurable difference. In one rename: a torn adapter is never found."""
    partial = out.with_name(out.name + ".partial")
    model.half().save_pretrained(str(partial))
    config = partial / "adapter_config.json"
    # peft notes a path on this machine; the manifest names the model.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None}, indent=2) + "\n")
    (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
