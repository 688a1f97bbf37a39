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


def too_long(tokens: int, room: int) -> InvalidRequest:
    return InvalidRequest(
        "prompt", f"prompt takes {tokens} tokens; this model has room for {room}", reason="PROMPT_TOO_LONG"
    )
