"""Intervals of whole numbers as regular expressions."""

from __future__ import annotations


def integers_between(low: int, high: int) -> str:
    """A regex of the whole numbers from `low` to `high`, both included, without leading zeros or a minus before 0."""
    ways: list[str] = []
    if low < 0:
        ways += ["-" + way for way in _naturals(max(1, -high), -low)]
    if high >= 0:
        ways += _naturals(max(low, 0), high)
    return f"(?:{'|'.join(ways)})"


def _naturals(low: int, high: int) -> list[str]:
    """Split at the powers of ten, so that both ends of each part have as many digits."""
    ways: list[str] = []
    while low <= high:
        end = min(high, 10 ** len(str(low)) - 1)
        ways += _same_length(str(low), str(end))
        low = end + 1
    return ways


def _same_length(low: str, high: str) -> list[str]:
    if not low:
        return [""]
    if low == "0" * len(low) and high == "9" * len(high):
        return [_digits("0", "9") + (f"{{{len(low)}}}" if len(low) > 1 else "")]
    if low[0] == high[0]:
        return [low[0] + rest for rest in _same_length(low[1:], high[1:])]
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    below: list[str] = []
    above: list[str] = []
    if low[1:] != "0" * rest:
        below = [low[0] + way for way in _same_length(low[1:], "9" * rest)]
        first += 1
    if high[1:] != "9" * rest:
        above = [high[0] + way for way in _same_length("0" * rest, high[1:])]
        last -= 1
    middle: list[str] = []
    if first <= last:
        many = f"[0-9]{{{rest}}}" if rest > 1 else "[0-9]" * rest
        middle = [_digits(str(first), str(last)) + many]
    return [*below, *middle, *above]


def _digits(first: str, last: str) -> str:
    return first if first == last else f"[{first}-{last}]"
