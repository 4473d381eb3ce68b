"""What a form costs on a large vocabulary: to compile it cold, and to mask each step; beside other engines, in one run.

    python -m benchmarks.structured TOKENIZER_JSON FILE_OR_FOLDER ... [--others 40] [--limit 5]

TOKENIZER_JSON: as `benchmarks.vocabulary` makes it. FILE_OR_FOLDER: as for `benchmarks.schemas`; schemas with labelled
instances are also walked along their valid ones, one mask a token. outlines-core and XGrammar (if it is installed) are
given `--others` of the schemas, spread evenly, each in a fork that is killed after `--limit` seconds. Compile times are
on the clock, from the schema's text to the first mask; ours include the way to the child and back. Mask times are CPU
time. Prints, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import llguidance
import numpy as np
import outlines_core
from outlines_core.json_schema import build_regex_from_schema  # pyright: ignore[reportMissingImports]
from tokenizers import Tokenizer as Backend

from benchmarks.schemas import Case, cases
from benchmarks.vocabulary import END
from stolon.lang.constraint import Constraint
from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar.compiler import GrammarCompiler
from stolon.runtime.tokenizer import Tokenizer
from stolon.runtime.tokenizer_facts import TokenizerFacts

STEPS = 200  # masks of one walk


class Walk(Protocol):
    """One answer on one engine."""

    def mask(self) -> None: ...

    def advance(self, token: int) -> bool: ...


class Words:
    """The vocabulary in the form that each engine needs."""

    def __init__(self, file: Path) -> None:
        self.backend = Backend.from_file(str(file))
        self.size = self.backend.get_vocab_size()
        eos = self.backend.token_to_id(END)
        assert eos is not None, f"{file} has no token {END}; make it with benchmarks.vocabulary"
        self.eos: int = eos
        facts = TokenizerFacts(bos_token_id=None, eos_ids=frozenset([self.eos]), chat_templates={}, named_tokens={})
        self.tokenizer = Tokenizer(Backend.from_file(str(file)), facts)
        self.texts = [b"" if id == self.eos else self.tokenizer.token_bytes(id) for id in range(self.size)]
        self.row = np.zeros(-(-self.size // 32), np.int32)

    def encode(self, value: Any) -> list[int]:
        return self.encode_text(json.dumps(value, ensure_ascii=False))

    def encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode_run(text, "inside")


class Ours:
    def __init__(self, words: Words) -> None:
        self.words = words
        self.compiler = GrammarCompiler(words.tokenizer, words.size, frozenset([words.eos]))
        self.compiler.prepare()
        for text in ('{"type": "null"}', '{"type": "boolean"}'):  # both children and the vocabulary are there then
            self.compiler.compile(Constraint("json_schema", text)).result()

    def begin(self, schema: str) -> Walk:
        return _Ours(self.compiler.compile(Constraint("json_schema", schema)).result().matcher(), self.words.row)


class _Ours:
    def __init__(self, matcher: Any, row: Any) -> None:
        self.matcher, self.row = matcher, row

    def mask(self) -> None:
        self.matcher.fill_mask(self.row, 1_000_000)

    def advance(self, token: int) -> bool:
        self.matcher.advance(token)
        return True


class Llguidance:
    def __init__(self, words: Words) -> None:
        from stolon.runtime.grammar.llg_vocabulary import LlgVocabulary

        self.words = words
        self.tokenizer = LlgVocabulary(words.texts, eos_ids=[words.eos], encode=words.encode_text).tokenizer

    def begin(self, schema: str) -> Walk:
        source = llguidance.LLMatcher.grammar_from_json_schema(schema)
        matcher = llguidance.LLMatcher(self.tokenizer, source, log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error()[:100])
        return _Llguidance(matcher, self.words.row)


class _Llguidance:
    def __init__(self, matcher: llguidance.LLMatcher, row: Any) -> None:
        self.matcher, self.row = matcher, row

    def mask(self) -> None:
        self.matcher.unsafe_compute_mask_ptr(self.row.ctypes.data, self.row.nbytes)

    def advance(self, token: int) -> bool:
        return self.matcher.consume_token(token)


class Outlines:
    def __init__(self, words: Words) -> None:
        self.words = words
        known: dict[bytes, list[int]] = {}
        for id, text in enumerate(words.texts):
            if text:
                known.setdefault(text, []).append(id)
        self.vocabulary = outlines_core.Vocabulary(words.eos, known)

    def begin(self, schema: str) -> Walk:
        index = outlines_core.Index(build_regex_from_schema(schema), self.vocabulary)
        return _Outlines(outlines_core.Guide(index), self.words.row)


class _Outlines:
    def __init__(self, guide: Any, row: Any) -> None:
        self.guide, self.row = guide, row

    def mask(self) -> None:
        self.guide.write_mask_into(self.row.ctypes.data, self.row.size, 4)

    def advance(self, token: int) -> bool:
        self.guide.advance(token, return_tokens=False)
        return True


class XGrammar:
    def __init__(self, words: Words) -> None:
        import xgrammar  # pyright: ignore[reportMissingImports]

        self.xgrammar = xgrammar
        info = xgrammar.TokenizerInfo(
            words.texts, xgrammar.VocabType.RAW, vocab_size=words.size, stop_token_ids=[words.eos]
        )
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.bits = xgrammar.allocate_token_bitmask(1, words.size)

    def begin(self, schema: str) -> Walk:
        compiled = self.compiler.compile_json_schema(schema, any_whitespace=True, strict_mode=True)
        return _XGrammar(self.xgrammar.GrammarMatcher(compiled), self.bits)


class _XGrammar:
    def __init__(self, matcher: Any, bits: Any) -> None:
        self.matcher, self.bits = matcher, bits

    def mask(self) -> None:
        self.matcher.fill_next_token_bitmask(self.bits)

    def advance(self, token: int) -> bool:
        return bool(self.matcher.accept_token(token))


Engine = Ours | Llguidance | Outlines | XGrammar


def measure(engine: Engine, words: Words, case: Case) -> dict[str, Any]:
    """Milliseconds to the first mask, microseconds of masks along valid instances, and whether all were accepted."""
    schema = json.dumps(case.schema)
    begun = time.perf_counter()
    walk = engine.begin(schema)
    walk.mask()
    found: dict[str, Any] = {"ms": (time.perf_counter() - begun) * 1e3, "us": [], "accepted": True}
    for value, is_valid in case.tests:
        if not is_valid:
            continue
        walk = engine.begin(schema)
        try:
            for token in words.encode(value)[:STEPS]:
                before = time.thread_time_ns()
                walk.mask()
                found["us"].append((time.thread_time_ns() - before) / 1e3)
                if not walk.advance(token):
                    found["accepted"] = False
                    break
        except (EngineError, ValueError):
            found["accepted"] = False
    return found


def guarded(engine: Engine, words: Words, case: Case, limit_s: float) -> dict[str, Any]:
    """`measure` in a fork that is killed after `limit_s` seconds."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.setitimer(signal.ITIMER_REAL, limit_s)  # its signal ends the process
        os.close(reading)
        try:
            found = measure(engine, words, case)
        except BaseException as error:
            found = {"refused": f"{type(error).__name__}: {error}"[:200]}
        with os.fdopen(writing, "w") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {"killed": True}


def in_process(engine: Engine, words: Words, case: Case) -> dict[str, Any]:
    try:
        return measure(engine, words, case)
    except (InvalidRequest, ValueError) as error:
        return {"refused": str(error)[:200]}


def share(values: Iterable[float], part: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 2) if ordered else 0.0


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    compiled = [one for one in found if "ms" in one]
    ms = [one["ms"] for one in compiled]
    us = [value for one in compiled for value in one["us"]]
    return {
        "schemas": len(found),
        "compiled": len(compiled),
        "killed": sum("killed" in one for one in found),
        "refused": sum("refused" in one for one in found),
        "accepts_the_valid": sum(one["accepted"] for one in compiled),
        "first_mask_ms": {"p50": share(ms, 0.5), "p95": share(ms, 0.95), "max": share(ms, 1.0)},
        "mask_us": {
            "masks": len(us),
            "mean": round(statistics.fmean(us), 2) if us else 0.0,
            **{f"p{part}": share(us, part / 100) for part in (50, 95, 99, 99.9)},
        },
    }


def installed(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--others", type=int, default=40, help="schemas that the slow engines are given")
    parser.add_argument("--limit", type=float, default=5.0, help="seconds after which another engine is killed")
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    words = Words(given.tokenizer)
    every = [case for path in given.paths for case in cases(path)]
    few = every[:: max(1, len(every) // given.others)]
    engines: dict[str, tuple[Callable[[Words], Engine], list[Case]]] = {
        "llguidance": (Llguidance, every),
        "outlines-core": (Outlines, few),
        "xgrammar": (XGrammar, few),
    }
    results: dict[str, Any] = {}
    for name, (make, given_cases) in engines.items():
        if name not in installed([name]):
            print(f"{name} is not installed", file=sys.stderr)
            continue
        engine = make(words)
        if name == "llguidance":  # needs no guard, and a fork would pay for its first touch of memory
            results[name] = summary([in_process(engine, words, case) for case in given_cases])
        else:
            results[name] = summary([guarded(engine, words, case, given.limit) for case in given_cases])
        print(name, json.dumps(results[name]), flush=True)
    ours = Ours(words)
    found = [in_process(ours, words, case) for case in every]
    ours.compiler.close()
    results["stolon"] = summary(found)
    results["stolon, schemas of the slow engines"] = summary(found[:: max(1, len(every) // given.others)])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    report = {
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": installed(["llguidance", "outlines-core", "xgrammar", "numpy"]),
        "tokens": words.size,
        "results": results,
    }
    for name in results:
        print(f"{name:40}{results[name]['first_mask_ms']}  {results[name]['mask_us']}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
