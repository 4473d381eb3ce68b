"""What it costs to hold answers to a form, and what the text that a form forces saves.

    python -m benchmarks.constrained                      both parts; the second takes minutes on two cores
    python -m benchmarks.constrained --part jump --runs 5
    python -m benchmarks.constrained --part cost --batch 32 --steps 16

jump: the workloads `json_extract` (a page, one object) and `tool_calls` (functions in the system prompt, one call) on
the built-in model, with jump-forward and with `--no-jump-forward`: forward passes and CPU seconds. The answers must be
the same, and all of them valid.

cost: a batch of constrained answers against a batch of free ones, on random weights in the shape of Qwen2.5-0.5B, with
a made-up byte-level BPE of its size: tokens a second in steps of one token a sequence (jump-forward is off). All kinds
take turns, so that what else the machine does falls on all alike.

Each part prints a table; last comes one line of JSON. One thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from stolon.lang.constraint import Constraint
from stolon.lang.types import SamplingParams
from stolon.runtime.config import EngineConfig
from stolon.runtime.engine import Engine
from stolon.runtime.tiny.corpus_json import city_text
from stolon.runtime.tiny.corpus_tools import tool_chat
from stolon.runtime.tiny.facts import COUNTRIES

from .cpu import SIZES, commit

MAX_TOKENS = 200


@dataclass(frozen=True)
class Job:
    """One answer of a workload."""

    messages: list[dict[str, str]]
    schema: Any

    @property
    def form(self) -> Constraint:
        return Constraint("json_schema", json.dumps(self.schema))


def string(length: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": length}


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


CITY = closed(
    {
        "name": string(40),
        "country": string(40),
        "continent": {"enum": ["Africa", "Asia", "Europe", "North America", "South America", "Oceania"]},
        "language": string(60),
        "currency": string(40),
        "landmarks": {"type": "array", "items": string(60), "minItems": 2, "maxItems": 2},
    }
)


def json_extract(count: int) -> list[Job]:
    rng = random.Random(0)
    jobs: list[Job] = []
    for _ in range(count):
        page = city_text(rng, rng.choice(COUNTRIES))
        order = f"Please extract the information of a city from the following page.\nPage begin.\n{page}\nPage end.\n"
        jobs.append(Job([{"role": "user", "content": f"{order}Fields: {', '.join(CITY['properties'])}."}], CITY))
    return jobs


def tool_calls(count: int) -> list[Job]:
    """Each offers one tool or two, and asks for a call of one of them."""
    rng = random.Random(0)
    jobs: list[Job] = []
    while len(jobs) < count:
        system, user, *_ = tool_chat(rng).messages  # type: ignore[union-attr]
        offered = [json.loads(line)["function"] for line in system.text.splitlines() if line.startswith('{"type"')]
        calls = [
            closed({"name": {"const": tool["name"]}, "arguments": closed(bounded(tool["parameters"]["properties"]))})
            for tool in offered
        ]
        messages = [{"role": one.role, "content": one.text} for one in (system, user)]
        jobs.append(Job(messages, calls[0] if len(calls) == 1 else {"oneOf": calls}))
    return jobs


def bounded(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: string(60) if part["type"] == "string" else part for name, part in properties.items()}


WORKLOADS: dict[str, Callable[[int], list[Job]]] = {"json_extract": json_extract, "tool_calls": tool_calls}


async def run_jobs(engine: Engine, jobs: Sequence[Job], concurrent: int) -> list[str]:
    """The texts of all answers, `concurrent` at a time."""
    assert engine.chat is not None
    places = asyncio.Semaphore(concurrent)
    prompts = [engine.chat.encode(job.messages) for job in jobs]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)

    async def one(prompt: list[int], form: Constraint) -> str:
        async with places, aclosing(engine.generate(prompt, params, constraint=form)) as deltas:
            return "".join([delta.text async for delta in deltas])

    return list(await asyncio.gather(*(one(prompt, job.form) for prompt, job in zip(prompts, jobs, strict=True))))


def measure_jump(name: str, count: int, concurrent: int, runs: int) -> dict[str, Any]:
    """Both ways in turns; the first run of each warms it up and is not counted."""
    jobs = WORKLOADS[name](count)
    engines = {
        jump: Engine(EngineConfig(model_path="tiny", threads=1, kv_tokens=32768, jump_forward=jump))
        for jump in (True, False)
    }
    cpu: dict[bool, list[float]] = {True: [], False: []}
    counts: dict[bool, dict[str, int]] = {}
    texts: dict[bool, list[str]] = {}
    loop = asyncio.new_event_loop()
    for run in range(runs + 1):
        for jump, engine in engines.items():
            loop.run_until_complete(engine.flush_cache())
            before, begun = engine.stats(), time.process_time()
            texts[jump] = loop.run_until_complete(run_jobs(engine, jobs, concurrent))
            spent, now = time.process_time() - begun, engine.stats()
            counts[jump] = {key: int(str(now[key])) - int(str(before[key])) for key in ("steps", "generated", "forced")}
            if run:
                cpu[jump].append(spent)
    for engine in engines.values():
        engine.shutdown()
    for job, text in zip(jobs, texts[True], strict=True):
        jsonschema.validate(json.loads(text), job.schema)
    with_jump, without = statistics.median(cpu[True]), statistics.median(cpu[False])
    return {
        "workload": name,
        "answers": count,
        "concurrent": concurrent,
        "tokens": counts[True]["generated"],
        "forced": counts[True]["forced"],
        "passes": {"jump": counts[True]["steps"], "no_jump": counts[False]["steps"]},
        "passes_saved": 1 - counts[True]["steps"] / counts[False]["steps"],
        "cpu_s": {"jump": cpu[True], "no_jump": cpu[False]},
        "cpu_saved": 1 - with_jump / without,
        "same_answers": texts[True] == texts[False],
    }


# -- what masks cost


def made_up_tokenizer(folder: Path, size: int) -> None:
    """A byte-level BPE whose merges were drawn by chance: as large as a real one, and as costly to walk."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    rng = random.Random(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate(["<s>", "</s>", *alphabet])}
    letters = [*"etaoinshrdlucmfwypvbgkjqxz" * 4, *"ETAOINSHRDLU", *"0123456789", *'{}[]":,._-/', "Ġ", "Ġ", "Ċ"]
    parts, merges = list(letters), list[tuple[str, str]]()
    while len(vocabulary) < size:
        left, right = rng.choice(parts), rng.choice(parts)
        whole = left + right
        if whole not in vocabulary and len(whole) <= 16 and "Ġ" not in right:
            vocabulary[whole] = len(vocabulary)
            merges.append((left, right))
            parts.append(whole)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def made_up_model(size: str, folder: Path) -> None:
    import torch
    import transformers

    name, fields = SIZES[size]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = getattr(transformers, f"{name}Config")(**fields, dtype="bfloat16", bos_token_id=0, eos_token_id=1)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    made_up_tokenizer(folder, int(fields["vocab_size"]) - 300)


STRING = r'"([^"\\\x00-\x1F\x7F-\x9F]|\\["\\/bfnrt])*"'
FORMS: dict[str, Constraint | None] = {
    "free": None,
    "schema": Constraint("json_schema", json.dumps(closed({"title": {"type": "string"}, "year": {"type": "integer"}}))),
    "regex": Constraint("regex", r'\{"title": ' + STRING + r', "year": [0-9]{1,4}\}'),
}


async def tokens_of(engine: Engine, prompts: list[list[int]], form: Constraint | None, count: int) -> int:
    """Tokens of a batch whose answers are stopped after `count` tokens, far from where they would end."""
    params = SamplingParams(temperature=0.0, max_tokens=512, ignore_eos=True)

    async def one(prompt: list[int]) -> int:
        got = 0
        async with aclosing(engine.generate(prompt, params, constraint=form)) as deltas:
            async for delta in deltas:
                got += len(delta.tokens)
                if got >= count:
                    break
        return got

    return sum(await asyncio.gather(*map(one, prompts)))


def measure_cost(model: str, batch: int, steps: int, runs: int) -> list[dict[str, Any]]:
    engine = Engine(EngineConfig(model_path=model, threads=1, kv_tokens=65536, jump_forward=False))
    rng = random.Random(0)
    wall: dict[str, list[float]] = {name: [] for name in FORMS}
    cpu: dict[str, list[float]] = {name: [] for name in FORMS}
    loop = asyncio.new_event_loop()
    for run in range(runs + 1):
        for name, form in FORMS.items():
            prompts = [[rng.randrange(300, engine.vocab_size) for _ in range(8)] for _ in range(batch)]
            begun, spent = time.perf_counter(), time.process_time()
            tokens = loop.run_until_complete(tokens_of(engine, prompts, form, steps))
            if run:
                wall[name].append(tokens / (time.perf_counter() - begun))
                cpu[name].append(tokens / (time.process_time() - spent))
    loop.run_until_complete(engine.close())
    return [
        {
            "form": name,
            "tokens_per_s": wall[name],
            "tokens_per_cpu_s": cpu[name],
            "of_free": statistics.median(wall[name]) / statistics.median(wall["free"]),
            "of_free_cpu": statistics.median(cpu[name]) / statistics.median(cpu["free"]),
        }
        for name in FORMS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["jump", "cost", "both"], default="both")
    parser.add_argument("--answers", type=int, default=50, help="of each workload")
    parser.add_argument("--concurrent", type=int, default=4, help="answers under way at a time")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--size", choices=SIZES, default="qwen")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "constrained", "machine": platform.machine(), "commit": commit()}
    result |= {"python": platform.python_version(), "runs": args.runs}
    if args.part != "cost":
        print(f"{'workload':14}{'tokens':>8}{'forced':>8}{'passes':>8}{'without':>9}{'saved':>8}{'CPU saved':>11}")
        result["jump"] = [measure_jump(name, args.answers, args.concurrent, args.runs) for name in WORKLOADS]
        for row in result["jump"]:
            print(
                f"{row['workload']:14}{row['tokens']:8d}{row['forced']:8d}{row['passes']['jump']:8d}"
                f"{row['passes']['no_jump']:9d}{row['passes_saved']:8.1%}{row['cpu_saved']:11.1%}"
                f"{'' if row['same_answers'] else '  ANSWERS DIFFER'}"
            )
    if args.part != "jump":
        with tempfile.TemporaryDirectory() as folder:
            made_up_model(args.size, Path(folder))
            result["cost"] = measure_cost(folder, args.batch, args.steps, args.runs)
        print(f"{'form':10}{'tokens/s':>10}{'of free':>9}{'of free, CPU':>14}")
        for row in result["cost"]:
            rate = statistics.median(row["tokens_per_s"])
            print(f"{row['form']:10}{rate:10.1f}{row['of_free']:9.3f}{row['of_free_cpu']:14.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
