"""Checks a prompt's length against a model's room for it: its context less its longest solution, in tokens."""

from router.errors import InvalidRequest
from router.prompt import Prompt

CHARACTERS = 20  # most characters of a token in ordinary text: longer prompts are refused before they are tokenized


def check_length(prompt: Prompt, room: int) -> None:
    """Raise InvalidRequest where the prompt has too many characters for ``room`` tokens of any kind."""
    if prompt.characters > room * CHARACTERS:
        raise InvalidRequest(
            "prompt",
            f"prompt has {prompt.characters} characters; this model has room for {room} tokens",
            reason="PROMPT_TOO_LONG",
        )


def check_verifier(tokens: int, longest: int, context: int) -> None:
    """Raises InvalidRequest where a verifier's ``context`` has no room for a prompt of ``tokens``, and after it a
    solution of ``longest``."""
    if tokens + longest > context:
        raise InvalidRequest(
            "prompt",
            f"prompt takes {tokens} tokens of the verifier's context of {context}, which leaves less than the "
            f"{longest} that a solution may have; shorten the prompt, ask for shorter solutions (max_tokens), or pin "
            "an arm that needs no scores, such as majority(n=4)",
            reason="PROMPT_TOO_LONG",
        )


def too_long(tokens: int, room: int) -> InvalidRequest:
    return InvalidRequest(
        "prompt", f"prompt takes {tokens} tokens; this model has room for {room}", reason="PROMPT_TOO_LONG"
    )
