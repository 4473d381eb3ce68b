"""Fewest tokens to an end, for every state of an automaton at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dfa import Dfa
from .trie import ClassTrie, TooWideError

UNREACHABLE = 2**31 - 1
MAX_PATHS = 8_000_000  # walked for all states together: about half a second
_STATES_AT_ONCE = 1024


def token_distances(dfa: Dfa, trie: ClassTrie, max_paths: int = MAX_PATHS) -> tuple[NDArray[np.int32], bool]:
    """int32 [states] and whether they are exact; UNREACHABLE where no tokens lead to an end.

    Where walking all tokens from all states would pass `max_paths`, long tokens are left out, which makes distances
    too large but keeps what the masks rest on: a state at distance d has a token to one at d - 1 or less.
    """
    links, whole = _links(dfa, trie, max_paths)
    distances = _backwards(dfa, links)
    if not whole and distances[dfa.start] == UNREACHABLE:
        links, whole = _links(dfa, trie, 8 * max_paths)
        distances = _backwards(dfa, links)
    return distances, whole


def _links(dfa: Dfa, trie: ClassTrie, max_paths: int) -> tuple[NDArray[np.int64], bool]:
    """Different pairs of states, as before * states + after, that a token leads between; whether they are all."""
    found: list[NDArray[np.int64]] = []
    whole = True
    waiting = [(low, min(low + _STATES_AT_ONCE, dfa.states)) for low in range(1, dfa.states, _STATES_AT_ONCE)]
    while waiting:
        low, high = waiting.pop()
        try:
            links, every = _links_from(dfa, trie, low, high, max_paths * (high - low) // dfa.states)
        except TooWideError:
            middle = (low + high) // 2
            waiting += [(low, middle), (middle, high)]
            continue
        found += links
        whole = whole and every
    return (_different(np.concatenate(found)) if found else np.zeros(0, np.int64)), whole


def _links_from(dfa: Dfa, trie: ClassTrie, low: int, high: int, room: int) -> tuple[list[NDArray[np.int64]], bool]:
    """The links of states `low` to `high`: all, or those of the tokens up to a length where there is no more room."""
    found: list[NDArray[np.int64]] = []
    origins = np.arange(low, high, dtype=np.int32)
    for origin, node, state in trie.levels(dfa.table, origins):
        token = trie.is_token[node]
        found.append(_different(origins[origin[token]].astype(np.int64) * dfa.states + state[token]))
        room -= len(node)
        if room < 0:
            return found, False
    return found, True


def _different(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(keys)


def _backwards(dfa: Dfa, links: NDArray[np.int64]) -> NDArray[np.int32]:
    """Breadth first from the accepting states."""
    before, after = np.divmod(links, max(dfa.states, 1))
    by_after = np.argsort(after, kind="stable")
    before = before[by_after]
    count = np.bincount(after, minlength=dfa.states)
    begin = np.cumsum(count) - count
    distances = np.full(dfa.states, UNREACHABLE, np.int32)
    reached = np.flatnonzero(dfa.accepting)
    step = 0
    while reached.size:
        distances[reached] = step
        step += 1
        size = count[reached]
        offset = begin[reached] - (np.cumsum(size) - size)
        reached = np.unique(before[np.repeat(offset, size) + np.arange(int(size.sum()))])
        reached = reached[distances[reached] == UNREACHABLE]
    return distances
