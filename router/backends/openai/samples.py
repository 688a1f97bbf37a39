"""What a chat completions endpoint streams back, put together to candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import inf
from typing import Any

from router.backends.steps import End, split_text
from strategies import Candidate

LARGEST_COUNT = 2**24  # tokens of one request; contexts are far smaller
OPEN, CLOSE = "<think>", "</think>"  # around a thought that the server leaves in the text

# What servers say of a solution that the model ended. A call of a tool that nobody offered is an ending, too.
_ENDED = {"stop", "eos", "end_turn", "tool_calls", "function_call"}


@dataclass(eq=False, slots=True)
class Sample:
    """One choice, as far as it has come.

    entries  bytes and log-probability of each token, where the server gives them
    pieces, thought_pieces  events with text, with a thought: mostly one a token
    """

    text: str = ""
    thought: str = ""
    entries: list[tuple[bytes, float]] = field(default_factory=list)
    pieces: int = 0
    thought_pieces: int = 0
    reason: str | None = None

    def take(self, choice: Mapping[str, Any]) -> int:
        """Add what an event says of it; returns the tokens that these are, by what can be counted; an end is one.

        Raises a LookupError, TypeError or ValueError where it is none.
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
        """Tokens that events showed. Some servers show the one that ends the sequence, too."""
        return max(len(self.entries), self.pieces + self.thought_pieces)

    @property
    def seen(self) -> int:
        """The same, with one for its end."""
        return self.shown + (self.reason in _ENDED)

    def end(self, capped: bool) -> End:
        """``capped``: it was given less room than the longest solution has."""
        if self.reason in _ENDED:
            return "stop"
        return "cut" if capped or self.reason is None else "length"


@dataclass(frozen=True, slots=True)
class Reported:
    """What the server says it spent. ``thinking`` None: it does not say."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0
    thinking: int | None = None

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]]) -> "Reported | None":
        """From the events that have usage; None without any. Raises ValueError, TypeError.

        One that comes by itself is the whole request's, or one choice's; one beside text is the sum so far.
        """
        alone = [event for event in events if not event.get("choices")] or list(events[-1:])
        if not alone:
            return None
        each = [cls._one(event["usage"]) for event in alone]
        thinking = [usage.thinking for usage in each if usage.thinking is not None]
        return cls(
            max(usage.prompt for usage in each),
            each[0].cached,  # the choices after the first one find the prompt there
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
    """The candidates with what was written. ``samples``: of one request, each with whether it was capped.

    Where the server counts only all choices together, each has its part of that by what was seen of it.
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
        if listed:  # what is none of a step's was a thought, or a token without text
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
    """Tokens of each sample, thought and end included: what was seen, unless the server says what may be right.

    One that says less than it showed has counted one of its samples only.
    """
    shown, seen = [sample.shown for sample in samples], [sample.seen for sample in samples]
    if reported is None or reported.generated < sum(shown) or reported.generated == sum(seen):
        return seen
    return shown if reported.generated == sum(shown) else shares(reported.generated, seen)


def _without_thought(text: str) -> tuple[str, str]:
    """The answer, and the thought that stands before it: one that was not closed is all there is."""
    before, close, after = text.partition(CLOSE)
    if close and (before.lstrip().startswith(OPEN) or OPEN not in before):
        return after.lstrip("\n"), before.replace(OPEN, "", 1)
    if before.lstrip().startswith(OPEN):
        return "", before.replace(OPEN, "", 1)
    return text, ""


def _part(count: int, part: str, whole: str) -> int:
    return round(count * len(part) / len(whole)) if part else 0


def _by_step(entries: Sequence[tuple[bytes, float]], steps: Sequence[str]) -> list[tuple[int, float]]:
    """Number of tokens and sum of log-probabilities of each step; [] where the tokens are not those of the text.

    Those of a thought come before them, those that end the text after them.
    """
    text = "".join(steps).encode()
    written = b"".join(token for token, _ in entries)
    start = written.rfind(text)
    if not steps or start < 0 or start not in (begins := list(accumulate((len(t) for t, _ in entries), initial=0))):
        return []
    ends = list(accumulate((len(step.encode()) for step in steps), initial=start))
    found: list[tuple[int, float]] = []
    for begin, end in pairwise(ends):
        # A token belongs to the step that it begins in; one without bytes to none.
        own = [log_prob for (token, log_prob), at in zip(entries, begins, strict=False) if token and begin <= at < end]
        found.append((len(own), sum(own)))
    return found if all(count for count, _ in found) else []


def shares(total: int, parts: Sequence[int]) -> list[int]:
    """``total`` split like ``parts``, in whole numbers that sum to it."""
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
    if not -inf < value < 0.01:  # 0 but for rounding
        raise ValueError(f"a log-probability of {value}")
    return float(value)


def _count(reported: Any) -> int:
    count = int(reported)
    if not 0 <= count < LARGEST_COUNT:
        raise ValueError(f"{count} tokens")
    return count
