"""No verifier: nothing is scored, and only arms that need no scores can run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from router.backends import Usage
from router.prompt import Prompt
from router.schema import STRICT
from strategies import Candidate


@dataclass(frozen=True, slots=True)
class Options:
    """This verifier has no options."""

    __pydantic_config__ = STRICT


class NoVerifier:
    """Returns candidates unscored, at no cost."""

    parameters = 0

    async def score(
        self, prompt: Prompt, candidates: Sequence[Candidate], *, max_tokens: int | None, usage: Usage
    ) -> list[Candidate]:
        return list(candidates)

    async def close(self) -> None:
        return None


def load(spec: Any, options: Options, generator: None) -> NoVerifier:
    return NoVerifier()
