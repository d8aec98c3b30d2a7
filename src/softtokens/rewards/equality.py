"""Whether two answers are equal: Math-Verify decides, and numbers are compared here, exactly or by relative closeness.

Slow and unsafe for hostile texts, so it runs in grading processes only (rewards/worker.py).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import zlib
from typing import Any

from softtokens.rewards.reading import read

_AROUND_SIGNS = re.compile(r"\s*([,;=+()\[\]/-])\s*")
_DIGITS = 50  # precision of irrational values
_EQUAL = 10**-35  # relative: irrational values this close are equal
_LEAST_DECIMALS = 6  # a decimal with at least this many digits may be a rounded value
_NOISE = 10**-12, 5 * 10**-7  # relative and absolute: rounding errors of float64


@dataclasses.dataclass(frozen=True)
class _Number:
    value: Any  # a sympy Rational or, where there is none, a Float of _DIGITS digits
    decimals: int | None = None  # digits after the point if the answer is a single decimal
    digits: int = 0  # its significant digits
    percent: bool = False


def is_equal(given: str, expected: str) -> bool:
    """Whether the given answer equals the expected one. Has no time limit of its own: the caller kills the process."""
    one, other = read_cached(expected), read_cached(given)
    one, other = one.compared_with(other, is_given=False), other.compared_with(one, is_given=True)
    if not one.may_equal(other):
        return False
    if _close_up(one.text) == _close_up(other.text):
        return True
    golds, targets = parsed(one.text), parsed(other.text)
    return any(_same(gold, target) for gold in golds for target in targets)


def value_of(answer: str) -> float | None:
    """A number that equal answers share, but for rounding: the value, or that of a formula at a made-up point. None
    where there is none, or where the same text may have several values."""
    from sympy import Expr

    reading = read_cached(answer)
    expressions = [e for e in parsed(reading.text) if isinstance(e, Expr)]
    if len(expressions) != 1 or reading.last_letter is not None:
        return None
    number = number_of(expressions[0])
    if number is not None and number.percent:
        return None
    try:
        value = float(_at_point(expressions[0]) if number is None else number.value)
    except (TypeError, OverflowError):  # not a number, complex, or too large for a float
        return None
    return value if math.isfinite(value) else None


def _close_up(text: str) -> str:
    return _AROUND_SIGNS.sub(r"\1", text)


read_cached = functools.lru_cache(maxsize=4096)(read)


@functools.lru_cache(maxsize=1024)  # the rollouts of a group share their expected answer, and often agree
def parsed(text: str) -> list[Any]:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # Without units: the `m` of `5m` is a variable here, not metres.
    steps = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
    # LaTeX only: the default would also pick any number from text it cannot parse, such as `\frac{72`.
    extraction = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=steps)]
    return parse(rf"\boxed{{{text}}}", extraction, parsing_timeout=None)


def _same(gold: Any, target: Any) -> bool:
    from math_verify import verify
    from sympy import Eq, Expr, FiniteSet, Interval, MatrixBase, Set, Tuple

    if isinstance(gold, str) or isinstance(target, str):
        return verify(gold, target, timeout_seconds=None)
    one, other = number_of(gold), number_of(target)
    if one is not None and other is not None:
        return numbers_equal(one, other)
    if isinstance(gold, Eq) and isinstance(target, Eq) and gold.lhs == target.lhs and _same(gold.rhs, target.rhs):
        return True
    if isinstance(gold, MatrixBase) and isinstance(target, MatrixBase):
        return gold.shape == target.shape and _all_same(list(gold), list(target))
    if isinstance(gold, FiniteSet) and isinstance(target, FiniteSet):
        return _matched(_parts(gold), _parts(target))
    if isinstance(gold, Tuple) and isinstance(target, Tuple):
        return _all_same(list(gold), list(target))
    if isinstance(gold, FiniteSet) and isinstance(target, (Tuple, Interval)):
        return False  # an answer may omit the brackets, not add them
    if isinstance(gold, (Tuple, Interval)) and isinstance(target, FiniteSet):
        is_point = isinstance(gold, Tuple) or gold.is_open  # (2, 3) is read as an interval
        return is_point and _all_same(_parts(gold), _in_order(target))
    for several, single in ((gold, target), (target, gold)):
        if isinstance(several, (Set, Tuple)) and isinstance(single, Expr):
            return isinstance(several, FiniteSet) and len(several) == 1 and _same(several.args[0], single)
    if _differ_at_points(gold, target) or not verify(gold, target, timeout_seconds=None, allow_set_relation_comp=True):
        return False
    return _parts_agree(gold, target)


def _parts_agree(gold: Any, target: Any) -> bool:
    """False where Math-Verify, whose closeness is absolute, passed over parts that differ."""
    from sympy import Eq, Interval
    from sympy.core.relational import Relational

    if isinstance(target, Eq) and not isinstance(gold, Eq):
        return _parts_agree(gold, target.rhs)
    if isinstance(gold, Eq) and not isinstance(target, Eq):
        return _parts_agree(gold.rhs, target)
    one, other = number_of(gold), number_of(target)
    if one is not None and other is not None:
        return numbers_equal(one, other)
    if _differ_at_points(gold, target):
        return False
    if isinstance(gold, Relational) and isinstance(target, Relational):
        return gold.func != target.func or gold.lhs != target.lhs or _parts_agree(gold.rhs, target.rhs)
    ones, others = _parts(gold), _parts(target)
    if not ones or len(ones) != len(others):
        return True
    if isinstance(gold, Interval) and isinstance(target, Interval):
        return all(map(_parts_agree, ones, others))
    return _matched(ones, others)


def _parts(expression: Any) -> list[Any]:
    from sympy import FiniteSet, Interval, Tuple, Union

    if isinstance(expression, Interval):
        return [expression.start, expression.end]
    return list(expression.args) if isinstance(expression, (FiniteSet, Tuple, Union)) else []


def _in_order(listed: Any) -> list[Any]:
    """The parts of a set as they were written: Math-Verify's kind of set keeps that."""
    return list(getattr(listed, "_unsorted_args", listed.args))


def _all_same(golds: list[Any], targets: list[Any]) -> bool:
    return len(golds) == len(targets) and all(map(_same, golds, targets))


def _matched(golds: list[Any], targets: list[Any]) -> bool:
    """Whether the parts can be paired one to one."""
    rest = list(targets)
    if len(golds) != len(targets):
        return False
    for gold in golds:
        partner = next((i for i, target in enumerate(rest) if _same(gold, target)), None)
        if partner is None:
            return False
        del rest[partner]
    return True


def numbers_equal(one: _Number, other: _Number) -> bool:
    """Whether two numbers are equal, or one is a decimal that the other rounds to. Compared with another number, a
    percentage is n or n / 100."""
    if one.percent == other.percent:
        return _close(one, other)
    if other.percent:
        one, other = other, one
    return _close(one, other) or _close(dataclasses.replace(one, value=one.value / 100, decimals=_shifted(one)), other)


def _shifted(number: _Number) -> int | None:
    return None if number.decimals is None else number.decimals + 2


def _close(one: _Number, other: _Number) -> bool:
    if one.value == other.value:
        return True
    difference, size = abs(one.value - other.value), max(abs(one.value), abs(other.value))
    if not (one.value.is_Rational and other.value.is_Rational) and difference <= _EQUAL * size:
        return True
    decimals = [(n.decimals, n.digits) for n in (one, other) if n.decimals is not None]
    if not decimals:
        return False
    if difference <= min(_NOISE[0] * size, _NOISE[1]):
        return True
    coarser, digits = min(decimals, key=lambda number: number[0])
    long_enough = min(coarser, digits) >= _LEAST_DECIMALS
    return long_enough and 2 * difference * 10**coarser <= 1


def number_of(expression: Any) -> _Number | None:
    """The value of a parsed answer that is one finite real number; None for others."""
    from sympy import Expr, Float, Mul, Rational, UnevaluatedExpr

    if not isinstance(expression, Expr) or expression.free_symbols:
        return None
    percent = isinstance(expression, Mul) and UnevaluatedExpr(Rational(1, 100)) in expression.args
    if percent:
        rest = [arg for arg in expression.args if arg != UnevaluatedExpr(Rational(1, 100))]
        expression = rest[0] if len(rest) == 1 else Mul(*rest)
    floats = expression.atoms(Float)
    exact = expression.xreplace({f: _written(f) for f in floats}) if floats else expression
    value = exact.doit()
    if not value.is_Rational:
        value = value.evalf(_DIGITS)
    if not (value.is_Rational or value.is_Float) or not value.is_finite:
        return None
    decimals, digits = None, 0
    if floats:
        decimals = 10**6  # computed exactly from decimals, so only float noise is allowed
        if len(floats) == 1 and abs(value) == (written := abs(_written(next(iter(floats))))):
            decimals, digits = _places(written)
    return _Number(value, decimals, digits, percent)


def _written(number: Any) -> Any:
    """The decimal that was written: a sympy Float is the binary number next to it."""
    from sympy import Rational

    return Rational(str(number))


def _places(value: Any) -> tuple[int, int]:
    """Digits behind the point, and significant digits, of a value that has finitely many."""
    decimals = 0
    while value.q != 1:
        value, decimals = value * 10, decimals + 1
    return decimals, len(str(abs(value.p)))


def _differ_at_points(gold: Any, target: Any) -> bool:
    """Whether two formulas have different values at a made-up point. Cheaper than simplifying their difference, and
    relative: `10^{-25} x` is not `10^{-26} x`."""
    from sympy import Expr

    if not isinstance(gold, Expr) or not isinstance(target, Expr):
        return False
    one, other = _at_point(gold), _at_point(target)
    return one is not None and other is not None and bool(abs(one - other) > 1e-9 * max(abs(one), abs(other)))


@functools.lru_cache(maxsize=1024)
def _at_point(expression: Any) -> Any:
    """The value where each variable is a number made of its name; None where there is no finite one."""
    from sympy import Rational, nan, zoo

    point = {s: Rational(1000 + zlib.crc32(str(s).encode()) % 9973, 997) for s in expression.free_symbols}
    try:
        value = expression.xreplace(point).doit().evalf(20)
    except (TypeError, ValueError, ZeroDivisionError, AttributeError, NotImplementedError):
        return None
    return value if value.is_number and not value.has(nan, zoo) and value.is_finite else None
