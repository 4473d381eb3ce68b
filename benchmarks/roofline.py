"""What a GPU allows at best in the measurements of `benchmarks/gpu.py`: computed, not measured.

    python -m benchmarks.roofline                                # an H200 by its data sheet
    python -m benchmarks.roofline --bandwidth 4.3 --flops 790    # TB/s and TFLOP/s that were measured

For each measurement: the bytes that must move (each weight, each key and value once, results once), the floating-point
operations of its matrix products, the two times that follow, of which the larger is the floor, and the time at which
the target is met. No launch, no idle time, no read that a kernel repeats is in the floor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.gpu_models import SHAPES
from stolon.kernels.attention_plan import Chip, DecodePlanner, Heads, Shared

ITEM = 2  # bytes of bfloat16


@dataclass(frozen=True)
class Model:
    """A decoder's sizes, in numbers."""

    layers: int
    heads: Heads
    hidden: int
    inner: int
    vocab: int

    @property
    def layer_weights(self) -> int:
        """Of the products of one layer."""
        heads = self.heads
        attention = self.hidden * heads.head_dim * (2 * heads.heads + 2 * heads.kv_heads)
        return attention + 3 * self.hidden * self.inner

    @property
    def read_weights(self) -> int:
        """What a step that draws reads: all layers and the head; of the embedding only its tokens' rows."""
        return self.layers * self.layer_weights + self.hidden * self.vocab

    @property
    def kv_bytes(self) -> int:
        """Of one position in all layers."""
        return self.layers * self.heads.position_bytes

    def attention_flops(self, pairs: float) -> float:
        """Of scores and weighted sums in all layers; pairs: of a query and a position that it sees"""
        return 4.0 * self.layers * self.heads.heads * self.heads.head_dim * pairs


def model(name: str) -> Model:
    shape: dict[str, Any] = SHAPES[name]
    heads = shape["num_attention_heads"]
    head_dim = shape.get("head_dim", shape["hidden_size"] // heads)
    return Model(
        layers=shape["num_hidden_layers"],
        heads=Heads(heads, shape["num_key_value_heads"], head_dim, ITEM, ITEM),
        hidden=shape["hidden_size"],
        inner=shape["intermediate_size"],
        vocab=shape["vocab_size"],
    )


@dataclass(frozen=True)
class Work:
    """goal: what the target allows, in times of the floor; None where the target compares two programs"""

    what: str
    bytes: float
    flops: float
    goal: float | None

    def times_ms(self, chip: Chip, flops: float) -> tuple[float, float]:
        return self.bytes / chip.bandwidth * 1e3, self.flops / flops * 1e3


def decode(name: str, rows: int, context: int, *, shared: int = 0) -> tuple[float, float]:
    """Bytes and operations of one step; the first `shared` positions of all rows are read once."""
    of = model(name)
    positions = rows * (context - shared) + shared
    attention = of.attention_flops(rows * context)
    return of.read_weights * ITEM + positions * of.kv_bytes, 2.0 * rows * of.read_weights + attention


def prefill(name: str, tokens: int) -> tuple[float, float]:
    of = model(name)
    products = 2.0 * tokens * of.layers * of.layer_weights + 2.0 * of.hidden * of.vocab
    return of.read_weights * ITEM + tokens * of.kv_bytes, products + of.attention_flops(tokens * (tokens + 1) / 2)


def requests(name: str, count: int, prompt: int, answer: int) -> tuple[float, float]:
    """All of them at once: their prompts in steps of 8,192 tokens, then steps of `count` rows."""
    of = model(name)
    step_bytes, step_flops = decode(name, count, prompt + answer // 2)
    prompts = prefill(name, prompt)[1] * count
    prompt_bytes = -(-count * prompt // 8192) * of.read_weights * ITEM
    return step_bytes * answer + prompt_bytes, step_flops * answer + prompts


def works() -> Iterator[Work]:
    eight = model("8b")
    yield Work("decode, 8B, batch 1, context 1k: a step", *decode("8b", 1, 1024), 1 / 0.85)
    rows, context = 64, 32 * 1024
    yield Work(
        "decode attention, 8B, batch 64, context 32k: a layer",
        rows * context * eight.heads.position_bytes,
        eight.attention_flops(rows * context) / eight.layers,
        1 / 0.80,
    )
    yield Work("prefill, 8B, 8k tokens", *prefill("8b", 8192), 1 / 0.60)
    yield Work("64 forks of a 16k prefix, 8B, each alone: a step", *decode("8b", 64, 16_384 + 64), None)
    yield Work("64 forks of a 16k prefix, 8B, shared: a step", *decode("8b", 64, 16_384 + 64, shared=16_384), None)
    yield Work("decode, 0.6B, batch 64, context 512: a step", *decode("0.6b", 64, 512), 1 / 0.95)
    # the mean of 100 to 1,024 tokens in, and out
    yield Work("256 requests, 0.6B: all", *requests("0.6b", 256, 562, 562), None)
    yield Work("256 requests, 14B: all", *requests("14b", 256, 562, 562), None)


def sharing(chip: Chip) -> Iterator[tuple[int, int, bool]]:
    """Rows and the shortest prefix (a power of two) that the planner would have read once for them, for 8B."""
    heads = model("8b").heads
    for rows in (2, 4, 8, 16, 64, 256):
        planner = DecodePlanner(rows, heads, chip)
        for length in (2**n for n in range(4, 18)):
            if planner.pays(Shared(range(rows), length)):
                yield rows, length, True
                break
        else:
            yield rows, 0, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=4.8, help="of the memory, TB/s")
    parser.add_argument("--flops", type=float, default=989.0, help="of bfloat16 products, TFLOP/s")
    args = parser.parse_args()
    chip = Chip(units=132, bandwidth=args.bandwidth * 1e12, cache_bytes=50 << 20)
    rows: list[dict[str, Any]] = []
    print(f"{'':55}{'GB':>9}{'TFLOP':>9}{'bytes ms':>10}{'flops ms':>10}{'floor ms':>10}{'target ms':>10}")
    for work in works():
        by_bytes, by_flops = work.times_ms(chip, args.flops * 1e12)
        floor = max(by_bytes, by_flops)
        target = None if work.goal is None else floor * work.goal
        shown = "-" if target is None else f"{target:.3f}"
        print(
            f"{work.what:55}{work.bytes / 1e9:9.3f}{work.flops / 1e12:9.3f}"
            f"{by_bytes:10.3f}{by_flops:10.3f}{floor:10.3f}{shown:>10}"
        )
        rows.append(
            {**asdict(work), "bytes_ms": by_bytes, "flops_ms": by_flops, "floor_ms": floor, "target_ms": target}
        )
    alone, shared = (row["floor_ms"] for row in rows if "forks" in row["what"])
    print(f"\n64 forks can be {alone / shared:.1f} times as fast with a shared prefix.")
    print("Shortest prefix that is read once for rows that share it, Llama-3.1-8B:")
    found = list(sharing(chip))
    for count, length, pays in found:
        print(f"{count:6} rows  {f'{length} tokens' if pays else 'never'}")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    chip_facts = {"bandwidth_tb_s": args.bandwidth, "bf16_tflop_s": args.flops, "units": chip.units}
    sharing_pays = [{"rows": count, "tokens": length if pays else None} for count, length, pays in found]
    print(json.dumps({"computed": True, "commit": commit, "chip": chip_facts, "works": rows, "sharing": sharing_pays}))


if __name__ == "__main__":
    main()
