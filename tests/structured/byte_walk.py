"""Two engines beside each other, byte by byte: whether they take the same texts."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from stolon.runtime.grammar.dfa import Dfa
from stolon.runtime.grammar.llg_source import BYTES, LIMITS, spelling
from stolon.runtime.grammar.schema import rewrite_schema

_END = 256
_WALKS, _STEPS = 4, 60


def by_llguidance(schema: str, *, compact: bool = False) -> LLMatcher:
    """A schema as it is given to llguidance, on a vocabulary of the bytes."""
    source = LLMatcher.grammar_from_json_schema(rewrite_schema(schema).text, overrides=spelling(compact=compact))
    matcher = LLMatcher(BYTES.tokenizer, source, log_level=0, limits=LIMITS)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def difference(dfa: Dfa, matcher: LLMatcher) -> str | None:
    """A text after which one takes another next byte, or another end, than the other; None where none is found.

    Every way on from every state of the automaton is gone once, and looked at; then some by chance.
    """
    first = {int(of): byte for byte, of in reversed(list(enumerate(dfa.byte_class)))}
    waiting = deque([(dfa.start, matcher, b"")])
    seen = {dfa.start}
    found = _unlike(dfa, dfa.start, matcher, b"")
    while waiting and found is None:
        state, here, said = waiting.popleft()
        for of, after in enumerate(dfa.table[state].tolist()):
            if not after:
                continue
            there, text = here.deep_copy(), said + bytes([first[of]])
            there.consume_token(first[of])
            found = found or _unlike(dfa, after, there, text)
            if after not in seen:
                seen.add(after)
                waiting.append((after, there, text))
    for seed in range(_WALKS):
        found = found or _unlike_by_chance(dfa, matcher.deep_copy(), random.Random(seed))
    return found


def _unlike_by_chance(dfa: Dfa, matcher: LLMatcher, chance: random.Random) -> str | None:
    state, said = dfa.start, b""
    for _ in range(_STEPS):
        ways = np.flatnonzero(dfa.table[state, dfa.byte_class]).tolist()
        if not ways:
            break
        byte = chance.choice(ways)
        matcher.consume_token(byte)
        state, said = dfa.step(state, bytes([byte])), said + bytes([byte])
        if (found := _unlike(dfa, state, matcher, said)) is not None:
            return found
    return None


def _unlike(dfa: Dfa, state: int, matcher: LLMatcher, said: bytes) -> str | None:
    ours = np.append(dfa.table[state, dfa.byte_class] != 0, dfa.accepting[state])
    theirs = _legal(matcher)
    if not (ours != theirs).any():
        return None
    names = [{_END: "end"}.get(byte, repr(chr(byte))) for byte in np.flatnonzero(ours != theirs).tolist()]
    return f"after {said!r} only one of both takes {', '.join(names)}"


def _legal(matcher: LLMatcher) -> NDArray[np.bool_]:
    row = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(row, bitorder="little")[: _END + 1].astype(np.bool_)
