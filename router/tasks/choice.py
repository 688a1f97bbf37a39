"""One of several choices: the letter that a solution states, or the text of the choice it names."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from router.errors import InvalidRequest
from router.tasks import PlainTask, Task
from router.tasks.exact import normal
from router.tasks.statements import WINDOW, final_part, statements

_UNKNOWN = 10  # letters that count where the request brings no choices: A to J
_COMMAND = re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|bb)|boldsymbol)\s?\{([^{}]{0,200})\}|\\[()\[\]]")
_NOUN = re.compile(r"(?:(?:the|correct|right|best)\s){0,2}(?:option|choice|letter|answer)\s?(?:is\s?)?:?\s?", re.I)
_LETTER = re.compile(r"(?P<opened>[(\[]?)\s?(?P<letter>[A-Za-z])(?![A-Za-z'’]|\s?=)")
_ENDS = re.compile(r"\s?(?:[).:,;\]–—-]|$)")
_EXPLAINS = re.compile(r"\s(?:because|since|as|which|and|for|due|is)\b")
_NO_WORD = re.compile(r"[^\w]+")
_PARENTHESES = re.compile(r"[(\[]\s?([A-Za-z])\s?[)\]]")


class ChoiceTask(PlainTask):
    """Answers that are letters: ``B``, ``(B) Paris``, ``Option B``, or ``Paris`` where that is what B says.

    choices  the texts in their order, from the request; without them the letters A to J are read, and no texts
    """

    def __init__(self, choices: Sequence[str] = ()):
        self.choices = tuple(choices)
        self._letters = ascii_uppercase[: len(self.choices) or _UNKNOWN]
        self._by_text = {normal(text): letter for letter, text in zip(self._letters, self.choices, strict=False)}

    def bound(self, inputs: Mapping[str, Any]) -> Task:
        """``{"choices": ["Rome", "Paris"]}``: two to 26 texts, none twice. Raises InvalidRequest."""
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
        if not 2 <= len(choices) <= len(ascii_uppercase) or len(set(map(normal, choices))) < len(choices):
            raise InvalidRequest("choices", "choices must be two to 26 different texts", reason="UNSPECIFIED")
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
        # Without a marker a capital may only begin a sentence: it must be marked as a letter.
        last = lines[-1][-WINDOW:]
        if "\\boxed" in last:  # what it holds is no choice, and the words around it are not the answer
            return None
        return self._letter(last) if len(lines) == 1 and len(last) <= 4 else self._letter(last, marked=True)

    async def key(self, answer: str) -> str:
        return self._letter(answer) or ""

    def _letter(self, text: str, *, marked: bool = False) -> str | None:
        """The letter that a statement means; None where it means none, or more than one."""
        text = re.sub(r"[*_`\"$]", "", _COMMAND.sub(lambda match: match[1] or "", text)).strip()
        if letter := self._by_text.get(normal(text)):
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
        """The choice whose text stands in a statement, where it is the only one; longer texts hide their parts."""
        words = _spaced(text)
        found = {
            name: letter for name, letter in self._by_text.items() if _spaced(name).strip() and _spaced(name) in words
        }
        whole = [
            name for name in found if not any(name != other and _spaced(name) in _spaced(other) for other in found)
        ]
        return found[whole[0]] if len(whole) == 1 else None


def _spaced(text: str) -> str:
    return f" {' '.join(_NO_WORD.sub(' ', normal(text)).split())} "
