"""How verifiers read a solution: published process reward models in their family's format, others as it was written.

Families differ in what the model is given and in which of its outputs is a step's score. Everything else is the same
for all and for every engine: equal candidates are read once, caps and bills are kept, each step gets one score.

Reward models know questions and solutions, not chats. What was said before the question is read as turns where the
template has turns, else as part of the question's text. The system message, which says how to answer, is left out.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from typing import Any, Literal, Protocol

from router.backends import Usage
from router.backends.prompt_length import check_length, check_verifier
from router.backends.steps import encoded
from router.backends.template import ChatTemplate, Part, Template, chat_parts, encode
from router.errors import EngineUnavailable, MissingWeights
from router.prompt import Prompt
from strategies import Candidate

ROWS = 16  # candidates read at once
_NEXT_TO_NOTHING = Candidate(steps=("0",))  # a solution of a token


@dataclass(frozen=True, slots=True)
class Reading:
    """A prompt and a solution as the model reads them.

    tokens  ids, of which the solution begins at ``start``
    at      for each step the position of the token at which it is scored
    """

    tokens: tuple[int, ...]
    at: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True, slots=True)
class Format:
    """The format of one family of process reward models.

    read    (tokenizer, prompt, steps) → Reading
    head    the model's output at a position: "classes" (logits of a bad and a good step; softmax), "value" (one
            logit; sigmoid) or "labels" (next-token logits, of which two labels' are compared; softmax)
    labels  tokenizer → ids of the good and the bad label; for "labels" only
    """

    read: Callable[[Any, Prompt, Sequence[str]], Reading]
    head: Literal["classes", "value", "labels"]
    labels: Callable[[Any], tuple[int, int]] | None = None

    def reading(self, tokenizer: Any) -> Callable[[Prompt, Candidate], Reading]:
        """Return a function that turns a prompt and a candidate into tokens of this tokenizer."""
        return lambda prompt, candidate: self.read(tokenizer, prompt, candidate.steps)


def _qwen(tokenizer: Any, prompt: Prompt, steps: Sequence[str]) -> Reading:
    start, end, tag = (_id(tokenizer, token) for token in ("<|im_start|>", "<|im_end|>", "<extra_0>"))
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    first, *others = [step.strip() for step in steps]
    parts: list[str | int] = [start, f"system\n{system}", end, "\n"]
    for message in prompt.messages:
        if message.role != "system":  # it has one of its own
            parts += [start, f"{message.role}\n{message.text}", end, "\n"]
    parts += [start, f"assistant\n{first}"]
    for step in others:
        parts += [tag, step]
    tokens = _encode(tokenizer, [*parts, tag, end, "\n"])
    return Reading(tokens, tuple(i for i, token in enumerate(tokens) if token == tag))


def _skywork(tokenizer: Any, prompt: Prompt, steps: Sequence[str]) -> Reading:
    tokens = list(_encode(tokenizer, [_id(tokenizer, tokenizer.bos_token), f"{prompt.transcript}\n"]))
    (newline,) = _encode(tokenizer, ["\n"])
    at = []
    for step in steps:
        tokens += _encode(tokenizer, [" ".join(step.split("\n")).strip(), newline])
        at.append(len(tokens) - 1)
    return Reading(tuple(tokens), tuple(at))


def _rlhflow(tokenizer: Any, prompt: Prompt, steps: Sequence[str]) -> Reading:
    said = [step.strip() for step in steps]
    said[0] = f"{prompt.transcript} {said[0]}".strip()
    turns = [turn for text in said for turn in (("user", text), ("assistant", "+"))]
    parts = chat_parts(tokenizer, turns, answer=False)  # the template's, what is said, the template's, a label, ...
    labels = range(3, len(parts), 4)
    if any(token in text for text in said for token in tokenizer.all_special_tokens):
        # Part by part, so that a caller's text is text. All else is read as one text, as the model was trained.
        apart = [_ids(tokenizer, part) for part in parts]
        starts = list(accumulate(map(len, apart), initial=0))
        return Reading(tuple(chain.from_iterable(apart)), tuple(starts[i] - 1 for i in labels))
    read = tokenizer("".join(part.text for part in parts), add_special_tokens=False, return_offsets_mapping=True)
    starts = list(accumulate((len(part.text) for part in parts), initial=0))
    at, tokens = _tokens_at(read, [starts[i] for i in labels]), read["input_ids"]
    good, _ = _plus_minus(tokenizer)
    if any(tokens[i] != good for i in at):
        raise MissingWeights("the reward model's chat template does not start the assistant's turn with the label")
    return Reading(tuple(tokens), tuple(i - 1 for i in at))


def _math_shepherd(tokenizer: Any, prompt: Prompt, steps: Sequence[str]) -> Reading:
    lines = [f"{step.strip()} ки" for step in steps]
    lines[0] = f"{prompt.transcript} {lines[0]}"
    # The same letters stand in words of the texts, too: a step ends where its line does.
    ends = accumulate(lines, lambda end, line: end + 1 + len(line), initial=-1)
    read = tokenizer("\n".join(lines), split_special_tokens=True, return_offsets_mapping=True)
    return Reading(tuple(read["input_ids"]), tuple(_tokens_at(read, [end - 1 for end in ends][1:])))


def _tokens_at(read: Any, places: Sequence[int]) -> list[int]:
    """Which tokens hold the characters at ``places``. ``read``: what a tokenizer made of the text."""
    ends = [end for _, end in read["offset_mapping"]]
    return [bisect_right(ends, place) for place in places]


def _ids(tokenizer: Any, part: Part) -> list[int]:
    ids: list[int] = tokenizer.encode(part.text, add_special_tokens=False, split_special_tokens=not part.ours)
    return ids


def _plus_minus(tokenizer: Any) -> tuple[int, int]:
    return tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]


def _shepherd_labels(tokenizer: Any) -> tuple[int, int]:
    ids = tokenizer.encode("+ -", add_special_tokens=False)  # each as it stands after a space
    return ids[0], ids[-1]


FORMATS = {
    "qwen2.5-math-prm": Format(_qwen, "classes"),
    "skywork-o1-open-prm": Format(_skywork, "value"),
    "rlhflow-prm": Format(_rlhflow, "labels", _plus_minus),
    "math-shepherd-prm": Format(_math_shepherd, "labels", _shepherd_labels),
}


def solution(tokenizer: Any, template: Template | ChatTemplate, prompt: Prompt, candidate: Candidate) -> Reading:
    """Return a reading of the solution as its model wrote it: the rendered prompt, then the steps' tokens."""
    prefix = encode(tokenizer, template.parts(prompt))
    tokens, ends = encoded(tokenizer, candidate)
    return Reading(prefix + tokens, tuple(len(prefix) + end - 1 for end in ends), start=len(prefix))


class Reader(Protocol):
    """Runs a verifier's model."""

    async def room(self) -> int:
        """Return the most tokens of a prompt and solution that the model reads."""

    async def scores(self, readings: Sequence[Reading], usage: Usage) -> list[list[float]]:
        """Return each reading's scores in [0, 1], one for each position in ``at``; add the tokens read to ``usage``."""

    async def close(self) -> None: ...


class ReadingVerifier:
    """See :class:`router.backends.Verifier`. ``read`` turns candidates into tokens; ``reader`` scores these.

    ``question_alone``: whether it reads that where the conversation has no room; else such a prompt is refused.
    """

    def __init__(
        self,
        read: Callable[[Prompt, Candidate], Reading],
        parameters: int,
        reader: Reader,
        *,
        question_alone: bool = False,
    ):
        self.read = read
        self._question_alone = question_alone
        self.parameters = parameters
        self.reader = reader
        self.context: int | None = getattr(reader, "context", None)  # tokens, where they are known without asking
        self.counted = Usage()  # the engine's own count, over all calls

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        room = await self.reader.room()
        readings: dict[tuple[str, ...], Reading] = {}
        found: dict[tuple[str, ...], tuple[float, ...]] = {}
        cost = 0
        for candidate in candidates:
            if candidate.steps and candidate.steps not in readings:
                await asyncio.sleep(0)  # a long prompt takes its time, and each candidate has it again
                reading = self._read(prompt, candidate, room)
                if len(reading.tokens) > room:
                    found[candidate.steps] = ()
                    continue
                cost += len(reading.tokens)
                if max_tokens is not None and cost > max_tokens:
                    break
                readings[candidate.steps] = reading
        remaining = iter(readings.items())
        while chunk := dict(islice(remaining, ROWS)):  # so that a cancelled call frees the engine soon
            rows = await self._scores(list(chunk.values()), usage)
            found |= {steps: tuple(row) for steps, row in zip(chunk, rows, strict=True)}
        return [replace(candidate, scores=found.get(candidate.steps)) for candidate in candidates]

    async def _scores(self, readings: Sequence[Reading], usage: Usage) -> list[list[float]]:
        spent = Usage()
        try:
            rows = await self.reader.scores(readings, spent)
        finally:
            for tally in (usage, self.counted):
                tally.add(calls=spent.calls, scored_tokens=spent.scored_tokens)
        for reading, row in zip(readings, rows, strict=True):
            if len(row) != len(reading.at):
                raise EngineUnavailable(f"the reward model gave {len(row)} scores for {len(reading.at)} steps")
            if not all(0 <= score <= 1 for score in row):  # NaN is neither
                raise EngineUnavailable(f"the reward model gave a score that is no probability: {row}")
        return rows

    async def check_room(self, prompt: Prompt, longest: int) -> None:
        """See ``backends.check_room``.

        A tokenizer of the verifier's own may take more tokens for a solution than its model wrote, and a format adds
        some for each step. A solution that turns out too long is not scored.
        """
        room = await self.reader.room()
        question = Prompt.of(prompt.question) if self._question_alone else prompt
        check_length(question, room)
        check_verifier(len(self.read(question, _NEXT_TO_NOTHING).tokens), longest, room)

    def _read(self, prompt: Prompt, candidate: Candidate, room: int) -> Reading:
        reading = self.read(prompt, candidate)
        if len(reading.tokens) > room and self._question_alone and not prompt.plain:
            reading = self.read(Prompt.of(prompt.question), candidate)
        return reading

    async def close(self) -> None:
        await self.reader.close()


def label_ids(kind: str, tokenizer: Any) -> tuple[int, int] | None:
    """Return ids of the good and the bad label, if any. Raises MissingWeights where the tokenizer lacks them."""
    labels = FORMATS[kind].labels
    if labels is None:
        return None
    good, bad = labels(tokenizer)
    if good == bad or tokenizer.unk_token_id in (good, bad):
        raise MissingWeights(f"this tokenizer has no two labels for {kind}: it reads them as ids {good} and {bad}")
    return good, bad


def _id(tokenizer: Any, token: str | None) -> int:
    found = None if token is None else tokenizer.convert_tokens_to_ids(token)
    if found is None or tokenizer.convert_ids_to_tokens(found) != token:
        raise MissingWeights(f"the reward model's tokenizer has no token {token!r}; is this its own tokenizer?")
    return int(found)


def _encode(tokenizer: Any, parts: Sequence[str | int]) -> tuple[int, ...]:
    """Encode texts and token ids in a row. Special tokens in a text count as plain text, since callers write it."""
    tokens: list[int] = []
    for part in parts:
        tokens += (
            [part]
            if isinstance(part, int)
            else tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)
        )
    return tuple(tokens)
