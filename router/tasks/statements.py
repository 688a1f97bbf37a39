r"""Finds where a text states its final answer, in any words; for all tasks. Every pattern takes linear time.

It finds ``\boxed{...}``, ``Answer: ...``, ``the answer is ...`` and the like in other languages, headings
(``### Final Answer``), ``#### ...`` and ``<answer>...</answer>``, in the order of the text; the last one counts. Drafts
don't count: text before ``</think>``, programs, and answers that are only supposed or checked.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["box", "label", "sentence", "hashes", "tag"]

WINDOW = 400  # characters that are read of a tag, of a formula on several lines, and of a line
_BEFORE = 48  # characters before a marker that can make it a draft
_LAST = 32  # markers that are examined, from the end

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.I)
_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*(\w*)", re.M)
_TEXT_FENCES = ("", "text", "txt", "plaintext", "latex", "tex", "math", "markdown", "md")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s{0,8}\{|\\(?:boxed|fbox)\s{1,8}(?=[\w-])|(?<!\\)[{}]")
_TAG = re.compile(rf"<answer>([^<]{{0,{WINDOW}}})</answer>", re.I)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)", re.M)

_WORDS = (
    r"(?<!\w)(?:answers?|final (?:result|value)|respuesta|réponse|reponse|antwort|risposta|resposta|antwoord|svaret|"
    r"svar|vastaus|odpowiedź|odpověď|cevap|yanıt|válasz|răspuns(?:ul)?|ответ|відповідь|отговор|απάντηση|jawaban(?:nya)?|jibu|"
    r"đáp án|đáp số|câu trả lời|उत्तर|উত্তর|సమాధానం|الإجابة|الجواب|جواب|پاسخ|תשובה)(?!\w)"
)
_JOINED_WORDS = r"(?:答案|答え|解答|答|정답|답|คำตอบ)"  # written without spaces
_LABEL = r"[ \t*_]{0,6}[:：=][ \t*_]{0,6}"
_CLAUSE = (
    r"(?:[ \t]{1,3}(?:(?:to|of|for|in|as|we|you|i|after|when|rounded|given|expressed|therefore|then|thus|here|choice|"
    r"option|del|de la|auf die|zu|à la)\b|[(])[^\n.:=?!]{0,80}?)?"
)
_COPULA = (
    r"[ \t*_]{0,4}[ \t](?:is|are|was|would be|should be|will be|must be|equals|becomes|comes (?:out )?to|"
    r"turns out to be|es|est|ist|lautet|beträgt|é|è|sarà|będzie|wynosi|är|er|este|adalah|là|"
    r"равен|равно|равна|равняется|это|—|–)(?!\w)"
    r"[ \t*_]{0,4}(?:(?:therefore|thus|then|hence|indeed|simply|just|equal to|given by|as follows)\b)?"
    r"[ \t*_]{0,4}[:：]?"
)
_JOINED_COPULA = r"[ \t*_]{0,4}(?:[是为為:：=]|はは?|는|은|คือ)[ \t*_]{0,4}[:：]?"
_WORD = re.compile(rf"{_WORDS}|{_JOINED_WORDS}", re.I)
_MARKER = re.compile(
    rf"{_WORDS}(?:(?P<label>{_LABEL})|(?P<copula>{_CLAUSE}{_COPULA})|(?P<heading>[ \t*_#]{{0,8}}(?=\n)))"
    rf"|{_JOINED_WORDS}(?:(?P<joined>{_JOINED_COPULA})|(?P<joined_heading>[ \t*_#]{{0,8}}(?=\n)))",
    re.I,
)
_NOTHING = re.compile(r"[\s*_:]*")
_HEADING = re.compile(
    r"[\s#*>_✅\d.)-]{0,12}(?:(?:so|thus|therefore|hence|the|my|our|your|final|correct|and)[\s,*]{1,4}){0,4}$", re.I
)
_DRAFT = re.compile(
    r"\b(?:if|suppose|supposing|assume|assuming|whether|unless|check|checking|verify|verifying|confirm|test|does|not)"
    r"\b[\w\s,']{0,24}$|\b(?:wrong|incorrect|possible|alternative|initial|previous|partial|intermediate|estimated|their)"
    r"(?:\s+final)?\s*$",
    re.I,
)
_NO_ANSWER = re.compile(
    r"\W{0,4}(?:not|n't|no longer|incorrect|correct|wrong|right|reasonable|valid|verified|confirmed|consistent|clear|"
    r"unclear|obvious|found|obtained|given|based|supposed|expected|required)\b",
    re.I,
)


@dataclass(frozen=True)
class Statement:
    """A stated answer: its start, the text after its marker on the line, and the kind of marker."""

    start: int
    text: str
    kind: Kind


def thoughtless(text: str) -> str | None:
    """Return a text without its thoughts; None where a thought does not end, so nothing was stated."""
    start = 0
    for tag in _THOUGHT.finditer(text):
        start = tag.end() if tag[1] else -1
    return None if start < 0 else text[start:]


def final_part(text: str) -> str | None:
    """Return a text without its thoughts and programs; None as in :func:`thoughtless`."""
    part = thoughtless(text)
    return None if part is None else _without_programs(part)


def statements(text: str) -> list[Statement]:
    """Return the stated answers of a :func:`final_part`, at least the last ones, in the order of the text."""
    found = [Statement(match.start(1), match[1].strip(), "tag") for match in _TAG.finditer(text)]
    found += _boxes(text)
    found += _hashes(text)
    found += _marked(text)
    return sorted((each for each in found if each.text), key=lambda each: (each.start, each.kind == "box"))


def _without_programs(text: str) -> str:
    kept, start, opened = [], 0, None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
            if not _is_text(fence):
                kept.append(text[start : fence.start()])
        else:
            start = start if _is_text(opened) else fence.end()
            opened = None
    if opened is None or _is_text(opened):
        kept.append(text[start:])
    return "\n".join(kept)


def _is_text(fence: re.Match[str]) -> bool:
    return fence[1].lower() in _TEXT_FENCES


def _boxes(text: str) -> list[Statement]:
    """Return the closed outermost boxes. Boxes with only a comma, an "and" or a name between them are one answer."""
    spans: list[tuple[int, int, int]] = []  # start of a box, start and end of its content
    open_boxes: list[tuple[int, int] | None] = []  # None: a brace that is no box
    for brace in _BRACE.finditer(
        text, min(i for i in (text.find("\\boxed"), text.find("\\fbox"), len(text)) if i >= 0)
    ):
        if brace[0] == "{":
            open_boxes.append(None)
        elif brace[0] == "}":
            box = open_boxes.pop() if open_boxes else None
            if box is not None:
                while spans and spans[-1][0] > box[0]:  # an inner box
                    spans.pop()
                spans.append((*box, brace.start()))
        elif brace[0].endswith("{"):
            open_boxes.append((brace.start(), brace.end()))
        elif word := re.compile(r"-?[\w.,/]*\w").match(text, brace.end(), brace.end() + 24):  # \boxed 7
            spans.append((brace.start(), brace.end(), word.end()))
    return _joined(text, spans[-_LAST:])


_BETWEEN_BOXES = re.compile(
    r"[\s$\\()\[\],;&]{0,12}(?:(?:and|or|\\text\{\s?(?:and|or)\s?\})[\s$\\()\[\]]{0,6})?(?:[a-zA-Z]\s?=\s?)?$"
)


def _joined(text: str, spans: list[tuple[int, int, int]]) -> list[Statement]:
    boxes: list[Statement] = []
    before = None
    for start, opened, closed in spans:
        content = text[opened:closed].strip()
        between = text[before + 1 : start] if before is not None else ""
        if (
            boxes
            and before is not None
            and len(between) < 24
            and re.search(r"[,;&]|and|or", between)
            and _BETWEEN_BOXES.match(between)
        ):
            last = boxes[-1]
            if content not in last.text.split(", "):
                boxes[-1] = Statement(last.start, f"{last.text}, {content}", "box")
        else:
            boxes.append(Statement(start, content, "box"))
        before = closed
    return boxes


def _hashes(text: str) -> Iterator[Statement]:
    """Yield GSM8K's ``#### 7``. A heading of level four doesn't count, unless it is the last line."""
    last_line = text.rstrip().rfind("\n") + 1
    for match in deque(_HASHES.finditer(text), maxlen=_LAST):
        value = match[1].strip()
        if match.start() >= last_line or re.match(r"[-+$€£\\(\d.][^a-zA-Z]{0,40}(?:[a-zA-Z%°$]{1,12}\W{0,3})?$", value):
            yield Statement(match.start(1), value, "hashes")


def _marked(text: str) -> Iterator[Statement]:
    for word in deque(_WORD.finditer(text), maxlen=_LAST):
        match = _MARKER.match(text, word.start())
        if match is None:
            continue
        before = text[max(0, match.start() - _BEFORE) : match.start()].rpartition("\n")[2]
        if _DRAFT.search(before):
            continue
        heading = match["heading"] is not None or match["joined_heading"] is not None
        if heading and not _HEADING.match(before):
            continue
        stated = _lines(text, match.end())
        kind: Kind = "label" if match["label"] or heading else "sentence"
        if kind == "sentence" and _NO_ANSWER.match(stated):
            continue
        yield Statement(match.end(), stated.strip(), kind)


def _lines(text: str, start: int) -> str:
    r"""Return the first line from ``start`` on that has content, or the whole formula that begins there: \[ ... \]."""
    start = _NOTHING.match(text, start).end()  # type: ignore[union-attr]  # it matches anywhere
    end = start
    for opening, closing in ((r"\[", r"\]"), ("$$", "$$"), (r"\begin{", r"\end{")):
        if text.startswith(opening, start):
            closed = text.find(closing, start + len(opening), start + WINDOW)
            end = closed + len(closing) if closed >= 0 else start
    newline = text.find("\n", end)
    return text[start : newline if newline >= 0 else len(text)]
