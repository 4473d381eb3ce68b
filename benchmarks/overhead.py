"""What everything but the model costs in a decode step: planning, text, the batch's arrays.

A Qwen2.5-0.5B-shaped checkpoint with random bfloat16 weights (made in a temporary folder, 1 GB) decodes for 32 requests
at once on one thread. CPU time of a step is split at the runner's door: what is outside is planning (scheduler, tree)
and text (core, detokenizer, stops); `arrays` is inside, making the batch's tensors out of the plan; the rest is the
model and the draw. `--model DIR` measures another checkpoint.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from stolon.lang.types import SamplingParams
from stolon.runtime import cpu_runner, cpu_step
from stolon.runtime.config import EngineConfig, SchedulerConfig
from stolon.runtime.core import EngineCore, Request
from stolon.runtime.runner import ModelRunner
from stolon.runtime.scheduler import Scheduler
from stolon.runtime.tokenizer import Tokenizer

BATCH, PROMPT, WARM_UP = 32, 100, 5
GREEDY = SamplingParams(temperature=0, ignore_eos=True)
KINDS = {
    "greedy": GREEDY,
    "greedy, stops": replace(GREEDY, stop=("\n\nQuestion:", "</answer>", "<|end|>")),
    "seeded, top-p": replace(GREEDY, temperature=0.8, top_p=0.95, seed=1),
}
P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """CPU seconds of this thread inside some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        def timed(*args: P.args, **options: P.kwargs) -> R:
            began = time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds += time.thread_time() - began

        return timed


@contextmanager
def checkpoint() -> Iterator[Path]:
    """Random weights in the shape of Qwen2.5-0.5B, and a byte-level vocabulary of the same size."""
    config = Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, dtype="bfloat16",
        bos_token_id=None, eos_token_id=0, pad_token_id=None,
    )  # fmt: skip
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [a + b for a in letters for b in letters]
    words = ["<|end|>", *letters, *pairs, *(a + b for a in letters for b in pairs)][: config.vocab_size]
    raw = RawTokenizer(models.BPE({word: id for id, word in enumerate(words)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).bfloat16().save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>").save_pretrained(folder)
        yield Path(folder)


@contextmanager
def decoding(core: EngineCore, scheduler: Scheduler, params: SamplingParams) -> Iterator[None]:
    """Sequences that all decode; their prompts are computed for the first kind and cached for the others."""
    rng = random.Random(0)
    for id in range(BATCH):
        prompt = array("i", [rng.randrange(10, 480) for _ in range(PROMPT)])
        core.submit(Request(id=id, tokens=prompt, params=params, seed=id))
    generated = scheduler.counters.generated
    while scheduler.counters.generated - generated < BATCH * WARM_UP:
        assert core.has_work, "every request has failed"
        core.step()
    yield
    for id in range(BATCH):
        core.abort(id)
    core.step()


def measure(core: EngineCore, runner: ModelRunner, steps: int) -> dict[str, float]:
    """CPU milliseconds of one decode step, and how they are spent."""
    model, arrays, draw = Stopwatch(), Stopwatch(), Stopwatch()
    made, drawn, launch, step = cpu_runner.make_batch, cpu_step.sample, runner.launch, cpu_step.CpuStep
    sample, results = step.sample, step.results
    cpu_runner.make_batch, cpu_step.sample = arrays.around(made), draw.around(drawn)
    runner.launch = model.around(launch)
    step.sample, step.results = model.around(sample), model.around(results)
    began = time.thread_time()
    for _ in range(steps):
        assert len(core.step()) == BATCH
    total = time.thread_time() - began
    cpu_runner.make_batch, cpu_step.sample = made, drawn
    runner.launch = launch
    step.sample, step.results = sample, results
    ours = total - model.seconds
    return {
        "step_ms": 1000 * total / steps,
        "planning_and_text_ms": 1000 * ours / steps,
        "arrays_ms": 1000 * arrays.seconds / steps,
        "draw_ms": 1000 * draw.seconds / steps,
        "share": (ours + arrays.seconds) / total,
    }


def machine() -> dict[str, str]:
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": asked.stdout.strip() or "unknown",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a checkpoint; a random one by default")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="decode steps in a run")
    args = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    with checkpoint() if args.model is None else contextmanager(lambda: iter([Path(args.model)]))() as folder:
        runner = ModelRunner(EngineConfig(model_path=str(folder), kv_tokens=16_384, threads=1))
        scheduler = Scheduler(SchedulerConfig(), runner.num_slots, runner.context_length)
        core = EngineCore(scheduler, runner, Tokenizer.load(folder))
    print(f"{'32 rows, CPU ms a step':24}{'step':>10}{'plan+text':>12}{'arrays':>10}{'draw':>10}{'share':>9}")
    for kind, params in KINDS.items():
        length = WARM_UP + args.runs * args.steps + BATCH
        with decoding(core, scheduler, replace(params, max_tokens=length)):
            runs = [measure(core, runner, args.steps) for _ in range(args.runs)]
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(
            f"{kind:24}{middle['step_ms']:10.2f}{middle['planning_and_text_ms']:12.3f}{middle['arrays_ms']:10.3f}"
            f"{middle['draw_ms']:10.3f}{middle['share']:9.2%}"
        )
        spread = {name: [min(run[name] for run in runs), max(run[name] for run in runs)] for name in runs[0]}
        results[kind] = {"median": middle, "spread": spread}
    print(json.dumps({"benchmark": "overhead", "batch": BATCH, "runs": args.runs, **machine(), "results": results}))


if __name__ == "__main__":
    main()
