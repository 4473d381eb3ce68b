"""Numbers as forms, between bounds: exactly the spellings that llguidance gives them.

JSON spells a number in many ways. llguidance takes all of them, exponents too, where there are no bounds; else none
with an exponent, and near a bound only some: `-0` not beside every bound, and zeros behind a fraction not where it is
the bound itself. This is kept, so that it cannot be seen which engine has a schema.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from .form import EMPTY, NOTHING, Both, Form, Letter, Multiple, Row, Said, Times, any_of, row, said

_MINUS = Said(b"-")
_DIGIT = Letter(((0x30, 0x39),))
_DIGITS = Times(_DIGIT, 0, None)
_SOME = Times(_DIGIT, 1, None)
_FRACTION = Times(Row((Said(b"."), _SOME)), 0, 1)
_E, _SIGN = Letter(((0x45, 0x45), (0x65, 0x65))), Letter(((0x2B, 0x2B), (0x2D, 0x2D)))
_EXPONENT = Times(Row((_E, Times(_SIGN, 0, 1), _SOME)), 0, 1)

Bound = tuple[Fraction, bool]
"""A number, and whether it is itself left out."""


def whole(low: Bound | None, high: Bound | None, divisor: int | None) -> Form:
    """Whole numbers, written as such."""
    least = None if low is None else -(-low[0] // 1) + (low[1] and low[0].denominator == 1)
    most = None if high is None else high[0] // 1 - (high[1] and high[0].denominator == 1)
    found = _whole(None if least is None else int(least), None if most is None else int(most))
    return found if divisor is None else Both(found, Multiple(divisor))


def _whole(least: int | None, most: int | None) -> Form:
    match least, most:
        case None, None:
            return row(Times(_MINUS, 0, 1), _natural(0, None))
        case None, int() if most < 0:
            return row(_MINUS, _natural(-most, None))
        case None, int():
            return any_of([_natural(0, most), row(_MINUS, _natural(1, None))])
        case int(), None if least < 0:
            return any_of([row(_MINUS, _natural(1, -least)), _natural(0, None)])
        case int(), int() if most < least:
            return NOTHING
        case int(), int() if most < 0:
            return row(_MINUS, _natural(-most, -least))
        case int(), int() if least < 0:
            return any_of([row(_MINUS, _natural(0, -least)), _natural(0, most)])
        case int(), _:
            return _natural(least, most)


def _natural(least: int, most: int | None) -> Form:
    """least: at least 0"""
    digits = len(str(least))
    if most is None:
        longer = row(Letter(((0x31, 0x39),)), Times(_DIGIT, digits, None))
        return any_of([_natural(least, 10**digits - 1), longer])
    options: list[Form] = []
    while len(str(most)) > digits:
        options.append(_same_length(str(least), "9" * digits))
        least, digits = 10**digits, digits + 1
    return any_of([*options, _same_length(str(least), str(most))])


def _same_length(low: str, high: str) -> Form:
    if low == high:
        return said(low)
    if not low.strip("0") and not high.strip("9"):
        return _digits(len(low))
    if low[0] == high[0]:
        return row(said(low[0]), _same_length(low[1:], high[1:]))
    rest = len(low) - 1
    options = [row(said(low[0]), _same_length(low[1:], "9" * rest))]
    if int(low[0]) + 1 < int(high[0]):
        options.append(row(_from_to(int(low[0]) + 1, int(high[0]) - 1), _digits(rest)))
    return any_of([*options, row(said(high[0]), _same_length("0" * rest, high[1:]))])


@lru_cache(maxsize=512)  # one form for each count, so that states are shared
def _digits(count: int) -> Form:
    return Times(_DIGIT, count, count)


def _from_to(low: int, high: int) -> Form:
    return Letter(((0x30 + low, 0x30 + high),))


def decimal(low: Bound | None, high: Bound | None) -> Form:
    """Numbers with a fraction or without."""
    match low, high:
        case None, None:
            return row(Times(_MINUS, 0, 1), _natural(0, None), _FRACTION, _EXPONENT)
        case None, (top, is_out):
            if top < 0:
                return row(_MINUS, decimal((-top, is_out), None))
            negative = row(_MINUS, decimal((Fraction(0), True), None))
            zero = NOTHING if is_out else Said(b"0")
            return any_of([negative, decimal((Fraction(0), False), high) if top else zero])
        case (bottom, is_out), None:
            if bottom < 0:
                return any_of([_negative(low), decimal((Fraction(0), False), None)])
            digits = len(str(int(bottom)))
            longer = row(Letter(((0x31, 0x39),)), Times(_DIGIT, digits, None), _FRACTION)
            return any_of([_between(low, (Fraction(10**digits), True)), longer])
        case (bottom, _), (top, _) if bottom > top:
            return NOTHING
        case (bottom, _), (top, is_out) if bottom == top:
            return NOTHING if low[1] or is_out else said(_spelled(bottom))
        case (bottom, is_out), (top, _) if top < 0:
            return row(_MINUS, _between((-top, high[1]), (-bottom, is_out)))
        case (bottom, is_out), (top, _) if bottom < 0:
            if high == (0, True):
                return row(_MINUS, _between((Fraction(0), True), (-bottom, is_out)))
            return any_of([_negative(low), decimal((Fraction(0), False), high)])
        case _:
            return _between(low, high)


def _negative(low: Bound) -> Form:
    """From a negative bound up to zero; zero is among them as `-0` where no other whole number is."""
    zero = Said(b"-0") if low[0] > -1 else NOTHING
    return any_of([zero, row(_MINUS, _between((Fraction(0), True), (-low[0], low[1])))])


def _between(low: Bound, high: Bound) -> Form:
    """Of bounds that are not negative, and the first the smaller."""
    least, _, after_least = _spelled(low[0]).partition(".")
    most, _, after_most = _spelled(high[0]).partition(".")
    if least == most:
        length = max(len(after_least), len(after_most))
        after_least, after_most = after_least.ljust(length, "0"), after_most.ljust(length, "0")
        tail = row(Said(b"."), _tails(after_least, after_most, low[1], high[1]))
        is_whole = not after_least.strip("0") and not low[1]
        return row(said(least), Times(tail, 0, 1) if is_whole else tail)
    options: list[Form] = []
    first = int(least)
    if after_least or low[1]:
        options.append(row(said(f"{least}."), _at_least(after_least, low[1])))
        first += 1
    if int(most) > first:
        options.append(row(_natural(first, int(most) - 1), _FRACTION))
    if after_most:
        options.append(row(said(most), Times(row(Said(b"."), _at_most(after_most, high[1])), 0, 1)))
    elif not high[1]:
        options.append(row(said(most), Times(Row((Said(b"."), Times(Said(b"0"), 1, None))), 0, 1)))
    return any_of(options)


def _tails(low: str, high: str, low_is_out: bool, high_is_out: bool) -> Form:
    """The digits behind a point, between bounds of one length that differ."""
    if low[0] == high[0]:
        return row(said(low[0]), _tails(low[1:], high[1:], low_is_out, high_is_out))
    options = [row(said(low[0]), _at_least(low[1:].rstrip("0"), low_is_out))]
    if int(low[0]) + 1 < int(high[0]):
        options.append(row(_from_to(int(low[0]) + 1, int(high[0]) - 1), _DIGITS))
    return any_of([*options, row(said(high[0]), _at_most(high[1:].rstrip("0"), high_is_out))])


def _at_least(bound: str, is_out: bool) -> Form:
    if not bound:
        return row(_DIGITS, _from_to(1, 9)) if is_out else _DIGITS
    options = [row(said(bound[0]), _at_least(bound[1:], is_out))]
    return any_of([*options, row(_from_to(int(bound[0]) + 1, 9), _DIGITS)] if bound[0] != "9" else options)


def _at_most(bound: str, is_out: bool) -> Form:
    if not bound:
        return NOTHING if is_out else EMPTY
    options = [row(said(bound[0]), _at_most(bound[1:], is_out))]
    return any_of([*options, row(_from_to(0, int(bound[0]) - 1), _DIGITS)] if bound[0] != "0" else options)


def _spelled(value: Fraction) -> str:
    """Without an exponent. value: of a decimal in double precision"""
    if value.denominator == 1:
        return str(value.numerator)
    return format(Decimal(repr(float(value))), "f")
