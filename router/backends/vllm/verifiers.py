"""Verifiers on vLLM's server: published reward models, and language models that rate how likely a solution is."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import exp
from typing import Any, TypeVar

from router.backends import Usage
from router.backends.prm import Reading
from router.backends.replicas import Replicas
from router.backends.vllm.server import PLAIN, Served, look, token_count

_Read = TypeVar("_Read")


class _VllmReader:
    """See :class:`router.backends.prm.Reader`. ``name``: the model's name on the server; None: the first one served."""

    written = 1  # tokens that the server insists on writing, for which the context needs room

    def __init__(self, replicas: Replicas, name: str | None = None):
        self.replicas = replicas
        self.name = name
        self._served: Served | None = None

    async def room(self) -> int:
        return (await self._look()).context - self.written

    async def _look(self) -> Served:
        self._served = self._served or await look(self.replicas, self.name)
        return self._served

    async def _post(self, path: str, body: dict[str, Any], load: int, read: Callable[[Any], _Read]) -> _Read:
        model = self.name or (await self._look()).base
        return await self.replicas.post(path, {**body, "model": model}, read, load=load)

    async def close(self) -> None:
        await self.replicas.close()


class VllmClassifier(_VllmReader):
    """Scores from a classifier at /pooling. The server reads every solution whole, each time."""

    written = 0

    async def scores(self, readings: Sequence[Reading], usage: Usage) -> list[list[float]]:
        body = {"input": [reading.tokens for reading in readings], "task": "token_classify"}

        def read(answer: Any) -> tuple[list[list[float]], int]:
            rows = _in_order(answer["data"], len(readings))
            scores = [[float(good) for _, good in row["data"]] for row in rows]
            return scores, token_count(answer["usage"]["prompt_tokens"])

        scores, tokens = await self._post("/pooling", body, len(readings), read)
        usage.add(calls=1, scored_tokens=tokens)
        return scores


class VllmLabels(_VllmReader):
    """Scores from a language model: its preference, after each step, for the good of two ``labels`` in its vocabulary.

    Each step is a request that generates one token, since vLLM's pooling drops the vocabulary's head. The prefix cache
    spares most of the reading.
    """

    def __init__(self, replicas: Replicas, labels: tuple[int, int], name: str | None = None):
        super().__init__(replicas, name)
        self.labels = labels

    async def scores(self, readings: Sequence[Reading], usage: Usage) -> list[list[float]]:
        prompts = [reading.tokens[: at + 1] for reading in readings for at in reading.at]
        body: dict[str, Any] = {
            **PLAIN,
            "prompt": prompts,
            "max_tokens": self.written,
            "temperature": 0.0,
            "logprobs": 2,
            "logprob_token_ids": self.labels,
            "return_tokens_as_token_ids": True,
        }

        def read(answer: Any) -> list[float]:
            choices = _in_order(answer["choices"], len(prompts))
            return [self._preference(choice["logprobs"]["top_logprobs"][0]) for choice in choices]

        scores = iter(await self._post("/v1/completions", body, len(readings), read))
        # The steps before it are in the prefix cache.
        usage.add(calls=1, scored_tokens=sum(reading.at[-1] + 1 for reading in readings))
        return [[next(scores) for _ in reading.at] for reading in readings]

    def _preference(self, log_probs: dict[str, float]) -> float:
        """Return the good label's probability by softmax over the two labels."""
        good, bad = (log_probs[f"token_id:{label}"] for label in self.labels)
        return 1.0 / (1.0 + exp(bad - good))


class VllmLikelihood(_VllmReader):
    """Scores from a language model: exp(mean log-probability) of a solution's tokens up to the end of each step.

    vLLM gives no log-probabilities of tokens in its prefix cache, so solutions are read whole. The model must be served
    merged: a server with adapters dies of such requests (0.32; vllm-project/vllm issue 16668).
    """

    async def scores(self, readings: Sequence[Reading], usage: Usage) -> list[list[float]]:
        body: dict[str, Any] = {
            **PLAIN,
            "prompt": [reading.tokens for reading in readings],
            "max_tokens": self.written,
            "temperature": 0.0,
            "prompt_logprobs": 0,  # log-probabilities of the prompt's own tokens, and of no others
        }

        def read(answer: Any) -> tuple[list[list[float]], int]:
            choices = _in_order(answer["choices"], len(readings))
            scores = [
                self._likelihoods(reading, choice["prompt_logprobs"])
                for reading, choice in zip(readings, choices, strict=True)
            ]
            return scores, token_count(answer["usage"]["prompt_tokens"])

        scores, tokens = await self._post("/v1/completions", body, len(readings), read)
        usage.add(calls=1, scored_tokens=tokens)
        return scores

    @staticmethod
    def _likelihoods(reading: Reading, positions: Sequence[dict[str, dict[str, float]]]) -> list[float]:
        solution = zip(reading.tokens[reading.start :], positions[reading.start :], strict=True)
        totals = list(accumulate(float(position[str(token)]["logprob"]) for token, position in solution))
        return [exp(totals[at - reading.start] / (at - reading.start + 1)) for at in reading.at]


def _in_order(rows: Sequence[dict[str, Any]], expected: int) -> list[dict[str, Any]]:
    if len(rows) != expected:
        raise ValueError(f"{len(rows)} rows for {expected} solutions")
    return sorted(rows, key=lambda row: row["index"])
