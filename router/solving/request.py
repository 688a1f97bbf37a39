"""What a caller asks for, whichever door it comes through."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.policy.objectives import Objective
from router.prompt import Prompt
from strategies import Strategy


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for. None is the bundle's default.

    objective             what the arm is chosen for
    arm                   run this arm instead of the policy's choice
    max_generated_tokens, max_scored_tokens  hard caps, never passed
    seconds               time left for the whole call
    longest_search        seconds that the server lets a search take
    max_seconds           that the chosen arm is expected to take at most
    refuse                where an answer's confidence is below the target accuracy, fail instead of returning it
    allow_partial         when a cap or the deadline ends the search, return what was found instead of an error
    temperature           of sampling, at least 0; a model's own bounds it
    max_tokens            of the longest solution; a model's own bounds it
    inputs                what the task needs beside the prompt, by name
    task                  name of the task
    conversation          the caller's name for what this is part of; empty: of nothing
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
