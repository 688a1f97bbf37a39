r"""Reads numbers exactly, as models write them: ``1,234.50``, ``3 1/2``, ``\frac{3}{4}``, ``1.5 \times 10^3``, ``$56``.

The rules are in docs/tasks.md. A percent sign, a degree sign and a unit are dropped (``50%`` is 50, not 0.5). Words
that multiply count (``3 million``, ``2 dozen``). A decimal with ten or more digits after the point is the fraction
with a denominator up to 1,000 that it rounds or cuts off, if there is one: computers print fractions like that.
"""

import re
from fractions import Fraction

from router.tasks.notation import plain

_LONGEST = 120  # characters of the longest text that is read as a number
_LARGEST_EXPONENT = 300  # largest power of ten
_FLOAT_DIGITS = 10  # digits after the point that make a decimal a computer's float, or cut off from one
_FLOAT_ERROR = Fraction(1, 2**51)  # relative error of a float, as in 0.30000000000000004

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d*)?|\d{1,3}(?:[ ]\d{3})+(?:\.\d*)?(?![\d/])|\d+(?:\.\d*)?|\.\d+)"
_FRAC = r"\\frac\s*(?:\{\s*(?P<top>-?[\d.,]+)\s*\}|(?P<top1>\d))\s*(?:\{\s*(?P<bottom>-?[\d.,]+)\s*\}|(?P<bottom1>\d))"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*(?:
        (?P<whole>\d+)\s*\\frac\s*\{{\s*(?P<part>\d+)\s*\}}\s*\{{\s*(?P<of>\d+)\s*\}}
      | (?P<whole1>\d{{1,3}}(?:[ ,]\d{{3}})+|\d+)\s+(?P<part1>\d+)\s*/\s*(?P<of1>\d+)(?![\d.])
      | {_FRAC}
      | (?P<repeating>\d*\.\d*)\s*\\overline\s*\{{\s*(?P<period>\d+)\s*\}}
      | (?P<upper>{_DECIMAL})\s*/\s*(?P<lower>-?{_DECIMAL})(?![\d.])
      | (?P<decimal>{_DECIMAL})
    )""",
    re.VERBOSE,
)
_EXPONENT = re.compile(
    r"(?:[eE](?P<e>[-+]?\d{1,4})\b|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*(?P<power>[-+]?\d{1,4})\s*\}?)"
)
_LEADING = re.compile(
    r"(?:=|\\approx|~|about|approximately|approx\.?|around|roughly|exactly|only|just|nearly|almost|a total of|"
    r"usd|eur|gbp|rs\.?|us|[€£¥₹₽₩₫])\s*",
    re.I,
)
_CURRENCY_SIGNS = re.compile(r"[€£¥₹₽₩₫¢]")
_MULTIPLIERS = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PERCENT = re.compile(r"\s*(?:%|percent(?:age)?(?:\s+points?)?\b|per\s+cent\b|pct\b)", re.I)
_DEGREE = re.compile(r"\s*\^\s*\\circ\s*[CF]?(?![a-zA-Z])")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_WORD = re.compile(r"[a-zA-Zµμ]+(?:\(e?s\))?(?:'s?)?(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d)|[23](?![\d.]))?")
_RATE = re.compile(
    r"\s*(?:[cm]?m|k?m|mi|ft|m?g|kg|m?l)\s*/\s*(?:s|h|hr|sec|min|m?l|c?m)(?:\s*\^\s*\{?\s*[23]\s*\}?)?\s*$", re.I
)
_BETWEEN_WORDS = re.compile(r"[\s/\-.]*")
# Short units, which may follow a number without a space.
_SHORT_UNITS = """
    cm mm km nm dm kg mg ml dl cl ft in yd mi lb lbs oz hr hrs min mins sec secs ms mph kph kmh rpm kw hz khz mhz ghz
    kb mb gb tb cc sq cu pt qt gal usd eur gbp rs cents cent dollars dollar hours minutes seconds days meters metres
"""
# Short words between the words of a unit: "12 bottles of milk a day".
_LITTLE_WORDS = "of a an in on at us"
# Words that are no unit: a number before one is part of a list, a time, a function or a comparison.
_OTHER_WORDS = """
    and or plus minus times to over root remainder mod modulo if when where while are was equals equal sin cos tan cot
    csc log exp sqrt frac pi inf infty infinity theta alpha beta gamma delta lambda sigma omega phi max lim det noon
    half halves third thirds quarter quarters fifth fifths sixth sixths eighth eighths tenth tenths hundredth not but
    though unless point negative squared cubed divided multiplied less than then base factorial choose zero one two
    three four five six seven eight nine ten both either cup cap setminus left right text
"""
_SHORT, _LITTLE, _NO_UNITS = (frozenset(words.split()) for words in (_SHORT_UNITS, _LITTLE_WORDS, _OTHER_WORDS))


def read(text: str) -> Fraction | None:
    """Return the exact value of an answer that is one number, with or without a unit; None for anything else."""
    text = _CURRENCY_SIGNS.sub("", plain(text)).strip()
    if len(text) > _LONGEST or not any(map(str.isdigit, text)):
        return None
    return _read(text)


def _read(text: str) -> Fraction | None:
    while (leading := _LEADING.match(text)) and leading.end() < len(text):
        text = text[leading.end() :]
    negative = re.match(r"(?:negative|minus)\s+(?=[\d.])", text, re.I)
    text = text[negative.end() :] if negative else text
    if text.startswith("(") and text.endswith(")") and "," not in text and text.count("(") == 1:
        text = text[1:-1].strip()
    sign = re.match(r"([-+])\s*(?:[€£¥]|usd|us)?\s*(?=[\d.\\])", text, re.I)
    text = sign[1] + text[sign.end() :] if sign else text
    match = _NUMBER.match(text)
    value = _value(match) if match else None
    if match is None or value is None:
        return None
    rest = text[match.end() :]
    if exponent := _EXPONENT.match(rest):
        power = int(exponent["e"] or exponent["power"])
        if abs(power) > _LARGEST_EXPONENT:
            return None
        value *= Fraction(10) ** power
        rest = rest[exponent.end() :]
    factor = _unit(rest)
    if factor is None:
        return None
    return -value * factor if negative else value * factor


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the value of the digits; None if there is none, or it is ambiguous, as for the mixed number 1 5/3."""
    groups = match.groupdict()
    sign = -1 if groups["sign"] == "-" else 1
    if whole := groups["whole"] or groups["whole1"]:
        part, of = int(groups["part"] or groups["part1"]), int(groups["of"] or groups["of1"])
        return sign * (_decimal(whole) + Fraction(part, of)) if part < of else None
    if groups["period"]:
        before = groups["repeating"]
        digits = len(before) - before.index(".") - 1
        repeated = Fraction(int(groups["period"]), (10 ** len(groups["period"]) - 1) * 10**digits)
        return sign * (_decimal(before if before != "." else "0.") + repeated)
    top, bottom = (
        groups["top"] or groups["top1"] or groups["upper"],
        groups["bottom"] or groups["bottom1"] or groups["lower"],
    )
    try:
        if top:
            return sign * _decimal(top) / _decimal(bottom)
        return sign * _decimal(groups["decimal"])
    except (ValueError, ZeroDivisionError):
        return None


def _decimal(digits: str) -> Fraction:
    digits = digits.replace(",", "").replace(" ", "")
    return from_float(digits.rstrip(".") if digits != "." else "")


def from_float(digits: str) -> Fraction:
    """Return a decimal's value; for a long decimal as computers print it, the simple fraction that it stands for."""
    value = Fraction(digits)
    places = len(digits.partition(".")[2])
    if places >= _FLOAT_DIGITS:
        simple = value.limit_denominator(1000)
        unit = Fraction(1, 10**places)
        cut = 0 <= (simple - value) * (1 if value > 0 else -1) < unit  # 0.66666666666666
        if cut or abs(simple - value) <= max(unit / 2, abs(value) * _FLOAT_ERROR):
            return simple
    return value


def _unit(rest: str) -> Fraction | None:
    """Return the factor that the words after a number stand for; None if they are no unit."""
    factor = Fraction(1)
    if _RATE.match(rest):
        return factor
    if percent := _PERCENT.match(rest):
        rest = rest[percent.end() :]
    elif degree := _DEGREE.match(rest):
        rest = rest[degree.end() :]
    elif ordinal := _ORDINAL.match(rest):
        rest = rest[ordinal.end() :]
    position, leading, words = 0, True, []
    while position < len(rest):
        gap = _BETWEEN_WORDS.match(rest, position)
        position = gap.end() if gap else position
        if position == len(rest):
            break
        word = _WORD.match(rest, position)
        if word is None or not _is_unit(word, spaced=bool(gap and gap[0])):
            return None
        words.append(re.sub(r"\W.*", "", word[0]).casefold())
        if leading and words[-1].rstrip("s") in _MULTIPLIERS:
            factor *= _MULTIPLIERS[words[-1].rstrip("s")]
        else:
            leading = False
        position = word.end()
    # "10 A": a short word alone is no unit.
    return factor if not words or set(words) - _LITTLE or set(words) & _SHORT else None


def _is_unit(word: re.Match[str], *, spaced: bool) -> bool:
    name = re.match(r"[a-zA-Zµμ]+", word[0])
    letters = name[0].casefold() if name else ""
    if letters in _NO_UNITS:
        return False
    if letters in _SHORT:
        return True
    return spaced and (len(letters) >= 3 or letters in _LITTLE)
