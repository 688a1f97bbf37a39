r"""Compares expressions, equations and inequalities with sympy. For worker processes only: see router.tasks.workers.

math-verify's LaTeX grammar (latex2sympy2_extended) reads the parts that router.tasks.math_structure found. Text that it
misreads is rewritten or refused first: it takes ``2(3)`` for 5, ``5 5`` for 10, ``1010_2`` for 1010, ``\sin 30^\circ``
for the sine of 30 radians, A for a; it drops the t of ``5t`` as a unit.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import (  # type: ignore[import-untyped]
    ConversionConfig,
    NormalizationConfig,
    latex2sympy,
    normalize_latex,
)
from sympy.core.function import AppliedUndef
from sympy.functions.combinatorial.factorials import CombinatorialFunction
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from router.tasks.math_equality import FLIPPED, TOO_LARGE, Refused, Simple, TooLarge, solved
from router.tasks.math_structure import FUNCTIONS, Interval, Node, spelling, structure
from router.tasks.notation import plain
from router.tasks.numerals import from_float

_GRAMMAR = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
)
_SYMBOLS = ConversionConfig(lowercase_symbols=False, interpret_as_mixed_fractions=False)
_DIGITS = 1000  # digits of the longest integer that is computed
_TERMS = 400  # terms of the longest sum that is multiplied out
_FUNCTION = re.compile(rf"(?<![a-zA-Z\\])({FUNCTIONS.replace(' ', '|')})(?![a-zA-Z])")
_UNREADABLE = re.compile(
    r"(?<![_\d])\d+\s+\d"  # 5 5
    r"|/\s*\d+\s*(?:[a-zA-Z(]|\\(?!cdot|times|pm|div|le|ge))"  # 1/2x: over 2, or over 2x?
    r"|'|\\prime|\\text|\\d?dots|\\ldots|\.\.\.|\\mid|\\equiv|\\pmod|\\bmod|\\cap|\\setminus|\\to(?![a-z])|[:?\"@#&~]"
    r"|[0-9A-F]_\s*\{?\d"  # 101_2: a base
    r"|(?<![a-zA-Z\\])I(?![a-zA-Z])"  # a name, or the imaginary unit?
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_QUOTIENTS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (sympy.tan, lambda x: sympy.sin(x) / sympy.cos(x)),
    (sympy.cot, lambda x: sympy.cos(x) / sympy.sin(x)),
    (sympy.sec, lambda x: 1 / sympy.cos(x)),
    (sympy.csc, lambda x: 1 / sympy.sin(x)),
)


def spell(answer: str) -> str | None:
    """Return one spelling for all answers that equal this one; None: it can't be read; TOO_LARGE: to compute."""
    try:
        return spelling(structure(plain(answer)), Symbols())
    except TooLarge:
        return TOO_LARGE
    except (Refused, RecursionError):
        return None


def same(one: str, other: str) -> bool:
    """Whether two answers with different spellings are equal: sympy decides the difference of each part."""
    try:
        return _same(structure(plain(one)), structure(plain(other)))
    except (Refused, RecursionError):
        return False


class Symbols(Simple):
    """Spells what needs algebra."""

    def expression(self, text: str) -> str:
        return _written(canonical(read(text)))

    def equation(self, left: str, right: str) -> str:
        difference = canonical(read(left) - read(right))
        if difference == 0:  # an identity: its right side is the answer
            return self.leaf(right)
        if not difference.free_symbols:
            raise Refused
        return f"{_written(_monic(difference))} = 0"

    def relation(self, left: str, operator: str, right: str) -> str | Interval:
        difference = canonical(read(left) - read(right))
        if not difference.free_symbols:
            raise Refused
        if operator == r"\ne":
            return rf"{_written(_monic(difference))} \ne 0"
        symbols = difference.free_symbols
        if len(symbols) == 1 and difference.is_polynomial(*symbols) and sympy.degree(difference) == 1:
            slope, offset = sympy.Poly(difference, *symbols).all_coeffs()
            end = canonical(-offset / slope)
            if slope.is_number and end.is_number and slope.is_positive is not None:
                return solved(operator if slope.is_positive else FLIPPED[operator], _written(end))
        if operator in ("<", r"\le"):
            difference, operator = canonical(-difference), FLIPPED[operator]
        return f"{_written(difference)} {operator} 0"


def read(text: str) -> Any:
    """Return a sympy expression, not evaluated. Raises Refused."""
    if "%" in text or _UNREADABLE.search(text):
        raise Refused
    try:
        parsed = latex2sympy(
            normalize_latex(_latex(text), _GRAMMAR),
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_SYMBOLS,
        )
    except Exception as error:  # the grammar raises errors of many classes
        raise Refused from error
    if not isinstance(parsed, sympy.Expr) or parsed.has(sympy.zoo, sympy.nan, AppliedUndef):
        raise Refused
    return parsed


def canonical(expression: Any) -> Any:
    """Return one form for equal expressions: exact, multiplied out, over one denominator. Raises Refused."""
    _check_size(expression)
    expression = expression.replace(lambda each: isinstance(each, sympy.Float), _exact).doit()
    expression = expression.subs({sympy.Symbol("i", real=True): sympy.I, sympy.Symbol("i"): sympy.I})
    if expression.has(sympy.zoo, sympy.nan, sympy.AccumBounds) or not isinstance(expression, sympy.Expr):
        raise Refused
    _check_size(expression)
    if not expression.free_symbols:
        return _constant(expression)
    if expression.has(TrigonometricFunction):
        for function, quotient in _QUOTIENTS:
            expression = expression.replace(function, quotient)
    if expression.has(TrigonometricFunction, sympy.exp, sympy.log):
        expression = sympy.simplify(expression)
    try:
        top, bottom = sympy.fraction(sympy.cancel(sympy.together(expression)))
    except sympy.PolynomialError:
        return sympy.simplify(expression)
    return sympy.expand(top) / sympy.expand(bottom)


def _constant(value: Any) -> Any:
    if value.is_Rational or value.is_infinite:
        return value
    steps: tuple[Callable[[Any], Any], ...] = (sympy.simplify, sympy.sqrtdenest, sympy.radsimp, sympy.expand)
    for step in steps:
        value = step(value)
    if value.has(sympy.log):
        value = sympy.expand(sympy.expand_log(value, force=True))
    return value


def _monic(difference: Any) -> Any:
    """Return one form of an equation, whatever factor and sign it was written with."""
    top = sympy.expand(sympy.fraction(sympy.together(difference))[0])
    symbols = sorted(top.free_symbols, key=str)
    if top.is_polynomial(*symbols):
        polynomial = sympy.Poly(top, *symbols)
        return sympy.expand(polynomial.monic().as_expr() if polynomial.LC().is_number else top)
    return min(top, sympy.expand(-top), key=lambda each: (str(each).count("-"), str(each)))


def _written(value: Any) -> str:
    if value.is_Rational:
        return str(Fraction(int(value.p), int(value.q)))
    if value.is_infinite:
        return r"\infty" if value == sympy.oo else r"-\infty"
    return re.sub(r"\s*\\right\)", ")", str(sympy.latex(value, ln_notation=True)).replace(r"\left(", "("))


def _same(one: Node, other: Node) -> bool:
    if one.kind != other.kind or len(one.parts) != len(other.parts):
        return _as_equations(one, other)
    if one.kind == "leaf":
        return _equal(one.text, other.text)
    if one.kind == "list":
        return _same_members(one.parts, other.parts)
    # Other kinds were compared by their spelling; tuples and matrices are compared part by part.
    return one.kind in ("tuple", "matrix") and one.text == other.text and all(map(_same, one.parts, other.parts))


def _same_members(some: tuple[Node, ...], others: tuple[Node, ...]) -> bool:
    left = list(others)
    for part in some:
        twin = next((each for each in left if _same(part, each)), None)
        if twin is None:
            return False
        left.remove(twin)
    return True


def _equal(one: str, other: str) -> bool:
    algebra = Symbols()
    if algebra.leaf(one) == algebra.leaf(other):
        return True
    difference = canonical(read(one)) - canonical(read(other))
    return (bool(difference.free_symbols) and sympy.simplify(difference) == 0) or difference.equals(0) is True


def _as_equations(one: Node, other: Node) -> bool:
    """Whether an assignment and an equation agree: y = 2x + 1, whose name was dropped, and 2x - y + 1 = 0."""
    named, equation = (one, other) if one.kind == "leaf" else (other, one)
    if named.kind != "leaf" or not named.name or equation.kind != "equation":
        return False
    algebra = Symbols()
    left, right = (part.text for part in equation.parts)
    return algebra.equation(named.name, named.text) == algebra.equation(left, right)


def _exact(number: Any) -> Any:
    fraction = from_float(str(number)) if re.fullmatch(r"-?\d+\.\d*", str(number)) else Fraction(str(number))
    return sympy.Rational(fraction.numerator, fraction.denominator)


def _latex(text: str) -> str:
    """Convert calculator notation to LaTeX: 2*x**3, sqrt(2), sin(x), 10^-3."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = _FUNCTION.sub(r"\\\1", text).replace("**", "^")
    text = re.sub(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", r"\\pi ", text)
    text = re.sub(r"(?<=\d)pi(?![a-zA-Z])", r"\\pi ", text).replace("*", r" \cdot ")
    text = re.sub(r"\^\s*([-+]?\d+)", r"^{\1}", text)
    for command in (r"\sqrt", "^"):
        text = _braced(text, command)
    text = re.sub(r"\\exp\s*\(", r"e^(", text)
    text = _braced(text, "^")
    text = re.sub(r"(?<=[\d)])\s*(?=\()", r" \\cdot ", text)
    if _TRIGONOMETRY.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})", r"\\frac{\1\\pi}{180}", text)
    text = re.sub(r"\^\s*(?:\\circ(?![a-z])|\{\s*\\circ\s*\})", "", text)
    text = re.sub(r"_\s*\{\s*(\w)\s*\}", r"_\1", text)
    if re.search(r"\d\s*\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}", text):  # 3\frac{1}{2}x: mixed, or a product?
        raise Refused
    return text


def _braced(text: str, command: str) -> str:
    """Write ``command(...)`` as ``command{...}``."""
    start = 0
    while (at := text.find(command, start)) >= 0:
        start = at + len(command)
        opening = re.compile(r"\s*\(").match(text, start)
        if opening is None:
            continue
        depth, end = 1, opening.end()
        while end < len(text) and depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        if depth == 0:
            text = f"{text[:start]}{{{text[opening.end() : end - 1]}}}{text[end:]}"
    return text


def _check_size(expression: Any) -> None:
    """Raise TooLarge for what would take too long: towers of powers, factorials, products of long sums."""
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, CombinatorialFunction) and _magnitude(part.args[0]) > math.log10(450):
            raise TooLarge
        if isinstance(part, (sympy.Sum, sympy.Product)) and any(
            _magnitude(end) > 3 for limit in part.limits for end in limit[1:]
        ):
            raise TooLarge
        if isinstance(part, sympy.Pow) and part.base.free_symbols and part.exp.is_number and _magnitude(part.exp) > 3:
            raise TooLarge
    if _magnitude(expression) > _DIGITS or _terms(expression) > _TERMS:
        raise TooLarge


def _magnitude(expression: Any) -> float:
    """Return a bound on log10 of the largest number that occurs in evaluating an expression."""
    if isinstance(expression, sympy.Integer):
        return math.log10(abs(int(expression)) + 1)
    if isinstance(expression, sympy.Rational):
        return math.log10(max(abs(int(expression.p)), int(expression.q)) + 1)
    parts = [_magnitude(part) for part in expression.args]
    if isinstance(expression, sympy.Pow) and not expression.base.free_symbols and expression.base != sympy.E:
        return parts[0] * (10 ** min(parts[1], 300) if not expression.exp.free_symbols else 1)
    if isinstance(expression, sympy.factorial):
        return 10 ** min(parts[0], 300) * max(0.4, parts[0] - 0.43)
    if isinstance(expression, (sympy.Mul, sympy.Add)):
        return sum(parts)
    return max(parts, default=0.0)


def _terms(expression: Any) -> float:
    """Return how many terms an expression has once multiplied out."""
    if isinstance(expression, sympy.Add):
        return sum(map(_terms, expression.args))
    if isinstance(expression, sympy.Mul):
        return math.prod(map(_terms, expression.args))
    if (
        isinstance(expression, sympy.Pow)
        and expression.base.free_symbols
        and isinstance(expression.exp, sympy.Rational)
    ):
        base, power = _terms(expression.base), abs(float(expression.exp))
        if base <= 1:
            return 1
        return math.exp(min(700.0, math.lgamma(base + power) - math.lgamma(power + 1) - math.lgamma(base)))
    return max(map(_terms, expression.args), default=1)
