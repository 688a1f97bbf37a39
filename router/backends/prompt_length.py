"""The longest prompt: a model's context less its longest solution, in tokens."""

from router.errors import InvalidRequest
from router.prompt import Prompt

CHARACTERS = 20  # of a token, at most, in ordinary text: what is longer is refused before it is read


def check_length(prompt: Prompt, room: int) -> None:
    """Raises InvalidRequest where the prompt can't fit ``room`` tokens, whatever they are."""
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
