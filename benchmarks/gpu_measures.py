"""The parts of `benchmarks.gpu`: each gives its figures, lists where there is one number a run."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_device import copy_bandwidth, decode_attention_seconds, give_back, matrix_rate
from benchmarks.gpu_models import make_folder
from benchmarks.gpu_stack import Stack, accelerator, settings
from stolon.lang.constraint import Constraint
from stolon.lang.types import SamplingParams
from stolon.runtime.engine import Engine

Figures = dict[str, Any]
Prompts = list[list[int]]


@dataclass(frozen=True)
class Task:
    """folder: for models; runs: of each measurement; dry: small shapes on a CPU"""

    folder: Path
    runs: int
    dry: bool

    def size(self, real: int, dry: int) -> int:
        return dry if self.dry else real

    def model(self, name: str) -> Path:
        return make_folder(name, self.folder, dry=self.dry)

    def stack(self, name: str, **scheduler: Any) -> Stack:
        return Stack(settings(self.model(name), dry=self.dry, scheduler=scheduler), dry=self.dry)


def decode(task: Task) -> Figures:
    """One row against the time that reading the weights takes at the rate of a copy."""
    bandwidth = copy_bandwidth(task.runs, dry=task.dry)
    stack, steps = task.stack("8b"), task.size(100, 3)
    weight_bytes = stack.model.linear_size * (4 if task.dry else 2)
    stack.start_decoding([stack.fresh(task.size(1024, 32))], steps * (task.runs + 1))
    stack.decode_seconds(1, steps)
    found = [stack.decode_seconds(1, steps) for _ in range(task.runs)]
    return {
        "copy_bytes_per_s": bandwidth,
        "weight_bytes": weight_bytes,
        "step_s": found,
        "share": [weight_bytes / bandwidth / seconds for seconds in found],
    }


def attention(task: Task) -> Figures:
    bandwidth = copy_bandwidth(task.runs, dry=task.dry)
    rows, context = task.size(64, 2), task.size(32768, 100)
    found, size = decode_attention_seconds(task.runs, rows=rows, context=context, dry=task.dry)
    return {
        "copy_bytes_per_s": bandwidth,
        "kv_bytes": size,
        "s": found,
        "share": [size / bandwidth / seconds for seconds in found],
    }


def prefill(task: Task) -> Figures:
    """A long prompt alone, against the rate of large products."""
    rate = matrix_rate(task.runs, dry=task.dry)
    stack, length = task.stack("8b"), task.size(8192, 100)
    model = stack.model
    products = 2 * (model.linear_size - model.table_size) * length
    # the causal half of scores, and as much again of sums over values
    attended = model.num_layers * 2 * model.num_heads * model.head_dim * length**2
    stack.answer(stack.fresh(length))
    found = [stack.answer(stack.fresh(length)) for _ in range(task.runs)]
    return {
        "matrix_flop_per_s": rate,
        "flop": products + attended,
        "s": found,
        "tokens_per_s": [length / seconds for seconds in found],
        "share": [(products + attended) / rate / seconds for seconds in found],
    }


def forks(task: Task) -> Figures:
    """Many answers that continue one long prompt, with its keys and values read once for all, and by each."""
    rows, steps = task.size(64, 4), task.size(20, 2)
    stack = task.stack("8b")
    prefix = stack.fresh(task.size(16384, 300))
    stack.answer(prefix)
    stack.start_decoding([prefix + stack.fresh(8) for _ in range(rows)], steps * 2 * (task.runs + 1))
    found: dict[bool, list[float]] = {True: [], False: []}
    for run in range(task.runs + 1):
        for shares in (True, False):
            stack.shares = shares
            seconds = stack.decode_seconds(rows, steps)
            if run:  # the first is to get used to it
                found[shares].append(seconds)
    times = [apart / together for apart, together in zip(found[False], found[True], strict=True)]
    return {"shared_step_s": found[True], "unshared_step_s": found[False], "times": times}


def idle(task: Task) -> Figures:
    """How much of the time between the first kernel and the last none runs, by CUDA's own trace."""
    rows, steps = task.size(64, 4), task.size(50, 2)
    stack = task.stack("0.6b")
    prompts = [stack.fresh(task.size(256, 20)) for _ in range(rows)]
    stack.start_decoding(prompts, steps * (task.runs + 2))
    plain = stack.decode_seconds(rows, steps)
    shares = [_idle_share(lambda: stack.decode_seconds(rows, steps)) for _ in range(task.runs)]
    return {"step_s": plain, "share": None if task.dry else shares}


def _idle_share(work: Callable[[], object]) -> float | None:
    import torch
    from torch.autograd.profiler_util import DeviceType  # pyright: ignore[reportPrivateImportUsage]
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CUDA] if torch.cuda.is_available() else [ProfilerActivity.CPU]
    with profile(activities=activities) as trace:
        work()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in trace.events() or ()
        if event.device_type == DeviceType.CUDA
    )
    if not spans:
        return None
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return 1 - busy / (reached - spans[0][0])


@dataclass(frozen=True)
class Job:
    """Requests of many lengths."""

    prompts: Prompts
    answers: list[int]

    @staticmethod
    def make(task: Task, vocab: int) -> Job:
        rng = random.Random(0)
        low, high = task.size(100, 5), task.size(1024, 20)
        count = task.size(256, 6)
        prompts = [[rng.randrange(2, vocab) for _ in range(rng.randint(low, high))] for _ in range(count)]
        return Job(prompts, [rng.randint(low, high) for _ in range(count)])


def throughput(task: Task, name: str) -> Figures:
    folder = task.model(name)
    vocab: int = json.loads((folder / "config.json").read_text())["vocab_size"]
    job = Job.make(task, vocab)
    total = sum(job.answers)
    ours = [total / seconds for seconds in _our_seconds(task, folder, job)]
    give_back()
    theirs = [total / seconds for seconds in _their_seconds(task, folder, job)]
    times = statistics.median(ours) / statistics.median(theirs)
    return {"requests": len(job.prompts), "tokens_per_s": ours, "transformers_tokens_per_s": theirs, "times": times}


def _our_seconds(task: Task, folder: Path, job: Job) -> list[float]:
    config = settings(folder, dry=task.dry, scheduler={"radix_cache": False})
    engine = Engine(config, accelerator=accelerator(dry=task.dry))

    async def everything() -> list[float]:
        found: list[float] = []
        for _ in range(task.runs):
            began = time.perf_counter()
            await asyncio.gather(*(_answer(engine, *asked) for asked in zip(job.prompts, job.answers, strict=True)))
            found.append(time.perf_counter() - began)
        await engine.close()
        return found

    return asyncio.run(everything())


async def _answer(engine: Engine, prompt: list[int], count: int, constraint: Constraint | None = None) -> int:
    params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    tokens = 0
    async with aclosing(engine.generate(prompt, params, constraint=constraint)) as deltas:
        async for delta in deltas:
            tokens += len(delta.tokens)
    assert constraint is not None or tokens == count
    return tokens


def _their_seconds(task: Task, folder: Path, job: Job) -> list[float]:
    """`transformers` continuous batching, with as much memory for its cache as it takes by itself. It gives all
    requests answers of one length, the longest; the seconds are scaled to the tokens that were asked for."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    kind, device = (torch.float32, "cpu") if task.dry else (torch.bfloat16, "cuda")
    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        peer: Any = AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation="sdpa").eval()
    longest = max(job.answers)
    generation = GenerationConfig(max_new_tokens=longest, do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=64) if task.dry else ContinuousBatchingConfig()
    found: list[float] = []
    for _ in range(task.size(max(2, task.runs // 2), 1)):
        began = time.perf_counter()
        answers = peer.generate_batch(
            inputs=job.prompts,
            generation_config=generation,
            continuous_batching_config=batching,
            progress_bar=False,
        )
        seconds = time.perf_counter() - began
        made = sum(len(answer.generated_tokens) for answer in answers.values())
        found.append(seconds * sum(job.answers) / made)
    return found


def _form(items: int) -> Constraint:
    """A JSON array of objects, at least so many."""
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}, "fine": {"type": "boolean"}}
    one = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return Constraint("json_schema", json.dumps({"type": "array", "minItems": items, "items": one}))


def constrained(task: Task) -> Figures:
    """The same requests with answers in a form and without; greedy, so that forms decide what is said."""
    folder = task.model("0.6b")
    engine = Engine(settings(folder, dry=task.dry, jump_forward=False), accelerator=accelerator(dry=task.dry))
    rng = random.Random(0)
    count = task.size(256, 80)
    form = _form(count // 64)

    async def rate(constraint: Constraint | None) -> float:
        prompts = [[rng.randrange(2, engine.vocab_size) for _ in range(32)] for _ in range(task.size(64, 4))]
        began = time.perf_counter()
        tokens = await asyncio.gather(*(_answer(engine, prompt, count, constraint) for prompt in prompts))
        return sum(tokens) / (time.perf_counter() - began)

    async def everything() -> tuple[list[float], list[float]]:
        await rate(form)
        free: list[float] = []
        held: list[float] = []
        for _ in range(task.runs):
            free.append(await rate(None))
            held.append(await rate(form))
        await engine.close()
        return free, held

    free, held = asyncio.run(everything())
    shares = [one / other for one, other in zip(held, free, strict=True)]
    return {"free_tokens_per_s": free, "constrained_tokens_per_s": held, "share": shares}


PARTS: dict[str, Callable[[Task], Figures]] = {
    "decode": decode,
    "attention": attention,
    "prefill": prefill,
    "forks": forks,
    "idle": idle,
    "throughput-0.6b": lambda task: throughput(task, "0.6b"),
    "throughput-14b": lambda task: throughput(task, "14b"),
    "constrained": constrained,
}
