"""Published process reward models in this process, with classes for those that transformers has none for."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2Model, Qwen2PreTrainedModel
from transformers import logging as transformers_logging

from router.backends import Usage
from router.backends.in_process.calls import TORCH_ERRORS, failed
from router.backends.in_process.weights import model_folder
from router.backends.prm import FORMATS, Reading, ReadingVerifier, label_ids
from router.backends.specs import VerifierSpec
from router.errors import EngineUnavailable, MissingWeights

TOKENS = 8192  # read at once, padding included
log = logging.getLogger(__name__)


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Qwen2.5-Math-PRM: logits of a bad and a good step at every position."""

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, 2)
        )
        self.post_init()

    def head(self, hidden: torch.Tensor) -> Any:
        return self.score(hidden)


class Qwen2ForPrmModel(Qwen2PreTrainedModel):
    """Skywork-o1-Open-PRM: one logit at every position."""

    _keys_to_ignore_on_load_unexpected = [r"lm_head\."]  # noqa: RUF012 - as the base class has it

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.v_head = nn.ModuleDict({"summary": nn.Linear(config.hidden_size, 1)})
        self.post_init()

    def head(self, hidden: torch.Tensor) -> Any:
        return self.v_head["summary"](hidden)


_CLASSES: dict[str, Any] = {
    "classes": Qwen2ForProcessRewardModel,
    "value": Qwen2ForPrmModel,
    "labels": AutoModelForCausalLM,
}


def load(spec: VerifierSpec) -> ReadingVerifier:
    """Load the model in float32. Raises MissingWeights."""
    if spec.model is None:
        raise MissingWeights(f"a {spec.kind} verifier needs a model: the folder or hub id of its weights")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    folder = model_folder(spec.model)
    kind = _CLASSES[FORMATS[spec.kind].head]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingWeights(f"can't load {spec.model!r}: {error}. Name a folder that holds the model") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[:3]
        raise MissingWeights(f"{spec.model!r} is no {spec.kind} model: it lacks {', '.join(missing)}")
    reader = TransformersReader(model.eval(), label_ids(spec.kind, tokenizer))
    return ReadingVerifier(FORMATS[spec.kind].reading(tokenizer), spec.parameters, reader, question_alone=True)


def _parts(readings: Sequence[Reading]) -> Iterator[list[int]]:
    """Yield the indices of readings of similar length to compute together, up to :data:`TOKENS` with padding."""
    part: list[int] = []
    for i in sorted(range(len(readings)), key=lambda i: len(readings[i].tokens)):
        if part and (len(part) + 1) * len(readings[i].tokens) > TOKENS:
            yield part
            part = []
        part.append(i)
    if part:
        yield part


class TransformersReader:
    """See :class:`router.backends.prm.Reader`. Has a thread of its own.

    labels  ids of the good and the bad label, for a language model whose next token is the verdict; else None
    """

    def __init__(self, model: Any, labels: tuple[int, int] | None):
        self.model = model
        self.context = int(model.config.max_position_embeddings)
        self.labels = labels
        self._thread = ThreadPoolExecutor(1, "reward-model")

    async def room(self) -> int:
        return self.context

    async def scores(self, readings: Sequence[Reading], usage: Usage) -> list[list[float]]:
        usage.calls += 1
        usage.scored_tokens += sum(len(reading.tokens) for reading in readings)
        loop = asyncio.get_running_loop()
        scores: dict[int, list[float]] = {}
        for part in _parts(readings):  # other calls come in between, and a cancelled one ends with its part
            try:
                found = await loop.run_in_executor(self._thread, self._scores, [readings[i] for i in part])
            except TORCH_ERRORS as error:
                log.exception("a verifier's batch failed")
                raise EngineUnavailable(failed(error)) from error
            scores |= dict(zip(part, found, strict=True))
        return [scores[i] for i in range(len(readings))]

    @torch.inference_mode()
    def _scores(self, readings: Sequence[Reading]) -> list[list[float]]:
        longest = max(len(reading.tokens) for reading in readings)
        padding = [longest - len(reading.tokens) for reading in readings]  # on the right, where no token sees it
        hidden = self.model.base_model(
            input_ids=torch.tensor([[*each.tokens, *[0] * pad] for each, pad in zip(readings, padding, strict=True)]),
            attention_mask=torch.tensor([[1] * (longest - pad) + [0] * pad for pad in padding]),
        ).last_hidden_state
        return [self._read(row[list(reading.at)]) for row, reading in zip(hidden, readings, strict=True)]

    def _read(self, hidden: torch.Tensor) -> list[float]:
        """Return scores from the hidden states at the steps' positions."""
        if self.labels:
            logits = self.model.get_output_embeddings()(hidden)[:, list(self.labels)]
            scores = logits.softmax(-1)[:, 0]
        else:
            logits = self.model.head(hidden)
            scores = logits.softmax(-1)[:, 1] if logits.shape[-1] == 2 else logits[:, 0].sigmoid()
        values: list[float] = scores.tolist()
        return values

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)
