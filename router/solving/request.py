"""A caller's request, the same for gRPC, HTTP and the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.policy.objectives import Objective
from router.prompt import Prompt
from strategies import Strategy


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
