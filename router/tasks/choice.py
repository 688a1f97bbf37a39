"""Multiple choice: the letter that a solution states, or the text of the choice that it names."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from string import ascii_uppercase
from typing import Any

from router.errors import InvalidRequest
from router.tasks import PlainTask, Task
from router.tasks.exact import normal, signed
from router.tasks.notation import undecorated
from router.tasks.statements import WINDOW, final_part, statements

_LONGEST_NAME = 2 * WINDOW  # characters of a choice that may be named by its text: no more of a statement is read
_UNKNOWN = 10  # number of letters where the request has no choices: A to J
_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|bb)|boldsymbol)\s?\{([^{}]{0,200})\}|\\[()\[\]]")
_NOUN = re.compile(r"(?:(?:the|correct|right|best)\s){0,2}(?:option|choice|letter|answer)\s?(?:is\s?)?:?\s?", re.I)
_LETTER = re.compile(r"(?P<opened>[(\[]?)\s?(?P<letter>[A-Za-z])(?![A-Za-z'’]|\s?=)")
_ENDS = re.compile(r"\s?(?:[).:,;\]–—-]|$)")
_EXPLAINS = re.compile(r"\s(?:because|since|as|which|and|for|due|is)\b")
_BETWEEN = re.compile(r"[—;!?]|[,:](?!\d)|/(?=[a-z]{2})")  # what ends a word, unlike the signs in 1/2, 0.5, 2:1
_MARKUP = re.compile(r"[*_`\"$]")
_PARENTHESES = re.compile(r"[(\[]\s?([A-Za-z])\s?[)\]]")


class ChoiceTask(PlainTask):
    """Answers that are letters: ``B``, ``(B) Paris``, ``Option B``, or ``Paris`` if that is the text of choice B.

    choices  the texts in order, from the request; without them only the letters A to J are recognized
    """

    def __init__(self, choices: Sequence[str] = ()):
        self.choices = tuple(choices)
        self._letters = ascii_uppercase[: len(self.choices) or _UNKNOWN]
        self._named_by_text = [each for each in zip(self._letters, self.choices, strict=False) if not _long(each[1])]

    @cached_property  # not when it is bound, since whoever only decides needs neither of these
    def _by_text(self) -> list[dict[str, str]]:
        # Case and brackets count only where choices differ in nothing else: BB and Bb, (0,1) and [0,1].
        return [_unlike(self._named_by_text, spelling) for spelling in (_closely, normal)]

    @cached_property
    def _by_words(self) -> list[tuple[str, str]]:
        return [(_spaced(_plain(text)), letter) for letter, text in self._named_by_text]

    def bound(self, inputs: Mapping[str, Any]) -> Task:
        """Take inputs ``{"choices": ["Rome", "Paris"]}``: two to 26 different texts. Raises InvalidRequest."""
        super().bound({name: value for name, value in inputs.items() if name != "choices"})
        choices = inputs.get("choices")
        if choices is None:
            return self
        if (
            isinstance(choices, str)
            or not isinstance(choices, Sequence)
            or not all(isinstance(each, str) for each in choices)
        ):
            raise InvalidRequest("choices", "choices must be a list of texts", reason="UNSPECIFIED")
        if not 2 <= len(choices) <= len(ascii_uppercase):
            raise InvalidRequest("choices", f"{len(choices)} choices; there must be two to 26", reason="UNSPECIFIED")
        seen: set[str] = set()
        for text in choices:
            spelling = " ".join(text.split()) if _long(text) else _closely(text)
            if spelling in seen:
                raise InvalidRequest(
                    "choices", f"two choices are {text[:200]!r}; they must differ", reason="UNSPECIFIED"
                )
            seen.add(spelling)
        return ChoiceTask(choices)

    def extract(self, text: str) -> str | None:
        part = final_part(text)
        if part is None:
            return None
        for statement in reversed(statements(part)):
            if letter := self._letter(statement.text[:WINDOW]):
                return letter
        lines = [line for line in part[-4 * WINDOW :].splitlines() if line.strip()]
        if not lines:
            return None
        # Without "answer:" or the like, a capital may just begin a sentence: it must be marked as a letter.
        last = lines[-1][-WINDOW:]
        if "\\boxed" in last:  # the box holds no choice, and the words around it are not the answer
            return None
        return self._letter(last) if len(lines) == 1 and len(last) <= 4 else self._letter(last, marked=True)

    async def key(self, answer: str) -> str:
        return self._letter(answer) or ""

    def _letter(self, text: str, *, marked: bool = False) -> str | None:
        """Return the letter that a statement means; None where it means none, or more than one."""
        text = _plain(text)
        if letter := self._by_text[0].get(_closely(text)) or self._by_text[1].get(normal(text)):
            return letter
        noun = _NOUN.match(text)
        leading = _LETTER.match(text, noun.end() if noun else 0)
        if leading and leading["letter"].upper() in self._letters:
            letter, rest = leading["letter"], text[leading.end() :]
            named = noun is not None or bool(leading["opened"]) or _ENDS.match(rest) is not None
            if letter.islower():  # "a" may be an article
                sure = bool(leading["opened"]) or (_ENDS.match(rest) is not None and (not marked or rest[:1] == ")"))
            elif letter in "AI" or marked:
                sure = named or (not marked and _EXPLAINS.match(rest) is not None)
            else:
                sure = True
            if sure:
                return letter.upper()
        in_parentheses = {letter.upper() for letter in _PARENTHESES.findall(text)} & set(self._letters)
        if in_parentheses:
            return in_parentheses.pop() if len(in_parentheses) == 1 else None
        return self._named(text)

    def _named(self, text: str) -> str | None:
        """Return the letter of the only choice named by its text. A text that is part of a longer one doesn't count."""
        words = _spaced(text)
        found = [(name, letter) for name, letter in self._by_words if name.strip() and name in words]
        whole = [letter for name, letter in found if not any(name != other and name in other for other, _ in found)]
        return whole[0] if len(whole) == 1 else None


def _unlike(named: Sequence[tuple[str, str]], spelling: Callable[[str], str]) -> dict[str, str]:
    """Return letters by the spelling of their texts, without spellings that several texts share."""
    spelled = [(spelling(_plain(text)), letter) for letter, text in named]
    counts = Counter(name for name, _ in spelled)
    return {name: letter for name, letter in spelled if name and counts[name] == 1}


def _long(text: str) -> bool:
    """Whether a choice is too long to be named by its text. Some characters are eighteen after normalization."""
    return len(text) > _LONGEST_NAME or len(unicodedata.normalize("NFKC", text)) > _LONGEST_NAME


def _plain(text: str) -> str:
    return _MARKUP.sub("", _COMMAND.sub(lambda match: match[1] or "", text)).strip()


def _closely(text: str) -> str:
    return " ".join(undecorated(signed(unicodedata.normalize("NFKC", text))).split())


def _spaced(text: str) -> str:
    words = (normal(word) for word in _BETWEEN.sub(" ", normal(text)).split())
    return f" {' '.join(filter(None, words))} "
