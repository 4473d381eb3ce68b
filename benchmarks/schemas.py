"""How many JSON schemas are compiled, and how many judge all their instances rightly.

    python -m benchmarks.schemas DIRECTORY_OR_FILE ... [--list]

Each argument is read by its content: a file with "tests" is a schema of maskbench with labelled instances; a list of
groups is a file of the official test suite (its own labels, checked with jsonschema, are used); a file of lines with
"schema" holds schemas only. An instance is fed byte by byte. Prints, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.validators import validator_for

from stolon.lang.errors import EngineError, InvalidRequest
from stolon.runtime.grammar.llg import LlgGrammar
from stolon.runtime.grammar.llg_compile import compile_schema
from stolon.runtime.grammar.llg_vocabulary import LlgVocabulary

BYTES = LlgVocabulary([bytes([i]) for i in range(256)] + [b""], eos_ids=[256])


@dataclass
class Case:
    """tests: instances and whether they are valid"""

    kind: str
    name: str
    schema: Any
    tests: list[tuple[Any, bool]]


@dataclass
class Tally:
    cases: int = 0
    compiled: int = 0
    right: int = 0
    right_reordered: int = 0
    over: list[str] = field(default_factory=list)
    under: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def accepts(grammar: LlgGrammar, instance: Any) -> bool:
    matcher = grammar.matcher()
    try:
        for byte in json.dumps(instance, ensure_ascii=False).encode("utf-8", "surrogatepass"):
            matcher.advance(byte)
    except EngineError:
        return False
    return matcher.is_accepting


def accepts_reordered(grammar: LlgGrammar, instance: Any, schema: Any) -> bool:
    """Whether an instance is accepted with the keys of its objects in some order: answers come in the schema's.

    Not all orders are tried of many keys; the first is that in which the text of the schema has them.
    """
    matcher = grammar.matcher()
    budget = [400_000]
    text = json.dumps(schema)

    def place(key: str) -> int:
        return text.find(json.dumps(key) + ":") % (len(text) + 1)  # what it does not name comes last

    def say(text: str) -> bool:
        for done, byte in enumerate(text.encode("utf-8", "surrogatepass")):
            budget[0] -= 1
            if budget[0] < 0 or not matcher._state.validate_tokens([byte]):
                matcher.rollback(done)
                return False
            matcher.advance(byte)
        return True

    def members(keys: list[str], value: dict[str, Any], first: bool, then: Any) -> bool:
        if not keys:
            return say("}") and (then() or undo(1))
        for key in keys:
            head = ("" if first else ", ") + json.dumps(key, ensure_ascii=False) + ": "
            rest = [other for other in keys if other != key]
            if say(head):
                if put(value[key], lambda rest=rest: members(rest, value, False, then)):
                    return True
                undo(len(head.encode()))
        return False

    def items(values: list[Any], index: int, then: Any) -> bool:
        if index == len(values):
            return say("]") and (then() or undo(1))
        if index and not say(", "):
            return False
        return put(values[index], lambda: items(values, index + 1, then)) or (undo(2) if index else False)

    def put(value: Any, then: Any) -> bool:
        if isinstance(value, dict):
            return say("{") and (members(sorted(value, key=place), value, True, then) or undo(1))
        if isinstance(value, list):
            return say("[") and (items(value, 0, then) or undo(1))
        text = json.dumps(value, ensure_ascii=False)
        return say(text) and (then() or undo(len(text.encode())))

    def undo(count: int) -> bool:
        matcher.rollback(count)
        return False

    return put(instance, lambda: matcher.is_accepting)


def cases(path: Path) -> Iterator[Case]:
    files = sorted(path.glob("*.json*")) if path.is_dir() else [path]
    for file in files:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            for line in text.splitlines():
                found = json.loads(line)
                yield Case(found["set"], found["name"], found["schema"], [])
            continue
        content = json.loads(text)
        if isinstance(content, list):
            for group in content:
                tests = [(test["data"], test["valid"]) for test in group["tests"]]
                yield Case("suite", f"{file.stem}: {group['description']}", group["schema"], tests)
        elif "tests" in content:
            tests = [(test["data"], test["valid"]) for test in content["tests"]]
            yield Case("maskbench", file.stem, content["schema"], tests)


def judge(case: Case, tally: Tally, listed: bool) -> None:
    tally.cases += 1
    started = time.thread_time()
    try:
        grammar = compile_schema(json.dumps(case.schema), BYTES)
    except InvalidRequest as error:
        tally.refused[f"{error.code} {(error.param or '').rpartition('/')[2]}"] += 1
        if listed:
            print(f"refused {case.name}: {error}")
        return
    finally:
        tally.seconds.append(time.thread_time() - started)
    tally.compiled += 1
    wrong = [(data, valid) for data, valid in case.tests if accepts(grammar, data) != valid]
    over = [data for data, valid in wrong if not valid and not referee_says_valid(case.schema, data)]
    if over:
        tally.over.append(case.name)
    elif wrong:
        tally.under.append(case.name)
        tally.right_reordered += all(valid and accepts_reordered(grammar, data, case.schema) for data, valid in wrong)
    else:
        tally.right += 1
    if listed and wrong:
        print(f"{'OVER' if over else 'under'} {case.name}: {json.dumps(wrong[0][0])[:300]}")


def referee_says_valid(schema: Any, data: Any) -> bool:
    """Whether jsonschema, formats asserted, contradicts a label that says invalid."""
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--list", action="store_true", help="name what is refused or judged wrongly")
    options = parser.parse_args()
    tallies: dict[str, Tally] = {}
    for path in options.paths:
        for case in cases(path):
            judge(case, tallies.setdefault(case.kind, Tally()), options.list)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("llguidance", "outlines-core", "jsonschema")},
    }
    for kind, tally in tallies.items():
        millis = sorted(1000 * second for second in tally.seconds)
        report[kind] = {
            "schemas": tally.cases,
            "compiled": tally.compiled,
            "right": tally.right,
            "right_in_schema_order": tally.right + tally.right_reordered,
            "over": len(tally.over),
            "under": len(tally.under),
            "compile_ms_p50": round(statistics.median(millis), 2),
            "compile_ms_p95": round(millis[int(0.95 * (len(millis) - 1))], 2),
            "compile_ms_max": round(millis[-1], 1),
            "refused": dict(tally.refused.most_common()),
        }
        print(f"{kind}: {tally.compiled} of {tally.cases} compiled, {tally.right} right, over: {tally.over}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
