"""LoRA fine-tuning of the verifier on labelled steps of sampled attempts: a scoring head, or a ranking language model.

All attempts at one prompt are read as one token tree. Right and wrong attempts have equal weight at each step, so
learning to tell hard prompts from easy ones gains nothing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, softplus
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, AutoTokenizer, Trainer

from router.backends.in_process.weights import device
from router.backends.template import ChatTemplate, Template, encode
from router.errors import InvalidFile
from router.prompt import Prompt
from router.training.examples import LabelledSteps
from router.training.finetune import RANK, batches, fresh_lora, mixed_precision, plain, run, with_lora

STEP = 8  # prompts' trees per optimizer step
TOKENS = {"cpu": 1, "cuda": 2_500}  # of trees read at once; the attention mask is as large as their number squared
SHARPNESS = 30.0  # factor of a mean log-probability: about the sum over a solution of this many tokens


def train_verifier(
    examples: Sequence[LabelledSteps],
    base: str,
    out: Path,
    template: Template | ChatTemplate,
    *,
    kind: str,
    start: Path | None = None,
    rank: int = RANK,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> None:
    """Fine-tune the model in ``base`` to tell right steps from wrong ones; save the adapter to ``out``.

    prm         one logit at each step's last token, binary cross-entropy (Snell et al., appendix D). ``start`` is the
                generator's adapter: a model that can write the steps is closer to one that can judge them
    likelihood  the mean log-probability of a solution up to a step, trained to be higher for right ones than for wrong
                ones at the same step of the same prompt (Bradley-Terry). ``start`` is a verifier trained on worked
                solutions

    Raises InvalidFile for another ``kind``.
    """
    if kind not in _TRAINERS:
        raise InvalidFile(f"a {kind} verifier can't be trained here, only {' and '.join(_TRAINERS)}")
    tokenizer = AutoTokenizer.from_pretrained(base)
    attempts: dict[Prompt, list[LabelledSteps]] = defaultdict(list)
    for example in examples:
        attempts[example.prompt].append(example)
    trees = [tree(tokenizer, encode(tokenizer, template.parts(prompt)), group) for prompt, group in attempts.items()]
    rows = [row for row in trees if any(row["right_weights"])]
    if kind == "prm":
        model = _with_head(base, start, rank)
    else:
        model = with_lora(plain(AutoModelForCausalLM, base), start, rank)
    batch = batches(rows, STEP, TOKENS[device().type])
    run(_TRAINERS[kind], model, rows, out, learning_rate=learning_rate, seed=seed, collator=pack_trees, batch=batch)


def _with_head(base: str, start: Path | None, rank: int) -> Any:
    if start:
        rank = peft.PeftConfig.from_pretrained(str(start)).r
    model = plain(AutoModelForTokenClassification, base, num_labels=1)
    # Large models' hidden states have large norms: a random head would begin confident and wrong.
    torch.nn.init.zeros_(model.score.weight)
    torch.nn.init.zeros_(model.score.bias)
    model = peft.get_peft_model(model, fresh_lora("TOKEN_CLS", rank, modules_to_save=["score"]))
    model.base_model.model.score.float()  # trained too, so in full precision
    if start:
        fresh_head = peft.get_peft_model_state_dict(model)
        peft.set_peft_model_state_dict(model, fresh_head | load_file(start / "adapter_model.safetensors"))
    return model


def tree(tokenizer: Any, context: Sequence[int], attempts: Sequence[LabelledSteps]) -> dict[str, list[Any]]:
    """Return all attempts at one prompt as one token tree: a prefix that several share is read and learned once.

    context        the prompt's tokens

    parents        index of each token's predecessor, -1 for the first
    positions      position of each token in its own attempt
    written        whether the token belongs to an attempt and not to the prompt
    steps          number of the step, from 1, that ends with this token and teaches something; else 0
    right_weights, wrong_weights  weights of the two terms in the loss, at the last token of each step; else 0. Right
                   and wrong attempts weigh the same at each step number of a prompt, so nothing is learned from knowing
                   which prompts are hard. A step number where all attempts are right, or all wrong, teaches nothing
    """
    ids = list(context)
    parents = list(range(-1, len(ids) - 1))
    positions = list(range(len(ids)))
    root = len(ids) - 1
    children: dict[tuple[int, int], int] = {}
    right: dict[tuple[int, int], float] = defaultdict(float)  # by step number and token: attempts, or fractions
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
    steps = [0] * len(ids)
    right_total, wrong_total = _by_step_number(right), _by_step_number(wrong)
    for (number, node), mass in right.items():
        if right_total[number] > 0 and wrong_total[number] > 0:
            steps[node] = number + 1
            weights["right_weights"][node] += mass / right_total[number] / 2
            weights["wrong_weights"][node] += wrong[number, node] / wrong_total[number] / 2
    written = [token > root for token in range(len(ids))]
    return {"input_ids": ids, "parents": parents, "positions": positions, "written": written, "steps": steps, **weights}


def _by_step_number(masses: Mapping[tuple[int, int], float]) -> dict[int, float]:
    totals: dict[int, float] = defaultdict(float)
    for (number, _), mass in masses.items():
        totals[number] += mass
    return totals


def pack_trees(rows: Sequence[dict[str, list[Any]]]) -> dict[str, torch.Tensor]:
    """Pack several trees in one sequence without padding; a token attends to itself and its ancestors only.

    Returns ``input_ids``, ``position_ids``, ``parents``, ``steps`` and both weights as [1, tokens], ``attention_mask``
    [1, 1, tokens, tokens]. Steps of different trees have different numbers.
    """
    tokens = sum(len(row["input_ids"]) for row in rows)
    sees = torch.zeros((tokens, tokens), dtype=torch.bool)
    parents: list[int] = []
    steps: list[int] = []
    for row in rows:
        start, before = len(parents), max(steps, default=0)
        for i, parent in enumerate(row["parents"], start):
            if parent >= 0:
                sees[i] = sees[start + parent]
            sees[i, i] = True
        parents += [start + parent for parent in row["parents"]]
        steps += [before + step if step else 0 for step in row["steps"]]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([[value for row in rows for value in row[name]]])

    return {
        "input_ids": column("input_ids"),
        "position_ids": column("positions"),
        "attention_mask": sees[None, None],
        "parents": torch.tensor([parents]),
        "steps": torch.tensor([steps]),
        **{name: column(name) for name in ("written", "right_weights", "wrong_weights")},
    }


class _ScoringTrainer(Trainer):
    """Weighted binary cross-entropy at the last token of each step; labels may be soft."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        right, wrong = inputs["right_weights"], inputs["wrong_weights"]
        with mixed_precision(right.device):
            logits = model(**_read(inputs)).logits[..., 0].float()
        return (right * softplus(-logits) + wrong * softplus(logits)).sum() / (right + wrong).sum()


class _RankingTrainer(Trainer):
    """Bradley-Terry loss over all pairs of a right and a wrong attempt at the same step, by the score that is served.

    An attempt with a soft label counts on both sides, with its share.
    """

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        parents, steps, written = (inputs[name][0] for name in ("parents", "steps", "written"))
        tokens = inputs["input_ids"][0, written]
        causal = model.get_base_model()
        with mixed_precision(parents.device):
            hidden = causal.base_model(**_read(inputs)).last_hidden_state[0]
            logits = causal.lm_head(hidden[parents[written]])
        log_probs = -cross_entropy(logits.float(), tokens, reduction="none")
        ends = steps > 0
        path = inputs["attention_mask"][0, 0][ends][:, written].float()  # [ends of steps, tokens before them]
        scores = SHARPNESS * (path @ log_probs) / path.sum(1)
        right, wrong = inputs["right_weights"][0, ends], inputs["wrong_weights"][0, ends]
        pairs = torch.outer(right, wrong) * (steps[ends][:, None] == steps[ends])
        return (pairs * softplus(scores - scores[:, None])).sum() / pairs.sum()


def _read(inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the model's inputs, with an additive attention mask: 0, or the lowest float where attention is blocked."""
    sees = inputs["attention_mask"]
    hidden = torch.zeros(sees.shape, device=sees.device).masked_fill_(~sees, torch.finfo(torch.float32).min)
    return {"input_ids": inputs["input_ids"], "position_ids": inputs["position_ids"], "attention_mask": hidden}


_TRAINERS = {"prm": _ScoringTrainer, "likelihood": _RankingTrainer}
