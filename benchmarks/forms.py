"""Which of two engines should have a schema: the automaton beside llguidance, on a large vocabulary.

    python -m benchmarks.forms TOKENIZER_JSON [FILE_OR_FOLDER ...] [--runs 5]

TOKENIZER_JSON: as `benchmarks.vocabulary` makes it. FILE_OR_FOLDER: as for `benchmarks.schemas`; of their schemas those
that are regular are measured, after the forms of some types. Both engines are walked along the same answers, drawn by
chance under the automaton's masks; llguidance must allow nothing that it does not. Times are CPU time of the thread:
milliseconds of what a child does and of what the parent adds for the vocabulary, microseconds of masks. A table, with a
`+` before what `auto` gives to the automaton, and last one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import enum
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.schemas import cases
from benchmarks.structured import Words, installed, share
from stolon.lang.constraint import Constraint
from stolon.lang.errors import InvalidRequest
from stolon.lang.typed import type_form
from stolon.runtime.grammar.automaton import AutomatonGrammar
from stolon.runtime.grammar.dfa import Dfa
from stolon.runtime.grammar.llg import LlgGrammar
from stolon.runtime.grammar.llg_vocabulary import LlgVocabulary
from stolon.runtime.grammar.matcher import Grammar, Matcher
from stolon.runtime.grammar.prepare import prepare
from stolon.runtime.grammar.schema import rewrite_schema
from stolon.runtime.grammar.trie import Vocabulary

WALKS, STEPS = 4, 40
PLENTY = 10_000  # tokens that an answer may have


class Colour(enum.Enum):
    RED = "red"
    GREEN = "dark green"


@dataclasses.dataclass
class Point:
    x: int
    y: float


@dataclasses.dataclass
class Setting:
    level: int
    is_on: bool
    colour: Colour
    since: dt.date | None


@dataclasses.dataclass
class Person:
    name: str
    age: int


TYPES: dict[str, Any] = {
    "int | None": int | None,
    "int | str": int | str,
    "list[int]": list[int],
    "list[float]": list[float],
    "tuple[int, bool]": tuple[int, bool],
    "list[Colour]": list[Colour],
    "dict[Literal, bool]": dict[Literal["a", "b"], bool],
    "date | None": dt.date | None,
    "list[datetime]": list[dt.datetime],
    "UUID | None": uuid.UUID | None,
    "Point": Point,
    "Setting": Setting,
    "list[Setting]": list[Setting],
    "Person": Person,
}
PLAIN: dict[str, Any] = {
    "integer": {"type": "integer"},
    "0 to 150": {"type": "integer", "minimum": 0, "maximum": 150},
    "number": {"type": "number"},
    "boolean": {"type": "boolean"},
    "enum": {"enum": ["red", "green", "blue"]},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "email": {"type": "string", "format": "email"},
    "code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "word": {"type": "string", "pattern": "^[a-z]{1,10}$"},
    "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
    "string": {"type": "string"},
    "short string": {"type": "string", "maxLength": 20},
}


class Vocabularies:
    def __init__(self, words: Words) -> None:
        self.words = words
        self.trie = Vocabulary(words.texts, [words.eos], words.encode_text)
        self.llg = LlgVocabulary(words.texts, eos_ids=[words.eos], encode=words.encode_text)


def schemas(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for name, kind in TYPES.items():
        form = type_form(kind).constraint
        assert form is not None
        if form.kind == "json_schema":
            yield name, form.text
    yield from ((name, json.dumps(schema)) for name, schema in PLAIN.items())
    for path in paths:
        yield from ((case.name, json.dumps(case.schema)) for case in cases(path))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU milliseconds, and what came of it."""
    begun = time.thread_time_ns()
    result = work()
    return (time.thread_time_ns() - begun) / 1e6, result


def measure(text: str, known: Vocabularies, runs: int) -> dict[str, Any]:
    """Both engines on one schema. Raises InvalidRequest for one that the automaton does not take."""
    ms: dict[str, list[float]] = {"automaton child": [], "automaton": [], "llguidance child": [], "llguidance": []}
    made: dict[str, Grammar] = {}
    dfa: Any = None
    for run in range(runs):
        rewrite_schema(f'{{"const": {run}}}')  # so that this one is rewritten anew
        took, dfa = timed(lambda: prepare(Constraint("json_schema", text), "automaton"))
        ms["automaton child"].append(took)
        rewrite_schema(f'{{"const": {run}}}')
        took, source = timed(lambda: prepare(Constraint("json_schema", text), "llguidance"))
        ms["llguidance child"].append(took)
        took, made["automaton"] = timed(lambda dfa=dfa: AutomatonGrammar(dfa, known.trie))
        ms["automaton"].append(took)
        took, made["llguidance"] = timed(lambda source=source: LlgGrammar(source, known.llg))
        ms["llguidance"].append(took)
    assert isinstance(dfa, Dfa)
    width = np.bincount(dfa.byte_class, minlength=dfa.table.shape[1])
    return {
        "small": isinstance(prepare(Constraint("json_schema", text), "auto"), Dfa),
        "states": dfa.states,
        "widest": int(((dfa.table != 0) @ width).max()),
        "ms": {name: [round(statistics.median(some), 2), round(max(some), 2)] for name, some in ms.items()},
        "us": walked(made, known.words),
        "kB": {name: grammar.size_bytes // 1000 for name, grammar in made.items()},
        "distance": {name: grammar.matcher().distance() for name, grammar in made.items()},
    }


def mask_us(matcher: Matcher, row: NDArray[np.int32]) -> float:
    return timed(lambda: matcher.fill_mask(row, PLENTY))[0] * 1e3


def walked(made: dict[str, Grammar], words: Words) -> dict[str, list[float]]:
    """The median and the most of masks: of a state's first one, of those made before, and of llguidance's."""
    us: dict[str, list[float]] = {"first": [], "again": [], "llguidance": []}
    rows = {name: np.zeros(-(-words.size // 32), np.int32) for name in made}
    seen: set[bytes] = set()
    for walk in range(WALKS):
        chance = random.Random(walk)
        matchers = {name: grammar.matcher() for name, grammar in made.items()}
        for _ in range(STEPS):
            took = {name: mask_us(matchers[name], rows[name]) for name in made}
            row = rows["automaton"]
            us["again" if row.tobytes() in seen else "first"].append(took["automaton"])
            us["llguidance"].append(took["llguidance"])
            seen.add(row.tobytes())
            # of text that is forced llguidance allows the tokenizer's tokens alone
            assert not (rows["llguidance"] & ~row).any()
            token = int(chance.choice(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little"))))
            if token == words.eos:
                break
            for matcher in matchers.values():
                matcher.advance(token)
    return {name: [share(some, 0.5), share(some, 1.0)] for name, some in us.items()}


HEAD = (
    f"{'':32}{'states':>7}{'widest':>7}{'automaton':>16}{'llguidance':>16}{'masks':>23}{'llguidance':>16}{'kB':>8}"
    "  to an end"
)


def line(name: str, found: dict[str, Any]) -> str:
    ms = {name: some[0] for name, some in found["ms"].items()}
    first, again, others = found["us"]["first"], found["us"]["again"], found["us"]["llguidance"]
    compiled = f"{ms['automaton child']:9.1f}{ms['automaton']:7.1f}{ms['llguidance child']:9.1f}{ms['llguidance']:7.1f}"
    masks = f"{first[0]:9.0f}{first[1]:7.0f}{again[0]:7.0f}{others[0]:9.0f}{others[1]:7.0f}"
    ends = f"{found['distance']['automaton']:7}{found['distance']['llguidance']:5}"
    counts = f"{found['states']:7}{found['widest']:7}"
    return f"{'+' if found['small'] else ' '} {name[:30]:30}{counts}{compiled}{masks}{found['kB']['automaton']:8}{ends}"


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    def over(path: Callable[[dict[str, Any]], float]) -> list[float]:
        return [share(map(path, found), part) for part in (0.5, 0.95, 1.0)]

    return {
        "schemas": len(found),
        "automaton_ms": over(lambda one: one["ms"]["automaton child"][0] + one["ms"]["automaton"][0]),
        "llguidance_ms": over(lambda one: one["ms"]["llguidance child"][0] + one["ms"]["llguidance"][0]),
        "automaton_first_us": over(lambda one: one["us"]["first"][1]),
        "automaton_again_us": over(lambda one: one["us"]["again"][0]),
        "llguidance_us": over(lambda one: one["us"]["llguidance"][0]),
        "llguidance_most_us": over(lambda one: one["us"]["llguidance"][1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    known = Vocabularies(Words(given.tokenizer))
    gc.disable()  # with a vocabulary in memory it takes a tenth of a second where it happens to begin
    print("milliseconds: in the child, and for the vocabulary; microseconds: median and most of first masks, of others")
    print(HEAD)
    results: dict[str, dict[str, Any]] = {}
    for name, text in schemas(given.paths):
        try:
            results[name] = measure(text, known, given.runs)
        except InvalidRequest:
            continue
        print(line(name, results[name]), flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    small = [one for one in results.values() if one["small"]]
    report = {
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": installed(["llguidance", "numpy"]),
        "tokens": known.words.size,
        "small, at p50, p95 and most": summary(small),
        "others": summary([one for one in results.values() if not one["small"]]),
        "schemas": results,
    }
    for kind in ("small, at p50, p95 and most", "others"):
        print(kind, json.dumps(report[kind]))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
