"""Byte automata of regular constraints: outlines-core's for a pattern, one of our own for a list of texts.

outlines-core's index over a vocabulary of the 256 bytes is the automaton of a pattern. Two noncharacters stand around
the pattern: the end mark makes alternatives a set (the first that matches does not hide longer ones, and no state that
accepts loses its ways onward), the start mark keeps the unanchored half, which is built too, as small as the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import outlines_core  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from ...lang.errors import InvalidRequest
from .charset import END_MARK, START_MARK
from .dialect import Anchor, Chain, Choice, Leaf, Node, Repeat, parse
from .estimate import estimate

MAX_CHOICE_BYTES = 4_000_000  # of all options together
MAX_CHOICE_LENGTH = 16_384  # bytes of one option
MAX_CHOICE_STATES = 500_000  # before equal endings are shared; a microsecond each
MAX_TABLE_BYTES = 64_000_000

Ints = NDArray[np.int32]
_BYTES = cast(
    object,
    outlines_core.Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)}),  # pyright: ignore[reportUnknownMemberType]
)
_START, _END = chr(START_MARK), chr(END_MARK)


class _Index(Protocol):
    """The part of outlines_core.Index that is used; a row is token to state."""

    def get_initial_state(self) -> int: ...
    def get_final_states(self) -> set[int]: ...
    def get_transitions(self) -> dict[int, dict[int, int]]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Dfa:
    """A deterministic automaton over classes of bytes that it never tells apart. From every state but 0 an end is near.

    table: int32 [states, classes]; state 0 is dead, and so is class 0, of the bytes that are legal nowhere
    byte_class: int32 [256]
    accepting: bool [states]
    start: 0 where nothing is legal
    """

    table: Ints
    byte_class: Ints
    accepting: NDArray[np.bool_]
    start: int

    @property
    def states(self) -> int:
        return len(self.table)

    @property
    def size_bytes(self) -> int:
        return self.table.nbytes + self.accepting.nbytes + self.byte_class.nbytes

    def pairs(self) -> NDArray[np.bool_]:
        """bool [classes, classes]: which classes can follow which, in any state; row 0: which there are."""
        legal = self.table != 0
        found = np.zeros((legal.shape[1], legal.shape[1]), np.bool_)
        found[0] = legal.any(axis=0)
        for one in range(1, len(found)):
            found[one] = legal[np.unique(self.table[:, one])].any(axis=0)
        return found

    def step(self, state: int, text: bytes) -> int:
        """The state after `text`; 0 is dead."""
        table, byte_class = self.table, self.byte_class
        for byte in text:
            state = int(table[state, byte_class[byte]])
        return state


def regex_dfa(pattern: str) -> Dfa:
    """The automaton of the texts that `re.fullmatch` takes. Raises InvalidRequest as `parse` and `estimate` do."""
    tree = parse(pattern)
    if tree == Choice(()):
        return trimmed(np.zeros((1, 256), np.int32), np.zeros(1, np.bool_), 0)
    texts = _plain_texts(tree)
    if texts is not None and max(map(len, texts)) * 4 <= MAX_CHOICE_LENGTH:
        return choices_dfa(texts)
    estimate(tree)
    marked = f"{_START}{written(tree)}{_END}"
    index = cast(_Index, outlines_core.Index(marked, _BYTES))  # pyright: ignore[reportUnknownMemberType]
    # outlines-core names states by where they lie in its own table
    number = {0: 0}
    rows = index.get_transitions()
    for state in (*rows, *index.get_final_states()):
        number.setdefault(state, len(number))
    table = np.zeros((len(number), 256), np.int32)
    for state, row in rows.items():
        row.pop(256, None)
        table[number[state], list(row)] = [number[after] for after in row.values()]
    ended = np.zeros(len(number), np.bool_)
    ended[[number[state] for state in index.get_final_states()]] = True
    after_end = np.arange(len(number), dtype=np.int32)
    for byte in _END.encode():
        after_end = table[after_end, byte]
    start = number[index.get_initial_state()]
    for byte in _START.encode():
        passed, start = start, int(table[start, byte])
        table[passed] = 0
    ended[0] = False
    return trimmed(table, ended[after_end], start)


def choices_dfa(options: Sequence[str]) -> Dfa:
    """The automaton of exactly `options`; doubles do no harm. Raises InvalidRequest for none, or for too many."""
    if not options:
        raise InvalidRequest(
            "choices must not be empty: name at least one text", param="choices", code="invalid_choices"
        )
    texts = sorted({_encoded(option) for option in options})
    if (size := sum(map(len, texts))) > MAX_CHOICE_BYTES:
        raise InvalidRequest(
            f"all choices together may have {MAX_CHOICE_BYTES} bytes, got {size}; offer fewer or shorter ones",
            param="choices",
            code="grammar_too_complex",
        )
    if (longest := max(map(len, texts))) > MAX_CHOICE_LENGTH:
        raise InvalidRequest(
            f"a choice may have {MAX_CHOICE_LENGTH} bytes, got {longest}; offer shorter ones",
            param="choices",
            code="grammar_too_complex",
        )
    joined = np.frombuffer(b"".join(texts), np.uint8)
    byte_class = np.zeros(256, np.int32)
    used = np.unique(joined)
    byte_class[used] = np.arange(1, len(used) + 1)
    return _text_automaton(joined, np.array([len(text) for text in texts]), byte_class)


def _encoded(option: str) -> bytes:
    try:
        return option.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"the choice {ascii(option)[:100]} holds half a surrogate pair, which no text can hold",
            param="choices",
            code="invalid_choices",
        ) from None


def _text_automaton(joined: NDArray[np.uint8], lengths: NDArray[np.int64], byte_class: Ints) -> Dfa:
    """The trie of the sorted, different texts, built column by column, with equal endings shared."""
    classes = int(byte_class.max()) + 1
    starts = np.cumsum(lengths) - lengths
    node = np.ones(len(lengths), np.int64)  # of each text, after the bytes so far; 1 is the root
    edges: list[tuple[NDArray[np.int64], Ints, NDArray[np.int64]]] = []
    accepting_nodes = [node[lengths == 0]]
    nodes, depth = 2, 0
    alive = np.flatnonzero(lengths > 0)
    levels = [1]
    while alive.size:
        letter = byte_class[joined[starts[alive] + depth]]
        parent = node[alive]
        new = np.ones(len(alive), np.bool_)
        new[1:] = (parent[1:] != parent[:-1]) | (letter[1:] != letter[:-1])
        levels.append(nodes)
        node[alive] = nodes + np.cumsum(new) - 1
        edges.append((parent[new], letter[new], node[alive][new]))
        nodes += int(new.sum())
        depth += 1
        accepting_nodes.append(node[alive[lengths[alive] == depth]])
        alive = alive[lengths[alive] > depth]
        if nodes > MAX_CHOICE_STATES or nodes * classes * 4 > MAX_TABLE_BYTES:
            raise InvalidRequest(
                "the choices are too many and too different; offer fewer or shorter ones",
                param="choices",
                code="grammar_too_complex",
            )
    table = np.zeros((nodes, classes), np.int32)
    for parent, letter, child in edges:
        table[parent, letter] = child
    accepting = np.zeros(nodes, np.bool_)
    accepting[np.concatenate(accepting_nodes)] = True
    return _shared(Dfa(table, byte_class, accepting, 1), [*levels, nodes])


def _shared(dfa: Dfa, levels: list[int]) -> Dfa:
    """`dfa`, a tree whose depth d is states levels[d] to levels[d + 1], with states that go on alike made one."""
    table, canon = dfa.table, np.arange(dfa.states, dtype=np.int32)
    known: dict[bytes, int] = {}
    rows = np.concatenate([table, dfa.accepting[:, None].astype(np.int32)], axis=1)
    for low, high in zip(levels[-2::-1], levels[:0:-1], strict=False):
        block = rows[low:high]
        block[:, :-1] = canon[block[:, :-1]]
        canon[low:high] = [known.setdefault(row.tobytes(), low + offset) for offset, row in enumerate(block)]
    kept = np.flatnonzero(canon == np.arange(len(canon)))
    number = np.zeros(len(canon), np.int32)
    number[kept] = np.arange(len(kept))
    return Dfa(number[rows[kept, :-1]], dfa.byte_class, dfa.accepting[kept], int(number[canon[dfa.start]]))


def _plain_texts(tree: Node) -> list[str] | None:
    """The texts of a pattern that only lists texts."""
    texts: list[str] = []
    for option in tree.options if isinstance(tree, Choice) else (tree,):
        text = ""
        for part in option.parts if isinstance(option, Chain) else (option,):
            if not isinstance(part, Leaf) or len(part.ranges) != 1 or part.ranges[0][0] != part.ranges[0][1]:
                return None
            text += chr(part.ranges[0][0])
        texts.append(text)
    return texts


def written(node: Node) -> str:
    """The pattern in the words of outlines-core, with nothing left in it whose meaning differs there."""
    match node:
        case Leaf():
            return "[" + "".join(f"\\x{{{low:x}}}-\\x{{{high:x}}}" for low, high in node.ranges) + "]"
        case Chain():
            return "(?:" + "".join(map(written, node.parts)) + ")"
        case Choice():
            return "(?:" + "|".join(map(written, node.options)) + ")"
        case Repeat():
            high = "" if node.high is None else node.high
            return f"(?:{written(node.part)}){{{node.low},{high}}}"
        case Anchor():
            raise AssertionError("parse takes anchors away")


def trimmed(table: Ints, accepting: NDArray[np.bool_], start: int) -> Dfa:
    """table: [states, 256]. States from which no end can be reached become 0, and bytes that lead nowhere class 0."""
    table, byte_class = _classed(table, np.arange(256, dtype=np.int32))
    live = _near_an_end(table, accepting)
    kept = np.concatenate([[0], np.flatnonzero(live)])
    number = np.zeros(len(table), np.int32)
    number[kept] = np.arange(len(kept))
    table, byte_class = _classed(number[table[kept]], byte_class)
    return Dfa(table, byte_class, accepting[kept], int(number[start]))


def _classed(table: Ints, byte_class: Ints) -> tuple[Ints, Ints]:
    """`table` and `byte_class` with equal columns made one; the column of zeros is the first."""
    columns: Ints = np.ascontiguousarray(np.transpose(table))
    number = {bytes(columns.shape[1] * 4): 0}
    column_class = np.array([number.setdefault(column.tobytes(), len(number)) for column in columns], np.int32)
    classes = np.zeros((len(number), columns.shape[1]), np.int32)
    classes[column_class] = columns
    return np.ascontiguousarray(np.transpose(classes)), column_class[byte_class]


def _near_an_end(table: Ints, accepting: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [states]: those from which an accepting state can be reached; never state 0."""
    before: list[list[int]] = [[] for _ in range(len(table))]
    rows: list[list[int]] = table.tolist()
    for state, row in enumerate(rows):
        for after in set(row):
            before[after].append(state)
    live = np.zeros(len(table), np.bool_)
    waiting: list[int] = np.flatnonzero(accepting).tolist()
    live[waiting] = True
    while waiting:
        for state in before[waiting.pop()]:
            if state and not live[state]:
                live[state] = True
                waiting.append(state)
    return live
