"""A prompt: the chat messages that a caller sends. Only templates and difficulty features look inside."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Chat messages, oldest first; the last one is the user's. Raises ValueError where they are not a valid prompt.

    A plain string is the short form of a single user message.
    """

    messages: tuple[Message, ...]

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("a prompt needs at least one message")
        if self.plain and self.messages[0].role == "user":  # as most prompts are
            return
        for message in self.messages:
            if message.role not in ROLES:
                raise ValueError(f"unknown role {message.role!r}; the roles are {', '.join(ROLES)}")
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's, since it is the one that is answered")
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("only the first message may be the system's")

    @classmethod
    def of(cls, text: str) -> Self:
        return cls((Message("user", text),))

    @classmethod
    def read(cls, value: Any) -> Self:
        """Read a prompt from JSON: a string, or a list of ``{"role": ..., "content": ...}`` as OpenAI's clients send
        it.

        Content is a string or a list of text parts ``{"type": "text", "text": ...}``. Raises ValueError.
        """
        if isinstance(value, str):
            return cls.of(value)
        if not isinstance(value, Sequence) or not all(isinstance(each, Mapping) for each in value):
            raise ValueError('messages must be a list of objects like {"role": "user", "content": "What is 3 + 4?"}')
        messages = []
        for each in value:
            if unknown := sorted(set(each) - {"role", "content"}):
                raise ValueError(f"unknown key {unknown[0]!r} in a message; it has role and content")
            messages.append(Message(each.get("role"), _text(each.get("content"))))
        return cls(tuple(messages))

    @property
    def json(self) -> list[dict[str, str]]:
        """The messages in the form that :meth:`read` reads."""
        return [{"role": message.role, "content": message.text} for message in self.messages]

    @property
    def question(self) -> str:
        """The last message's text: what is asked."""
        return self.messages[-1].text

    @property
    def transcript(self) -> str:
        """The conversation as one text, the question last, for models that judge solutions without a chat template.

        The system message, which says how to answer, is left out.
        """
        before = [f"{message.role}: {message.text}" for message in self.messages[:-1] if message.role != "system"]
        return "\n\n".join([*before, self.question])

    @property
    def plain(self) -> bool:
        """Whether the prompt is a single user message, so that its text is the whole prompt."""
        return len(self.messages) == 1

    @property
    def characters(self) -> int:
        return len(self.question) if self.plain else sum(len(message.text) for message in self.messages)

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal, of the text for a plain prompt, else of the messages as JSON."""
        text = self.question if self.plain else json.dumps(self.json, ensure_ascii=False)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
        if odd := [part for part in content if part.get("type") != "text" or not isinstance(part.get("text"), str)]:
            raise ValueError(f"a content part of type {odd[0].get('type')!r} can't be read; only text parts can")
        return "".join(part["text"] for part in content)
    raise ValueError("content must be a string or a list of text parts")
