"""Builds candidates from what a chat completions endpoint streams back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import inf
from typing import Any

from router.backends.steps import End, split_text
from strategies import Candidate

LARGEST_COUNT = 2**24  # tokens of one request: a larger number is an error, since contexts are far smaller
OPEN, CLOSE = "<think>", "</think>"  # around a thought that the server leaves in the text

# Values of finish_reason for a solution that the model ended. A call of a tool that nobody offered is an ending, too.
_ENDED = {"stop", "eos", "end_turn", "tool_calls", "function_call"}


@dataclass(eq=False, slots=True)
class Sample:
    """One choice of a chat completion, as far as it has arrived.

    entries  bytes and log-probability of each token, where the server gives them
    pieces, thought_pieces  number of events with text, and with a thought: mostly one event a token
    reason   finish_reason; None before the end
    """

    text: str = ""
    thought: str = ""
    entries: list[tuple[bytes, float]] = field(default_factory=list)
    pieces: int = 0
    thought_pieces: int = 0
    reason: str | None = None

    def take(self, choice: Mapping[str, Any]) -> int:
        """Add an event's text; return its number of tokens, estimated where it lists none. An end counts as one token.

        Raises LookupError, TypeError or ValueError where ``choice`` is malformed.
        """
        delta = choice.get("delta") or choice.get("message") or {}
        text = _text(delta.get("content")) or _text(delta.get("refusal"))
        thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        listed = (choice.get("logprobs") or {}).get("content") or []
        entries = [(_bytes(entry), _log_prob(entry["logprob"])) for entry in listed]
        self.text += text
        self.thought += thought
        self.entries += entries
        self.pieces += bool(text)
        self.thought_pieces += bool(thought)
        reason = choice.get("finish_reason")
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"finish_reason {reason!r}")
        self.reason = reason or self.reason
        return (len(entries) or bool(text) + bool(thought)) + (reason in _ENDED)

    @property
    def shown(self) -> int:
        """Return the number of tokens that events showed. Some servers also show the end-of-sequence token."""
        return max(len(self.entries), self.pieces + self.thought_pieces)

    @property
    def seen(self) -> int:
        """Return the tokens shown, and one more where the model ended the solution."""
        return self.shown + (self.reason in _ENDED)

    def end(self, capped: bool) -> End:
        """Return how it ended. ``capped``: whether the request allowed fewer tokens than the longest solution."""
        if self.reason in _ENDED:
            return "stop"
        return "cut" if capped or self.reason is None else "length"


@dataclass(frozen=True, slots=True)
class Reported:
    """The tokens of one request according to the server. ``thinking``: None where the server does not report it."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    thinking: int | None = None

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]]) -> "Reported | None":
        """Sum up the events that have usage; return None without any. Raises ValueError, TypeError.

        Usage in an event without text is that of the whole request, or of one choice. Usage beside text is a running
        total, of which the last counts.
        """
        alone = [event for event in events if not event.get("choices")] or list(events[-1:])
        if not alone:
            return None
        each = [cls._one(event["usage"]) for event in alone]
        thinking = [usage.thinking for usage in each if usage.thinking is not None]
        return cls(
            max(usage.prompt for usage in each),
            each[0].cached,  # later choices find the prompt in the cache because the first has read it
            sum(usage.generated for usage in each),
            sum(thinking) if thinking else None,
        )

    @classmethod
    def _one(cls, usage: Mapping[str, Any]) -> "Reported":
        read = usage.get("prompt_tokens_details") or {}
        written = usage.get("completion_tokens_details") or {}
        thinking = written.get("reasoning_tokens", usage.get("reasoning_tokens"))
        prompt = _count(usage["prompt_tokens"])
        return cls(
            prompt,
            min(prompt, _count(read.get("cached_tokens") or 0)),
            _count(usage.get("completion_tokens") or 0),
            None if thinking is None else _count(thinking),
        )


def candidates(
    samples: Sequence[tuple[Candidate, Sample, bool]], reported: Reported | None, delimiter: str
) -> list[Candidate]:
    """Return one request's candidates with what was written. ``samples``: candidate, its sample, whether it was capped.

    Where the server reports tokens only for all samples together, they are split in proportion to what was seen.
    """
    seen = [sample.seen for _, sample, _ in samples]
    counts = counted([sample for _, sample, _ in samples], reported)
    thoughts = [sample.thought_pieces for _, sample, _ in samples]
    if reported and reported.thinking is not None:
        thoughts = shares(reported.thinking, thoughts if any(thoughts) else seen)
    made = []
    for (candidate, sample, capped), count, known in zip(samples, counts, thoughts, strict=True):
        end = sample.end(capped)
        text, inline = _without_thought(sample.text)
        steps = split_text(text, delimiter)
        listed = _by_step(sample.entries, steps)
        thought = min(count, known or _part(count, inline, sample.text))
        if listed:  # a token that belongs to no step was part of a thought, or has no text
            unlisted = max(0, count - sum(n for n, _ in listed) - (end == "stop"))
            thought = unlisted if thought else 0
            listed[-1] = (listed[-1][0] + unlisted - thought, listed[-1][1])
        rest = shares(max(0, count - thought - (end == "stop")), list(map(len, steps)))
        made.append(
            replace(
                candidate,
                steps=steps,
                token_counts=tuple(n for n, _ in listed) if listed else tuple(rest),
                log_probs=tuple(total for _, total in listed),
                scores=None,
                end=end,
                reasoning=(sample.thought or inline).strip(),
                thinking_tokens=thought,
            )
        )
    return made


def counted(samples: Sequence[Sample], reported: Reported | None) -> list[int]:
    """Return the tokens of each sample, thought and end included: the server's count if plausible, else what was seen.

    A server that reports fewer tokens than it showed has counted only one of its samples.
    """
    shown, seen = [sample.shown for sample in samples], [sample.seen for sample in samples]
    if reported is None or reported.generated < sum(shown) or reported.generated == sum(seen):
        return seen
    return shown if reported.generated == sum(shown) else shares(reported.generated, seen)


def _without_thought(text: str) -> tuple[str, str]:
    """Split a text into the answer and the thought before it. A thought that is not closed leaves no answer."""
    before, close, after = text.partition(CLOSE)
    if close and (before.lstrip().startswith(OPEN) or OPEN not in before):
        return after.lstrip("\n"), before.replace(OPEN, "", 1)
    if before.lstrip().startswith(OPEN):
        return "", before.replace(OPEN, "", 1)
    return text, ""


def _part(count: int, part: str, whole: str) -> int:
    return round(count * len(part) / len(whole)) if part else 0


def _by_step(entries: Sequence[tuple[bytes, float]], steps: Sequence[str]) -> list[tuple[int, float]]:
    """Return each step's number of tokens and sum of log-probabilities; [] where the tokens don't spell the text.

    Tokens of a thought come before the text's, end-of-sequence tokens after them; both are left out.
    """
    text = "".join(steps).encode()
    written = b"".join(token for token, _ in entries)
    start = written.rfind(text)
    if not steps or start < 0 or start not in (begins := list(accumulate((len(t) for t, _ in entries), initial=0))):
        return []
    ends = list(accumulate((len(step.encode()) for step in steps), initial=start))
    found: list[tuple[int, float]] = []
    for begin, end in pairwise(ends):
        # A token belongs to the step that it begins in. A token without bytes belongs to none.
        own = [log_prob for (token, log_prob), at in zip(entries, begins, strict=False) if token and begin <= at < end]
        found.append((len(own), sum(own)))
    return found if all(count for count, _ in found) else []


def shares(total: int, parts: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``parts``, into whole numbers that sum to it."""
    whole = sum(parts)
    if not whole:
        return [total, *[0] * (len(parts) - 1)][: len(parts)]
    ends = [round(total * end / whole) for end in accumulate(parts, initial=0)]
    return [after - before for before, after in pairwise(ends)]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"text of type {type(value).__name__}")
    return value


def _bytes(entry: Mapping[str, Any]) -> bytes:
    listed = entry.get("bytes")
    return bytes(listed) if listed is not None else str(entry["token"]).encode()


def _log_prob(value: Any) -> float:
    if not -inf < value < 0.01:  # at most 0, but for rounding
        raise ValueError(f"a log-probability of {value}")
    return float(value)


def _count(reported: Any) -> int:
    count = int(reported)
    if not 0 <= count < LARGEST_COUNT:
        raise ValueError(f"{count} tokens")
    return count
