"""Finds the answer that a mathematical solution states.

The last statement counts (router.tasks.statements), and its value is taken out of its words: ``56`` of "that he earned
56 dollars in 7 days". Many texts have no such statement and end with their answer: "He earned 56 dollars." There the
value is taken out of the last sentence, in this order:

1. the last bold text that holds a digit
2. the last formula, with those that "and", "or" or a comma joins to it
3. what stands after the last "=" or "≈"
4. the last number that is not a detail, after a word like "in", "for", "after", "per", "than", "at", "on" or "with";
   if all are, the last one

math-verify instead looks for a number anywhere in the text, in the order of its patterns. That takes quadratic time,
and finds a number in the last line but one where the last line has a bold one. Its grammar is used only to read a
stated answer, in router.tasks.math_symbols.
"""

import re

from router.tasks import numerals
from router.tasks.math_structure import is_words
from router.tasks.notation import plain, undecorated
from router.tasks.statements import WINDOW, Statement, final_part, statements

_SENTENCE_END = re.compile(r"(?:[.?。](?=[\s\"')*_]|$)|!(?=\s|$)|\n|입니다|이다|です|である)")
_CLAUSE = re.compile(
    r"[,;]?\s(?:because|since|so|which|where|whereas|given|assuming|but|as|i\.e\.|after|when|while|if)\b"
    r"|[,;]\s(?:not|rounded|or about|or approximately|and (?:the|so|this|it))\b|;\s"
    r"|\s[-–—]{1,3}\s(?=[a-zA-Z])|\s\((?=[a-zA-Z]{2})",
    re.I,
)
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*|__([^_\n]{1,200})__")
_FORMULA = re.compile(
    r"(?<!\\)\$\$([^$]{1,400})\$\$|(?<![\\$\d])\$(?=\S)([^$\n]{1,200})(?<=\S)\$(?!\d)|\\\(([^\n]{1,200}?)\\\)|\\\[(.{1,400}?)\\\]",
    re.S,
)
_JOIN = re.compile(r"\s{0,3}(?:,?\s?(?:and|or)|,)\s{0,3}(?:[a-zA-Z]\s?=\s?)?$", re.I)
_FRACTION = r"\\[dt]?frac\s?\{-?[\d.]{1,12}\}\s?\{[\d.]{1,12}\}"
_NUMBER = re.compile(
    rf"(?<![\w.,/\\^{{])(?:[-−–](?=[\d.$€£\\]))?[$€£]?\s?(?:\d{{1,15}}\s?{_FRACTION}|{_FRACTION}|\d{{1,6}}\s\d{{1,4}}/\d{{1,4}}(?!\d)"
    r"|\d{1,15}/\d{1,15}|\d{1,3}(?:,\d{3}){1,5}(?:\.\d{1,12})?|\d{1,20}(?:\.\d{1,20})?|\.\d{1,20})"
    r"(?![\d/^_]|[.,:]\d|st\b|nd\b|rd\b|th\b)"
    r"(?:\s?(?:%|\\%|°|percent\b|(?:hundred|thousand|million|billion|trillion|dozen)\b))?",
    re.I,
)
_DETAIL = re.compile(
    r"\b(?:in|for|after|over|per|every|each|all|within|during|than|from|at|on|with|instead of|out of|day|step|week|"
    r"part|level|problem|question)"
    r"\s(?:the\s|a\s|about\s|only\s|just\s|last\s|next\s|all\s|her\s|his\s|their\s)?[$€£]?$",
    re.I,
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•>#]+|\d{1,2}[.)])\s+")
_DIGIT = re.compile(r"\d")
_HAS_MATH = re.compile(r"[\d\\$]|^\W*[a-zA-Z]\W*$")
_LABEL = re.compile(r"[a-zA-Z)*]:\*{0,2}\s+(?=[^:]*\d)")
_UNFINISHED = re.compile(r"[=+\-*/,(:\\{]\s*$")


def find(text: str) -> str | None:
    """Return the last answer that a text states, as written; None where it states none."""
    part = final_part(text)
    if part is None:
        return None
    stated = statements(part)
    for statement in reversed(stated):
        value = _value(statement)
        # A sentence of words with numbers still to come ("the final result is accurate: ...") is no answer.
        if value and (
            statement.kind != "sentence" or _HAS_MATH.search(value) or not _DIGIT.search(part, statement.start)
        ):
            return value
    return _at_the_end(part)


def _value(statement: Statement) -> str | None:
    if statement.kind in ("box", "tag"):
        return statement.text or None
    text = _clause(statement.text[:WINDOW])
    if len(text) == WINDOW or not text or _UNFINISHED.search(text):
        return None
    if _is_value(text):
        return text
    if value := _from_prose(text):
        return value
    # Words: in a sentence at most five, without digits; after a label also longer text without digits.
    words = len(text.split())
    if statement.kind == "sentence":
        return text if words <= 5 and not _DIGIT.search(text) else None
    return text if words <= 2 or not _DIGIT.search(text) else None


def _clause(text: str) -> str:
    """Return a statement up to the end of its sentence, or up to where it begins to explain."""
    if not text.startswith(("$$", r"\[", r"\begin")):
        end = next((end for end in _SENTENCE_END.finditer(text) if not _within_formula(text, end.start())), None)
        text = text[: end.start()] if end else text
    clause = next((clause for clause in _CLAUSE.finditer(text) if not _within_formula(text, clause.start())), None)
    return _undressed(text[: clause.start()] if clause else text)


def _within_formula(text: str, position: int) -> bool:
    return any(formula.start() < position < formula.end() - 1 for formula in _FORMULA.finditer(text))


def _undressed(text: str) -> str:
    """Return a text without what surrounds all of it: bold, quotes, the delimiters of one formula."""
    text = undecorated(text)
    formula = _FORMULA.fullmatch(text)
    return undecorated(next(filter(None, formula.groups()))) if formula else text


def _is_value(text: str) -> bool:
    """Whether a text as a whole is one answer, rather than a sentence around one."""
    if numerals.read(text) is not None:
        return True
    return bool(re.search(r"[\d\\a-zA-Z]", text)) and not is_words(plain(text))


def _from_prose(text: str) -> str | None:
    """Return the answer that a sentence names, by the rules in the module's docstring."""
    bold = [first or second for first, second in _BOLD.findall(text)]
    if held := [each for each in bold if re.search(r"\d", each)]:
        inner = _undressed(held[-1])
        return inner if _is_value(inner) else _from_prose(inner)
    if formula := _last_formulas(text):
        return formula
    after = re.split(r"=|≈|\\approx", text)[-1]
    if after != text and re.search(r"\d", after):
        text = after
    numbers = list(_NUMBER.finditer(text))
    named = [number for number in numbers if not _DETAIL.search(text[max(0, number.start() - 24) : number.start()])]
    chosen = (named or numbers)[-1:]
    return chosen[0][0].strip() if chosen else None


def _last_formulas(text: str) -> str | None:
    found = [formula for formula in _FORMULA.finditer(text) if re.search(r"[\da-zA-Z]", formula[0])]
    if found and r"\begin{al" in found[-1][0]:  # the lines of one calculation: the last result counts
        rows = re.split(r"\\\\|\\end", found[-1][0])
        return (
            undecorated([row for row in rows if "&" in row][-1].rpartition("&")[2].lstrip("= "))
            if "&" in found[-1][0]
            else None
        )
    values: list[str] = []
    end = None
    for formula in reversed(found):
        if end is not None and not _JOIN.match(text[formula.end() : end]):
            break
        values.insert(0, undecorated(next(filter(None, formula.groups()))))
        end = formula.start()
    return ", ".join(values) or None


def _at_the_end(text: str) -> str | None:
    """Return the answer of a text without a statement: the value of its last sentence that has one."""
    tail = text[-4 * WINDOW :].rstrip()
    if re.search(r"(?:\\\]|\$\$)[.\s]*$", tail):
        return _last_formulas(tail)
    lines = [line for line in tail.split("\n") if line.strip()]
    for line in (_LIST_MARK.sub("", line, count=1) for line in reversed(lines[-3:])):
        for sentence in reversed(_sentences(line)):
            if r"\boxed" in sentence:  # a box that is not closed: the text was cut
                return None
            if not re.search(r"\d|\$.+\$|\\\(", sentence):
                continue
            if _UNFINISHED.search(undecorated(sentence)):
                return None
            value = _undressed(_LABEL.split(sentence)[-1])
            return value if _is_value(value) else _from_prose(_main_clause(sentence))
        if len(line) > 120:  # a long line is more than a closing remark
            return None
    return None


def _main_clause(sentence: str) -> str:
    """Return a sentence without its explanation and its label, as in "Total: 5 apples, which is 2 more"."""
    sentence = _LABEL.split(sentence)[-1]
    clause = _clause(sentence)
    return clause if re.search(r"\d", clause) else sentence


def _sentences(line: str) -> list[str]:
    sentences, start = [], 0
    for end in _SENTENCE_END.finditer(line):
        sentences.append(line[start : end.start()])
        start = end.end()
    return [*sentences, line[start:]]
