"""How a prompt, and earlier attempts at it, become the tokens that a model continues."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from router.errors import InvalidRequest
from router.prompt import Message, Prompt
from router.schema import STRICT
from strategies import Earlier

# Only tests of code say what is wrong. Without the last words a small model explains, or repeats the test as its code.
REPAIR = "{finding}\n\nWrite the corrected function, in one code block."
Told = Annotated[str, Field(pattern=r"\{finding\}")]


class Part(NamedTuple):
    """A piece of a rendered prompt. ``ours``: it is the template's, so its control tokens are; a caller's are text."""

    text: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Template:
    """The text around each message.

    The router renders a prompt itself, and engines continue the text as it is, so that a prefix continues exactly. An
    engine that applied a chat template would trim the text, and with it the delimiter that ends a step.

    user, assistant, system  text around ``{text}`` for a message of each role
    answer     text that begins the model's own turn
    retry      text between an attempt and the next one at the same prompt (sequential revision)
    repair     what the user says after an attempt whose ``{finding}`` is known, what the verifier found wrong with it
               (repair); a message like any other, so ``user`` stands around it
    delimiter  text that ends every step; a step includes its delimiter
    default_system  system message of prompts that have none; None: they get none
    examples   text between the system message and the prompt, such as worked examples
    """

    __pydantic_config__ = STRICT

    user: str
    answer: str
    retry: str
    delimiter: str
    assistant: str = "{text}"
    system: str = "{text}"
    default_system: str | None = None
    examples: str = ""
    repair: Told = REPAIR

    def parts(self, prompt: Prompt, earlier: Sequence[Earlier] = ()) -> list[Part]:
        """Render the prompt, then the model's ``earlier`` attempts: all that a new solution follows."""
        messages = prompt.messages
        parts: list[Part] = []
        if messages[0].role == "system":
            parts += _around(self.system, messages[0].text)
            messages = messages[1:]
        elif self.default_system is not None:
            parts.append(Part(self.system.replace("{text}", self.default_system), True))
        parts.append(Part(self.examples, True))
        for message in messages:
            parts += _around(self.user if message.role == "user" else self.assistant, message.text)
        parts.append(Part(self.answer, True))
        for attempt in earlier:
            parts += [Part(attempt.text, False), *self._again(attempt.finding)]
        return parts

    def _again(self, finding: str) -> list[Part]:
        """Return what stands between an attempt and the next one."""
        if not finding:
            return [Part(self.retry, True)]
        # The attempt ends as an assistant's message does, and the user's turn is one like any other.
        _, _, end = self.assistant.partition("{text}")
        return [Part(end, True), *_around(self.user, told(self.repair, finding)), Part(self.answer, True)]

    def render(self, prompt: Prompt, earlier: Sequence[Earlier] = ()) -> str:
        """Return the parts as one text."""
        return "".join(part.text for part in self.parts(prompt, earlier))


def told(repair: str, finding: str) -> str:
    """Return the message that tells the model what is wrong. Not by str.format: braces in a finding are text."""
    return repair.replace("{finding}", finding)


def _around(template: str, text: str) -> list[Part]:
    # Not str.format: braces in the text are the caller's.
    before, _, after = template.partition("{text}")
    return [Part(before, True), Part(text, False), Part(after, True)]


CHATML = Template(
    user="<|im_start|>user\n{text}<|im_end|>\n",
    assistant="<|im_start|>assistant\n{text}<|im_end|>\n",
    system="<|im_start|>system\n{text}<|im_end|>\n",
    answer="<|im_start|>assistant\n",
    retry="<|im_end|>\n<|im_start|>user\nTry again.<|im_end|>\n<|im_start|>assistant\n",
    delimiter="\n",
)


def encode(tokenizer: Any, parts: Sequence[Part]) -> tuple[int, ...]:
    """Return the token ids of the parts. Control tokens in a caller's text are encoded as plain text.

    The ids begin with exactly one beginning-of-sequence token where the tokenizer adds one.
    """
    tokens: list[int] = []
    for ours, group in groupby(parts, key=lambda part: part.ours):
        text = "".join(part.text for part in group)
        if text:
            tokens += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not ours)
    begin = _begin(tokenizer)
    return (*begin, *tokens) if list(begin) != tokens[: len(begin)] else tuple(tokens)


@lru_cache(32)
def _begin(tokenizer: Any) -> tuple[int, ...]:
    """Return what the tokenizer itself puts before every text: its beginning-of-sequence token, or nothing."""
    bos = getattr(tokenizer, "bos_token_id", None)
    added = tokenizer.encode("") if bos is not None else []
    return tuple(added[:1]) if added[:1] == [bos] else ()


class ChatTemplate:
    """The tokenizer's own chat template, used like a :class:`Template`: rendered with marks that the texts replace.

    retry  user message that asks for another attempt
    default_system  system message of prompts that have none; None: left to the template
    repair  user message that asks for a correction, with ``{finding}``
    """

    def __init__(
        self, tokenizer: Any, retry: str, delimiter: str, default_system: str | None = None, repair: str = REPAIR
    ):
        self.delimiter = delimiter
        self.default_system = default_system
        self._tokenizer = tokenizer
        self._retry = retry
        self._repair = repair

    def parts(self, prompt: Prompt, earlier: Sequence[Earlier] = ()) -> list[Part]:
        """Render as :meth:`Template.parts`. Raises InvalidRequest where the template refuses the messages."""
        turns: list[tuple[str, str]] = [(each.role, each.text) for each in with_system(prompt, self.default_system)]
        turns += conversation(earlier, self._retry, self._repair)
        return chat_parts(self._tokenizer, turns)

    def render(self, prompt: Prompt, earlier: Sequence[Earlier] = ()) -> str:
        return "".join(part.text for part in self.parts(prompt, earlier))


def conversation(earlier: Sequence[Earlier], retry: str, repair: str) -> list[tuple[str, str]]:
    """Return earlier attempts as turns (role, text): each, then the user's request for the next one."""
    turns = []
    for text, finding in earlier:
        turns += [("assistant", text), ("user", told(repair, finding) if finding else retry)]
    return turns


def chat_parts(tokenizer: Any, turns: Sequence[tuple[str, str]], *, answer: bool = True) -> list[Part]:
    """Roles and texts in the tokenizer's own chat template; ``answer``: and what the model's next turn begins with.

    Raises InvalidRequest where the template refuses the messages.
    """
    marked = [{"role": role, "content": _mark(i)} for i, (role, _) in enumerate(turns)]
    try:
        rendered = tokenizer.apply_chat_template(marked, add_generation_prompt=answer, tokenize=False)
    except Exception as error:  # whatever a template written in Jinja raises
        raise InvalidRequest(
            "messages", f"the model's chat template refuses these messages: {error}", reason="PROMPT_INVALID"
        ) from error
    parts = []
    end = 0  # of what was read
    for i, (role, text) in enumerate(turns):
        mark = _mark(i)
        start = rendered.find(mark, end)  # not str.partition, which copies all that follows for each message
        if start < 0:
            raise InvalidRequest(
                "messages",
                f"the model's chat template drops a message of the role {role}; leave it out",
                reason="PROMPT_INVALID",
            )
        parts += [Part(rendered[end:start], True), Part(text, False)]
        end = start + len(mark)
    return [*parts, Part(rendered[end:], True)]


def with_system(prompt: Prompt, default: str | None) -> Sequence[Message]:
    """Return the messages, with ``default`` as system message where the prompt has none."""
    if default is None or prompt.messages[0].role == "system":
        return prompt.messages
    return (Message("system", default), *prompt.messages)


def _mark(i: int) -> str:
    return f"\x02{i}\x03"


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """Stands for the chat template of the model's tokenizer, or of its server; see :class:`ChatTemplate`."""

    __pydantic_config__ = STRICT

    delimiter: str = "\n\n"
    retry: str = "Try again."
    default_system: str | None = None
    repair: Told = REPAIR


def resolved(template: "Template | OwnTemplate", tokenizer: Any) -> "Template | ChatTemplate":
    return (
        ChatTemplate(tokenizer, template.retry, template.delimiter, template.default_system, template.repair)
        if isinstance(template, OwnTemplate)
        else template
    )
