"""CPU seconds of the engine beside `transformers`, on one thread, on a random checkpoint that this script makes.

    python benchmarks/cpu.py                       # Qwen2.5-0.5B's shape; takes half an hour
    python benchmarks/cpu.py --size small --requests 16 --common 200 --decode 1,4 --new 8 --runs 1

CPU seconds, not wall time, so that other work on the machine matters little. Each system runs in a process of its own
and computes the same four things: a prompt alone, decode steps at several batch sizes (the difference of answers of
many tokens and answers of one, to prompts that nobody has seen), and a job of requests with a common beginning.
The engine is measured whole: scheduler, radix tree, sampler and detokenizer included.
Peers compute `--peer-requests` of the job's requests, and their time is scaled up: they share nothing between requests.

Peers compute in bfloat16, as the checkpoint says; on a CPU without bfloat16 instructions that is far from what they
can do, and the engine by itself computes in float32 there: compare it with `generate-float32` too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SYSTEMS = ("stolon", "generate", "continuous", "stolon-int8", "generate-float32", "continuous-float32")
Prompts = list[list[int]]

SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen": (
        "Qwen2",
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
        },
    ),
    "small": (
        "Llama",
        {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
    ),
}


@dataclass(frozen=True)
class Work:
    """What to compute, in tokens and requests."""

    prefill: int
    decode: tuple[int, ...]
    decode_prompt: int
    decode_new: int
    requests: int
    peer_requests: int
    common: int
    own: int
    new: int
    runs: int


def make_checkpoint(size: str, folder: Path) -> None:
    """Random bfloat16 weights, and a tokenizer that knows the 256 bytes (the model's further ids stand for no text)."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    name, fields = SIZES[size]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = getattr(transformers, f"{name}Config")(**fields, dtype="bfloat16", bos_token_id=0, eos_token_id=1)
    getattr(transformers, f"{name}ForCausalLM")(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)


def cpu_seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def measure(answer: Callable[[Prompts, int], None], work: Work, vocab: int, requests: int) -> dict[str, list[float]]:
    """CPU seconds of every kind of work, one number a run. answer: computes so many tokens after each prompt."""
    rng = random.Random(0)

    def fresh(count: int, length: int) -> Prompts:
        return [[rng.randrange(300, vocab) for _ in range(length)] for _ in range(count)]

    found: dict[str, list[float]] = {}
    answer(fresh(2, 16), 2)
    for _ in range(work.runs):
        found.setdefault("prefill", []).append(cpu_seconds(lambda: answer(fresh(1, work.prefill), 1)))
        for batch in work.decode:
            one = cpu_seconds(lambda batch=batch: answer(fresh(batch, work.decode_prompt), 1))
            many = cpu_seconds(lambda batch=batch: answer(fresh(batch, work.decode_prompt), 1 + work.decode_new))
            found.setdefault(f"decode {batch}", []).append((many - one) / work.decode_new)
        (common,) = fresh(1, work.common)
        job = [common + own for own in fresh(requests, work.own)]
        found.setdefault("shared", []).append(
            cpu_seconds(lambda job=job: answer(job, work.new)) * work.requests / requests
        )
    return found


def run_stolon(model: str, work: Work, quantization: Any) -> dict[str, list[float]]:
    from stolon.lang.types import SamplingParams
    from stolon.runtime.config import EngineConfig
    from stolon.runtime.engine import Engine

    engine = Engine(EngineConfig(model_path=model, threads=1, kv_tokens=65536, quantization=quantization))
    print(engine.memory_report, file=sys.stderr)

    async def one(prompt: list[int], count: int) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
        async with aclosing(engine.generate(prompt, params)) as deltas:
            got = [token async for delta in deltas for token in delta.tokens]
        assert len(got) == count

    loop = asyncio.new_event_loop()

    def answer(prompts: Prompts, count: int) -> None:
        async def everything() -> None:
            await asyncio.gather(*(one(prompt, count) for prompt in prompts))

        loop.run_until_complete(everything())

    found = measure(answer, work, engine.vocab_size, work.requests)
    loop.run_until_complete(engine.close())
    return found


def run_generate(model: str, work: Work, dtype: str) -> dict[str, list[float]]:
    import torch
    from transformers import AutoModelForCausalLM

    peer: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    def answer(prompts: Prompts, count: int) -> None:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = peer.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=count,
                min_new_tokens=count,
                pad_token_id=0,
            )
        assert out.shape[1] == ids.shape[1] + count

    return measure(answer, work, peer.config.vocab_size, work.peer_requests)


def run_continuous(model: str, work: Work, dtype: str) -> dict[str, list[float]]:
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    peer: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").eval()

    def answer(prompts: Prompts, count: int) -> None:
        # room for these prompts and little more: left to itself it spends seconds on a cache for all of memory
        blocks = sum((len(prompt) + count) // 32 + 2 for prompt in prompts)
        settings = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=-1, pad_token_id=0)
        batching = ContinuousBatchingConfig(num_blocks=max(blocks, 64), max_batch_tokens=1024)
        out = peer.generate_batch(
            inputs=prompts, generation_config=settings, continuous_batching_config=batching, progress_bar=False
        )
        assert [len(o.generated_tokens) for o in out.values()] == [count] * len(prompts)

    return measure(answer, work, peer.config.vocab_size, work.peer_requests)


def run_one(system: str, model: str, work: Work) -> dict[str, list[float]]:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what the peers warn about is not ours
    match system:
        case "stolon":
            return run_stolon(model, work, "none")
        case "stolon-int8":
            return run_stolon(model, work, "int8")
        case "generate" | "generate-float32":
            return run_generate(model, work, "float32" if system.endswith("float32") else "bfloat16")
        case _:
            return run_continuous(model, work, "float32" if system.endswith("float32") else "bfloat16")


def in_a_process(system: str, model: str, work: Work) -> dict[str, list[float]] | None:
    """The measurements, or None where the system failed (its complaint goes to standard error)."""
    command = [sys.executable, __file__, "--system", system, "--model", model, "--work", json.dumps(asdict(work))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def rate(kind: str, seconds: float, work: Work) -> tuple[float, str]:
    if kind == "shared":
        return seconds, "s"
    tokens = work.prefill if kind == "prefill" else int(kind.split()[1])
    return tokens / seconds, "tok/s"


def report(results: dict[str, dict[str, list[float]] | None], work: Work) -> None:
    ran = {system: found for system, found in results.items() if found is not None}
    kinds = ["prefill", *(f"decode {batch}" for batch in work.decode), "shared"]
    print(f"{'':12}" + "".join(f"{system:>24}" for system in ran))
    for kind in kinds:
        cells: list[str] = []
        for found in ran.values():
            value, unit = rate(kind, statistics.median(found[kind]), work)
            ours = statistics.median(ran["stolon"][kind]) if "stolon" in ran else 0.0
            times = statistics.median(found[kind]) / ours if ours else 0.0
            cells.append(f"{value:.1f} {unit} ({times:.2f}x)")
        print(f"{kind:12}" + "".join(f"{cell:>24}" for cell in cells))
    print("(how many times the engine's CPU seconds)")


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="qwen")
    parser.add_argument("--systems", default="stolon,generate,continuous", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--model", help="folder of a checkpoint made before")
    parser.add_argument("--prefill", type=int, default=1024)
    parser.add_argument("--decode", type=numbers, default=(1, 8, 32), help="batch sizes")
    parser.add_argument("--decode-prompt", type=int, default=128)
    parser.add_argument("--decode-new", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--peer-requests", type=int, default=8)
    parser.add_argument("--common", type=int, default=800)
    parser.add_argument("--own", type=int, default=40)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--system", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = arguments()
    if asked.system:
        fields = json.loads(asked.work)
        work = Work(**{**fields, "decode": tuple(fields["decode"])})
        print(json.dumps(run_one(asked.system, asked.model, work)))
        return
    work = Work(**{name: getattr(asked, name) for name in Work.__dataclass_fields__})
    with tempfile.TemporaryDirectory() as scratch:
        model = asked.model or str(Path(scratch) / "model")
        if not asked.model:
            make_checkpoint(asked.size, Path(model))
        results = {system: in_a_process(system, model, work) for system in asked.systems.split(",")}
    report(results, work)
    machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    print(json.dumps({"commit": commit(), **machine, "threads": 1, "work": asdict(work), "cpu_seconds": results}))


if __name__ == "__main__":
    main()
