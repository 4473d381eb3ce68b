"""What regular constraints cost on a large vocabulary: to build, to mask a state for the first time, and again.

    python -m benchmarks.masks [--tokens 150000] [--runs 5]

The vocabulary is made up: all bytes, then strings of letters, spaces, digits, signs and a few scripts, from a seed.
Times are CPU time of the thread. A table, and last one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stolon.runtime.grammar.automaton import AutomatonGrammar, compile_choices, compile_regex
from stolon.runtime.grammar.trie import Vocabulary

STRING = r'"([^"\\\x00-\x1F\x7F-\x9F]|\\["\\/bfnrt])'
PATTERNS = {
    "integer": r"-?(0|[1-9][0-9]*)",
    "date": r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "any digits date": r"\d{4}-\d{2}-\d{2}",
    "phone": r"\(?\d{3}\)?[- ]?\d{3}-\d{4}",
    "ip": r"((25[0-5]|2[0-4]\d|[01]?\d\d?)\.){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)",
    "email": r"[a-z0-9._%+-]+@[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}",
    "yes or yesterday": "yes|yesterday",
    "three word characters": r"\w{1,3}",
    "string": STRING + '*"',
    "string up to 50": STRING + '{0,50}"',
    "string up to 1000": STRING + '{0,1000}"',
    "anything, then END": r"(?s:.)*END",
    "object": r'\{"name": '
    + STRING
    + r'*", "age": [0-9]{1,3}, "tags": \[('
    + STRING
    + r'*"(, '
    + STRING
    + r'*")*)?\]\}',
}


def made_up_vocabulary(tokens: int) -> Vocabulary:
    rng = random.Random(0)
    pools = [
        "etaoinshrdlu",
        "etaoinshrdlucmfwypvbgkjqxz",
        "ETAOINSHRDLU",
        "0123456789",
        '{}[]":,.()_-/\\\n ',
        "абвгдеиклмнопрст",
        "的一是不了人我在有他",
    ]
    texts = {bytes([byte]): None for byte in range(256)}
    while len(texts) < tokens:
        word = "".join(
            rng.choices(rng.choices(pools, [6, 8, 2, 1, 1, 1, 1])[0], k=min(1 + int(rng.expovariate(0.22)), 24))
        )
        texts[(rng.choice(["", " "]) + word).encode()] = None
    return Vocabulary([*texts, None, None], [tokens, tokens + 1])


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU microseconds, and what came of it."""
    begun = time.thread_time_ns()
    result = work()
    return (time.thread_time_ns() - begun) / 1e3, result


def measure(build: Callable[[], AutomatonGrammar], runs: int, states: int = 40) -> dict[str, float]:
    builds = [timed(build) for _ in range(runs)]
    grammar = builds[-1][1]
    rng = random.Random(1)
    row = np.zeros(grammar.vocabulary.words, np.int32)
    first: list[float] = []
    again: list[float] = []
    for _ in range(states):
        matcher = grammar.matcher()
        for _ in range(rng.randint(0, 12)):
            known = len(grammar._masks)
            took, _ = timed(lambda m=matcher: m.fill_mask(row, 10_000))
            took_again, _ = timed(lambda m=matcher: m.fill_mask(row, 10_000))
            if len(grammar._masks) > known:
                first.append(took)
            again.append(took_again)
            allowed = np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))
            token = int(rng.choice(allowed))
            if token in grammar.vocabulary.eos_ids:
                break
            matcher.advance(token)
    return {
        "states": grammar.dfa.states,
        "exact": grammar.is_exact,
        "build_ms": statistics.median(took for took, _ in builds) / 1e3,
        "build_spread_ms": (max(took for took, _ in builds) - min(took for took, _ in builds)) / 1e3,
        "first_us_p50": statistics.median(first) if first else 0.0,
        "first_us_max": max(first, default=0.0),
        "again_us_p50": statistics.median(again),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    took, vocabulary = timed(lambda: made_up_vocabulary(given.tokens))
    texts = vocabulary.texts
    took, vocabulary = timed(lambda: Vocabulary(texts, vocabulary.eos_ids))
    print(f"vocabulary of {vocabulary.size} tokens, trie of {len(vocabulary.byte)} nodes: {took / 1e3:.0f} ms")
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=rng.randint(3, 14))) for _ in range(20_000)]
    cases: dict[str, Callable[[], AutomatonGrammar]] = {
        name: lambda p=pattern: compile_regex(p, vocabulary) for name, pattern in PATTERNS.items()
    }
    cases["1,000 choices"] = lambda: compile_choices(words[:1000], vocabulary)
    cases["20,000 choices"] = lambda: compile_choices(words, vocabulary)
    results: dict[str, dict[str, float]] = {}
    print(f"{'':24}{'states':>8}{'exact':>7}{'build ms':>10}{'±':>7}{'first µs':>10}{'max':>8}{'again µs':>10}")
    for name, build in cases.items():
        results[name] = r = measure(build, given.runs)
        print(
            f"{name:24}{r['states']:8}{bool(r['exact'])!s:>7}{r['build_ms']:10.1f}{r['build_spread_ms']:7.1f}"
            f"{r['first_us_p50']:10.0f}{r['first_us_max']:8.0f}{r['again_us_p50']:10.1f}"
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    machine = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
    print(
        json.dumps(
            {
                "commit": commit.stdout.strip(),
                "machine": machine,
                "tokens": vocabulary.size,
                "vocabulary_ms": took / 1e3,
                "cases": results,
            }
        )
    )


if __name__ == "__main__":
    main()
