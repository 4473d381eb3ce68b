"""Sets of characters as sorted ranges; what a piece of a pattern means is what Python's `re` says it means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

Ranges = tuple[tuple[int, int], ...]
"""Sorted, disjoint, not adjacent; both ends belong to the range."""

LAST = 0x10FFFF
# Two noncharacters mark the ends of a pattern when it is compiled (see dfa.py), so no answer can hold them.
START_MARK, END_MARK = LAST - 1, LAST
_SURROGATES = (0xD800, 0xDFFF)  # have no UTF-8 form

EVERY: Ranges = ((0, _SURROGATES[0] - 1), (_SURROGATES[1] + 1, START_MARK - 1))
"""Every character that an answer may hold."""


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def gaps(ranges: Ranges) -> Ranges:
    """All code points but those of `ranges`."""
    found: list[tuple[int, int]] = []
    begin = 0
    for low, high in (*ranges, (LAST + 1, LAST + 1)):
        if begin < low:
            found.append((begin, low - 1))
        begin = high + 1
    return tuple(found)


def complement(ranges: Ranges) -> Ranges:
    """What answers may hold and `ranges` does not."""
    return gaps(union([*ranges, _SURROGATES, (START_MARK, END_MARK)]))


def sayable(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """`ranges` without what no answer may hold."""
    return complement(complement(union(ranges)))


@lru_cache(maxsize=1)
def _every_character() -> str:
    # by `chr` it would take 150 ms
    return "".join(np.arange(low, high + 1, dtype="<u4").tobytes().decode("utf-32-le") for low, high in EVERY)


@lru_cache(maxsize=512)
def meaning(source: str, flags: str) -> Ranges:
    """The characters that `source` matches, a piece of a pattern that matches single characters only.

    flags: letters of `re` that hold there, of "as", sorted
    Every character there is gets tried, in one search: some 5 to 20 ms.
    """
    pattern = _compiled(source, flags)
    skipped = _SURROGATES[1] - _SURROGATES[0] + 1
    first = EVERY[0][1]
    found: list[tuple[int, int]] = []
    for match in pattern.finditer(_every_character()):
        low, high = match.start(), match.end() - 1
        if low <= first:
            found.append((low, min(high, first)))
        if high > first:
            found.append((max(low, first + 1) + skipped, high + skipped))
    return union(found)


@lru_cache(maxsize=1)
def _cased_characters() -> tuple[str, Ranges]:
    """Every character that another one differs from in case only; none stands above the second plane."""
    cased: set[str] = set()
    for char in map(chr, range(0x20000)):
        if char.lower() != char or char.upper() != char:
            cased.update(char, char.lower(), char.upper())
    return "".join(sorted(cased)), union((ord(char), ord(char)) for char in cased)


@lru_cache(maxsize=512)
def case_folded(source: str, flags: str, ranges: Ranges) -> Ranges:
    """`ranges`, the meaning of `source`, made the one that it has under the flag i, which `flags` holds."""
    text, cased = _cased_characters()
    pattern = _compiled(source, flags)
    matching = [(ord(char), ord(char)) for char in text if pattern.fullmatch(char)]
    return union([*complement(union([*complement(ranges), *cased])), *matching])


def _compiled(source: str, flags: str) -> re.Pattern[str]:
    return re.compile(f"(?{flags}:{source})+" if flags else f"(?:{source})+")


def partial_blocks(ranges: Ranges) -> int:
    """About how many states of a byte automaton stand between the first and the last byte of one of these characters.

    Blocks (of 64, 4096 or 262,144 characters) that are taken whole share their state, so those taken in part count.
    """
    edges = {edge for low, high in ranges for edge in (low, high + 1) if edge >= 0x80}
    if not edges:
        return 0
    return 6 + sum(len({edge // size for edge in edges if edge % size}) for size in (64, 4096, 262_144))
