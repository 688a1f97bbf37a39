r"""One notation for the many in which models write the same mathematics.

``plain`` turns typographic characters and cosmetic LaTeX into ASCII and a few LaTeX commands: ``−3½`` is ``-3 1/2``,
``\left(1,\,\dfrac12\right)`` is ``(1, \frac12)``, ``12\text{ cm}²`` is ``12 cm ^{2}``. Every pattern takes linear time.
"""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‒﹣－‐‑", "-"),
        **dict.fromkeys("∗＊⋆", "*"),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("’‘′", "'"),
        **dict.fromkeys("“”„«»", '"'),
        "×": r" \times ",
        "⋅": r" \cdot ",
        "·": r" \cdot ",
        "÷": "/",
        "π": r" \pi ",
        "∞": r" \infty ",
        "√": r" \sqrt ",
        "≤": r" \le ",
        "⩽": r" \le ",
        "≥": r" \ge ",
        "⩾": r" \ge ",
        "≠": r" \ne ",
        "≈": r" \approx ",
        "±": r" \pm ",
        "∈": r" \in ",
        "∪": r" \cup ",
        "∅": r" \emptyset ",
        "ℝ": r" \mathbb{R} ",
        "°": r"^\circ ",
        "º": r"^\circ ",
        "⟨": "(",
        "⟩": ")",
        "，": ",",
        "、": ",",
        "。": ".",
        "\u200b": None,
        "\u2061": None,
        "\u2062": None,
        "\ufeff": None,
    }
)
_FRACTION_SIGN = "[¼-¾⅐-⅞]"
_THOUSANDS = re.compile(r"(?<=\d)(?:[\u00a0\u202f\u2009]|\\[,!;:]|\{,\}|'(?=\d{3}(?:\D|$)))(?=\d{3}(?!\d))")
# LaTeX commands that only change the appearance.
_COSMETIC = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits)\b|\\!"
)
_SPACE = re.compile(r"(?:(?<!\\)\\[,;: ]|\\q?quad\b|\\thinspace\b|~|\s)+")
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|math(?:rm|bf|it|sf|tt|normal)|operatorname\*?|mbox|hbox|boldsymbol|bm)"
    r"\s*\{([^{}]*)\}"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_MATH = re.compile(r"(?<!\\)\\[()\[\]]")
_DEGREES = re.compile(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)\b|\\degree\b|\\textdegree\b")
_COMMANDS = {
    "leq": "le",
    "leqslant": "le",
    "geq": "ge",
    "geqslant": "ge",
    "neq": "ne",
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "varnothing": "emptyset",
    "langle": "(",
    "rangle": ")",
    "lbrace": "{",
    "rbrace": "}",
    "lbrack": "[",
    "rbrack": "]",
    "lt": "<",
    "gt": ">",
    "R": "mathbb{R}",
    "Reals": "mathbb{R}",
    "land": "and",
    "lor": "or",
    "wedge": "and",
    "vee": "or",
    "colon": ":",
    "approxeq": "approx",
    "simeq": "approx",
    "textdollar": "$",
    "pounds": "$",
    "euro": "$",
    "percent": "%",
}
_PLAIN_COMMANDS = {"langle", "rangle", "lbrack", "rbrack", "lt", "gt", "land", "lor", "wedge", "vee", "colon"} | {
    "textdollar",
    "pounds",
    "euro",
    "percent",
}
_COMMAND = re.compile(r"\\(" + "|".join(sorted(_COMMANDS, key=len, reverse=True)) + r")(?![a-zA-Z])")
# A single letter is a unit only where it is set as text: 5\text{ m} is a length, 5m a product.
_LETTERS = {"m": "metres", "g": "grams", "s": "seconds", "h": "hours", "l": "litres", "L": "litres", "N": "newtons"} | {
    "J": "joules",
    "W": "watts",
    "V": "volts",
    "A": "amperes",
    "K": "kelvin",
    "C": "celsius",
    "F": "fahrenheit",
}


def plain(text: str) -> str:
    """Return the same answer in one notation, on one line, without decoration at its ends."""
    text = _THOUSANDS.sub("", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: "^{" + match[0].translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda match: "_{" + match[0].translate(_SUBSCRIPTS) + "}", text)
    text = re.sub(_FRACTION_SIGN, lambda match: f" {unicodedata.normalize('NFKC', match[0])}", text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    text = _MATH.sub(" ", _COSMETIC.sub("", text))
    text = _COMMAND.sub(_command, _DEGREES.sub(r"^\\circ ", text))
    for _ in range(3):  # \text{\textbf{...}}
        text = _WRAPPER.sub(_unwrapped, text)
    text = _BOX.sub("", text).replace(r"\%", "%").replace(r"\$", "$").replace(r"\#", "#").replace("{,}", ",")
    text = _SPACE.sub(" ", text)
    return undecorated(text.replace("$", ""))


def undecorated(text: str) -> str:
    """Return a text without what only surrounds it: spaces, bold, quotes, final punctuation. Single braces stay."""
    before = None
    while text != before:
        before = text
        text = text.strip(" \t\r\n*_`\"'").rstrip(".,;:?").lstrip(":;,")
    return text


def prose(text: str) -> str:
    """Return one spelling of words, for answers that aren't mathematics."""
    text = unicodedata.normalize("NFKC", _WRAPPER.sub(r" \1 ", _WRAPPER.sub(r" \1 ", text)))
    text = _SPACE.sub(" ", _MATH.sub(" ", text)).replace("$", "")
    return " ".join(undecorated(text).casefold().split())


def _command(match: re.Match[str]) -> str:
    name = match[1]
    return f" {_COMMANDS[name]} " if name in _PLAIN_COMMANDS else f"\\{_COMMANDS[name]}"


def _unwrapped(match: re.Match[str]) -> str:
    words = match[1].strip()
    before = match.string[max(0, match.start() - 8) : match.start()].rstrip()[-1:]
    return f" {_LETTERS.get(words, words) if before.isdigit() or before == '}' else words} "
