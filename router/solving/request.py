"""A caller's request, the same for gRPC, HTTP and the command line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.errors import InvalidRequest
from router.policy.objectives import Objective
from router.prompt import Prompt
from strategies import Strategy

LONGEST_PROMPT = 400_000  # characters, for every model; the model's own limit is in tokens
MOST_MESSAGES = 1000  # of one prompt: an empty one has no characters, and still is text in the model's template
LARGEST_BUDGET = 256  # solutions that a caller may pin: the largest that Snell et al. measure


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for. Where something is not asked for, it is None: no limit, or the bundle's default.

    objective             what the arm is chosen for
    arm                   run this arm instead of the policy's choice
    max_generated_tokens, max_scored_tokens  hard caps
    seconds               time left for the whole call
    longest_search        longest duration of a search that the server allows, in seconds
    max_seconds           the most seconds that the chosen arm may be expected to take
    seed                  of the samples; the same request with the same seed draws the same ones, where the engine can
    refuse                fail instead of returning an answer whose confidence is below the target accuracy
    allow_partial         when a cap or the deadline ends the search, return what was found instead of an error
    temperature           sampling temperature, at least 0; bounded by the model's own
    max_tokens            longest solution in tokens; bounded by the model's own
    inputs                what the task needs besides the prompt, by name
    task                  name of the task
    conversation          the caller's name for the conversation that this call belongs to; empty: none
    kept_arm              the arm that the conversation keeps: chosen by the policy for ``objective``
    kept_listed           the same as the policy lists it, where the objective changed it; see Decision.listed
    """

    prompt: Prompt
    objective: Objective | None = None
    arm: Strategy | None = None
    max_generated_tokens: int | None = None
    max_scored_tokens: int | None = None
    seconds: float | None = None
    longest_search: float | None = None
    seed: int = 0
    allow_partial: bool = False
    temperature: float | None = None
    max_tokens: int | None = None
    refuse: bool = False
    max_seconds: float | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    task: str | None = None
    conversation: str = ""
    kept_arm: Strategy | None = None
    kept_listed: Strategy | None = None


def validate(request: Request) -> None:
    """Raise InvalidRequest, naming the first wrong field."""
    check_count(len(request.prompt.messages))
    check_texts(request.prompt.question, request.prompt.characters)
    if request.arm and request.arm.budget() > LARGEST_BUDGET:
        raise InvalidRequest(
            "options.arm",
            f"{request.arm} may sample {request.arm.budget()} solutions; at most {LARGEST_BUDGET} are accepted",
            reason="ARM_INVALID",
        )
    if request.temperature is not None and not 0 <= request.temperature < math.inf:
        raise InvalidRequest(
            "temperature",
            f"temperature must be a number from 0, found {request.temperature}; leave it out for the bundle's own",
            reason="TEMPERATURE_OUT_OF_RANGE",
        )
    for name in ("max_generated_tokens", "max_scored_tokens", "max_tokens"):
        cap = getattr(request, name)
        if cap is not None and cap < 1:
            raise InvalidRequest(name, f"{name} must be at least 1; leave it out for no cap", reason="CAP_OUT_OF_RANGE")


def check_count(messages: int) -> None:
    """Raise InvalidRequest where a prompt has too many messages."""
    if messages > MOST_MESSAGES:
        raise InvalidRequest(
            "messages",
            f"the prompt has {messages} messages; at most {MOST_MESSAGES} are accepted: leave out or join older ones",
            reason="PROMPT_TOO_LONG",
        )


def check_texts(question: str | None, characters: int) -> None:
    """Raise InvalidRequest where a prompt's question is blank, or all its texts together have too many characters.

    question  None: it is no text, such as an image
    """
    if question is not None and not question.strip():
        raise InvalidRequest("prompt", "prompt is empty; send the problem's text", reason="PROMPT_EMPTY")
    if characters > LONGEST_PROMPT:
        raise InvalidRequest(
            "prompt",
            f"prompt has {characters} characters; at most {LONGEST_PROMPT} are accepted",
            reason="PROMPT_TOO_LONG",
        )
