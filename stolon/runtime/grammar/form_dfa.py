"""Byte automata of forms: their states linked in one pass from the end, then made deterministic.

Every part leads into the state that comes after it, so what may follow in several ways is there once: an object of n
properties that may be missing has n places and not n². Nothing is marked, as outlines-core needs it (dfa.py), so that
every character of Unicode can be said.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby

import numpy as np
from typing_extensions import assert_never

from .charset import Ranges
from .dfa import Dfa, trimmed
from .form import Both, Either, Form, Letter, Listed, Multiple, Row, Said, Times

MAX_STATES = 16_384  # some 10 to 30 µs each
# What is spent on an automaton is counted, in steps of some 0.2 µs, a second or two at most, as it may be more than its
# states are worth: before they are made deterministic there are more, as where a repeat is written out, and each stands
# for many of them where much may follow in many ways.
_STEPS_PER_STATE = 200
_LINKED, _ROW, _AUTOMATON = 20, 20, 500  # steps that each of them takes besides

_Span = tuple[int, int]
_Link = tuple[int, int, int]  # from a byte to a byte, and the state after it


class TooLargeError(Exception):
    """The automaton is larger than it may be."""


def form_dfa(form: Form, most: int = MAX_STATES, widest: int = 256) -> Dfa:
    """`start` is 0 where there is no text of the form.

    Raises TooLargeError for an automaton of more than `most` states, or one with a state in which more than `widest`
    bytes are legal, as soon as that is known.
    """
    return _Maker(most).dfa(form, widest)


class _Maker:
    """One automaton and those that it is put together from, within one count of steps."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.left = _STEPS_PER_STATE * most
        self.products: dict[int, Dfa] = {}

    def step(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise TooLargeError

    def dfa(self, form: Form, widest: int = 256) -> Dfa:
        self.step(_AUTOMATON)
        net = _Net(self)
        end = net.state()
        begin = net.into(form, end)
        return _Subsets(net, end, self, widest).dfa(begin)

    def product(self, form: Both) -> Dfa:
        """Each made once, however often it is said. Forms live as long as this, and are too deep to be compared."""
        if id(form) not in self.products:
            self.products[id(form)] = _product(self.dfa(form.left), self.dfa(form.right), self)
        return self.products[id(form)]


class _Net:
    """links, skips: for each state, where a byte leads, and where one may be without any"""

    def __init__(self, maker: _Maker) -> None:
        self.maker = maker
        self.links: list[list[_Link]] = []
        self.skips: list[list[int]] = []
        self.known: dict[tuple[int, int], int] = {}  # of what is often said before the same state, by its id

    def state(self, links: list[_Link] | None = None, skips: list[int] | None = None) -> int:
        self.maker.step(_LINKED)
        self.links.append(links or [])
        self.skips.append(skips or [])
        return len(self.links) - 1

    def into(self, form: Form, after: int) -> int:
        """The state from which texts of `form` lead to `after`."""
        match form:
            case Said(text):
                for byte in reversed(text):
                    after = self.state([(byte, byte, after)])
                return after
            case Letter() | Times():
                key = (id(form), after)
                if key not in self.known:
                    lead = self._letter(form.ranges, after) if isinstance(form, Letter) else self._times(form, after)
                    self.known[key] = lead
                return self.known[key]
            case Row(parts):
                for part in reversed(parts):
                    after = self.into(part, after)
                return after
            case Either(options):
                return self.state(skips=[self.into(option, after) for option in options])
            case Both():
                return self._copied(self.maker.product(form), after)
            case Listed():
                return self._listed(form, after)
            case Multiple(of):
                return self._multiple(of, after)
            case _:
                assert_never(form)

    def _letter(self, ranges: Ranges, after: int) -> int:
        known: dict[tuple[_Span, ...], int] = {(): after}

        def behind(spans: tuple[_Span, ...]) -> int:
            if spans not in known:
                known[spans] = self.state([(*spans[0], behind(spans[1:]))])
            return known[spans]

        return self.state([(*spans[0], behind(spans[1:])) for spans in _sequences(ranges)])

    def _times(self, form: Times, after: int) -> int:
        if form.high is None:
            entry = self.state()
            self.skips[entry] = [self.into(form.part, entry), after]
        else:
            entry = after
            for _ in range(form.high - form.low):
                entry = self.state(skips=[self.into(form.part, entry), after])
        for _ in range(form.low):
            entry = self.into(form.part, entry)
        return entry

    def _listed(self, form: Listed, after: int) -> int:
        first = behind = after  # where no item was said yet, and where one was
        for item, is_required in reversed(form.items):
            entry = self.into(item, behind)
            comma = self.into(form.comma, entry)
            behind = comma if is_required else self.state(skips=[comma, behind])
            first = entry if is_required else self.state(skips=[entry, first])
        return first

    def _multiple(self, of: int, after: int) -> int:
        remainders = [self.state() for _ in range(of)]
        for remainder, state in enumerate(remainders):
            self.links[state] = _digits(remainders, remainder)
        self.skips[remainders[0]] = [after]
        begun = self.state(_digits(remainders, 0))
        return self.state([(0x2D, 0x2D, begun)], [begun])

    def _copied(self, dfa: Dfa, after: int) -> int:
        states = [self.state() for _ in range(dfa.states)]
        spans = _spans_of(dfa)
        for state, row in enumerate(dfa.table.tolist()):
            self.links[states[state]] = [(low, high, states[row[of]]) for low, high, of in spans if row[of]]
            self.skips[states[state]] = [after] if dfa.accepting[state] else []
        return states[dfa.start]


class _Subsets:
    """The states in which a net may be at the same time, each set of them one state: 0 is the empty set."""

    def __init__(self, net: _Net, end: int, maker: _Maker, widest: int) -> None:
        self.net, self.end, self.maker, self.widest = net, end, maker, widest
        cuts = {0, 256}
        for links in net.links:
            for low, high, _ in links:
                cuts |= {low, high + 1}
        self.cuts = np.array(sorted(cuts))
        place = {int(cut): index for index, cut in enumerate(self.cuts)}
        self.links = [[(place[low], place[high + 1], after) for low, high, after in links] for links in net.links]
        self.solid: dict[int, frozenset[int]] = {}
        self.number: dict[frozenset[int], int] = {frozenset(): 0}
        self.by_states: dict[tuple[int, ...], int] = {(): 0}
        self.sets: list[frozenset[int]] = [frozenset()]

    def dfa(self, start: int) -> Dfa:
        begin = self.numbered((start,))
        rows = [self.row(states) for states in self.sets]  # which grow on the way
        byte_class = np.searchsorted(self.cuts, np.arange(256), side="right") - 1
        accepting = np.array([self.end in states for states in self.sets], np.bool_)
        return trimmed(np.array(rows, np.int32)[:, byte_class], accepting, begin)

    def row(self, states: frozenset[int]) -> list[int]:
        found = [0] * (len(self.cuts) - 1)
        links = [link for state in states for link in self.links[state]]
        self.maker.step(_ROW + len(links))
        if self.widest < 256 and self.legal(links) > self.widest:
            raise TooLargeError
        if len(links) == 1:
            low, high, after = links[0]
            found[low:high] = [self.numbered((after,))] * (high - low)
            return found
        afters: dict[int, list[int]] = {}
        for low, high, after in links:
            for place in range(low, high):
                afters.setdefault(place, []).append(after)
        for place, some in afters.items():
            found[place] = self.numbered(tuple(some))
        return found

    def numbered(self, states: tuple[int, ...]) -> int:
        known = self.by_states.get(states)
        if known is None:
            together = frozenset[int]().union(*map(self.reached, states))
            known = self.number.setdefault(together, len(self.sets))
            self.by_states[states] = known
            if known == len(self.sets):
                if known > self.maker.most:
                    raise TooLargeError
                self.sets.append(together)
        return known

    def reached(self, state: int) -> frozenset[int]:
        """Where one is in `state` without a byte more, as far as something is said or ends there."""
        if state not in self.solid:
            seen, waiting = {state}, [state]
            while waiting:
                for after in self.net.skips[waiting.pop()]:
                    if after not in seen:
                        seen.add(after)
                        waiting.append(after)
            self.maker.step(len(seen))
            self.solid[state] = frozenset(one for one in seen if self.links[one] or one == self.end)
        return self.solid[state]

    def legal(self, links: list[_Link]) -> int:
        """Bytes that one of the links begins with."""
        places = {place for low, high, _ in links for place in range(low, high)}
        return sum(int(self.cuts[place + 1] - self.cuts[place]) for place in places)


def _digits(remainders: list[int], before: int) -> list[_Link]:
    """Where each digit leads behind digits that left the remainder `before`."""
    return [(0x30 + digit, 0x30 + digit, remainders[(10 * before + digit) % len(remainders)]) for digit in range(10)]


def _product(left: Dfa, right: Dfa, maker: _Maker) -> Dfa:
    """The automaton of the texts that both take."""
    pairs, byte_class = np.unique(np.stack([left.byte_class, right.byte_class]), axis=1, return_inverse=True)
    of_left: list[list[int]] = left.table[:, pairs[0]].tolist()
    of_right: list[list[int]] = right.table[:, pairs[1]].tolist()
    number = {(0, 0): 0}
    begin = (left.start, right.start) if left.start and right.start else (0, 0)
    number.setdefault(begin, len(number))
    waiting = list(number)
    rows: list[list[int]] = []
    for one, other in waiting:  # grows on the way
        maker.step(_ROW + len(pairs[0]))
        row: list[int] = []
        for after in zip(of_left[one], of_right[other], strict=True):
            pair = after if after[0] and after[1] else (0, 0)
            if pair not in number:
                if len(number) > maker.most:
                    raise TooLargeError
                number[pair] = len(number)
                waiting.append(pair)
            row.append(number[pair])
        rows.append(row)
    accepting = np.array([left.accepting[one] and right.accepting[other] for one, other in waiting], np.bool_)
    return trimmed(np.array(rows, np.int32)[:, byte_class.ravel()], accepting, number[begin])


def _spans_of(dfa: Dfa) -> list[_Link]:
    """The stretches of bytes of one class: first, last and the class."""
    found: list[_Link] = []
    for of, group in groupby(range(256), key=dfa.byte_class.__getitem__):
        stretch = list(group)
        found.append((stretch[0], stretch[-1], int(of)))
    return found


@lru_cache(maxsize=512)
def _sequences(ranges: Ranges) -> tuple[tuple[_Span, ...], ...]:
    """Characters as UTF-8: each a span for its first byte, and one for each byte behind it."""
    found: list[tuple[_Span, ...]] = []
    for low, high in ranges:
        for first, last in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, 0x10FFFF)):
            if low <= last and first <= high:
                found += _same_length(chr(max(low, first)).encode(), chr(min(high, last)).encode())
    return tuple(found)


def _same_length(low: bytes, high: bytes) -> list[tuple[_Span, ...]]:
    """Spans for all that lies between two characters of one length, both of them included."""
    if len(low) == 1 or (low[0] == high[0] and not low[1:].strip(b"\x80") and not high[1:].strip(b"\xbf")):
        return [tuple(zip(low, high, strict=True))]
    if low[0] == high[0]:
        return [((low[0], low[0]), *rest) for rest in _same_length(low[1:], high[1:])]
    least, most = b"\x80" * (len(low) - 1), b"\xbf" * (len(low) - 1)
    found: list[tuple[_Span, ...]] = []
    first, last = low[0], high[0]
    if low[1:] != least:
        found += [((first, first), *rest) for rest in _same_length(low[1:], most)]
        first += 1
    if high[1:] != most:
        last -= 1
    if first <= last:
        found.append(((first, last), *zip(least, most, strict=True)))
    if high[1:] != most:
        found += [((high[0], high[0]), *rest) for rest in _same_length(least, high[1:])]
    return found
