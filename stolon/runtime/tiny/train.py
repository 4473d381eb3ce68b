"""Trains the tiny model from nothing: `python -m stolon.runtime.tiny.train --out DIR --minutes 80`.

The budget is wall-clock time, and the learning rate follows it, so a run always anneals to its end. Data are the same
for the same seed; the weights are not bit for bit, because a busy machine takes fewer steps.

Each worker is a process of one thread with its own documents; they meet once a step to average their gradients. On a
busy machine that wastes far less than two threads that meet in every operation.
"""

# the annotations of torch and transformers are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import argparse
import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from . import MODEL_DIR
from .export import save_model
from .network import Shape, TinyLlama
from .packing import Rows, batches


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train; every field is a flag."""

    out: Path
    tokenizer: Path = MODEL_DIR / "tokenizer.json"  # made once, by tokenizer.py
    minutes: float = 80.0
    max_steps: int = 10**9
    seed: int = 1
    workers: int = 2
    tokens_per_batch: int = 4096  # of all workers together
    matrix_rate: float = 0.02  # Muon
    vector_rate: float = 0.004  # AdamW: embedding and norms
    warmup_steps: int = 60
    decay_from: float = 0.3  # share of the budget after which the rate falls, in a line, to 2 %
    compile: bool = True
    save_every_s: float = 180.0
    start_from: Path | None = None  # training.safetensors of a run that was cut off


@dataclass(slots=True)
class Progress:
    """What a run has done so far; written beside the weights."""

    steps: int = 0
    tokens: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    loss: float = 0.0


def rate_share(recipe: Recipe, steps: int, spent: float) -> float:
    """The learning rate as a share of its peak; `spent` is the share of the budget that is gone."""
    warm = min(1.0, (steps + 1) / recipe.warmup_steps)
    return warm * (1.0 if spent < recipe.decay_from else max(0.02, (1.0 - spent) / (1.0 - recipe.decay_from)))


class Trainer:
    """One run: model, two optimizers, and the step that uses them."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer) -> None:
        self.recipe = recipe
        self.tokenizer = tokenizer
        self.model = TinyLlama(Shape(vocabulary=tokenizer.get_vocab_size()))
        if recipe.start_from is not None:
            self.model.load_state_dict(load_file(recipe.start_from))
        named = list(self.model.named_parameters())
        self._vectors = [weight for name, weight in named if weight.ndim < 2 or "embed" in name]
        matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(matrices, lr=recipe.matrix_rate, momentum=0.95, weight_decay=0.01), recipe.matrix_rate),
            (
                torch.optim.AdamW(self._vectors, lr=recipe.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
                recipe.vector_rate,
            ),
        ]
        self._loss = torch.compile(self._weighted_loss, dynamic=False) if recipe.compile else self._weighted_loss

    def _weighted_loss(self, rows: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        tokens, positions, mask, targets, weights = rows
        logits = self.model(tokens, positions, mask).float()
        each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (each * weights.flatten()).sum() / weights.sum()

    def gradients(self, rows: Rows) -> float:
        """Add up the gradients of one batch; returns its loss."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self._loss((rows.tokens, rows.positions, rows.mask, rows.targets, rows.weights))
        loss.backward()
        return loss.item()

    def averaged(self, *numbers: float) -> list[float]:
        """Average the gradients over the workers, and some numbers with them."""
        grads = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor(numbers)])
        distributed.all_reduce(flat)
        flat /= self.recipe.workers
        start = 0
        for grad in grads:
            grad.copy_(flat[start : start + grad.numel()].view_as(grad))
            start += grad.numel()
        return flat[start:].tolist()

    def step(self, share: float) -> None:
        """Move the weights, at `share` of the peak learning rate."""
        torch.nn.utils.clip_grad_norm_(self._vectors, 1.0)
        for optimizer, peak in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()

    def save(self, progress: Progress) -> None:
        out = self.recipe.out
        save_model(self.model, self.tokenizer, out)
        save_file(
            {name: weight.detach().clone() for name, weight in self.model.state_dict().items()},
            out / "training.safetensors",
        )
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.recipe).items()}
        (out / "training.json").write_text(json.dumps({"recipe": settings, **asdict(progress)}, indent=2) + "\n")


def _work(rank: int, recipe: Recipe, meeting: str) -> None:
    """One worker. The numbers that steer the run are averaged too, so that all workers steer alike."""
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=recipe.workers)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    tokenizer = Tokenizer.from_file(str(recipe.tokenizer))
    trainer = Trainer(recipe, tokenizer)
    progress = Progress()
    source = batches(tokenizer, recipe.seed * 1000 + rank, recipe.tokens_per_batch // recipe.workers)
    started = saved = time.monotonic()
    while progress.steps < recipe.max_steps and progress.wall_s < recipe.minutes * 60:
        share = rate_share(recipe, progress.steps, progress.wall_s / (recipe.minutes * 60))
        loss = trainer.gradients(next(source))
        loss, wall_s, cpu_s = trainer.averaged(loss, time.monotonic() - started, time.process_time())
        trainer.step(share)
        progress.steps += 1
        progress.tokens += recipe.tokens_per_batch
        progress.wall_s, progress.cpu_s = wall_s, cpu_s * recipe.workers
        progress.loss = loss if progress.steps == 1 else 0.98 * progress.loss + 0.02 * loss
        if rank == 0 and progress.steps % 50 == 0:
            print(f"rate {share:.2f}", json.dumps(asdict(progress)), flush=True)
        if rank == 0 and time.monotonic() - saved > recipe.save_every_s:
            trainer.save(progress)
            saved = time.monotonic()
    if rank == 0:
        trainer.save(progress)
    distributed.destroy_process_group()


def train(recipe: Recipe) -> None:
    with TemporaryDirectory() as folder:
        spawn(_work, (recipe, f"{folder}/meeting"), nprocs=recipe.workers)


def _recipe() -> Recipe:
    parser = argparse.ArgumentParser(description="Train the tiny model.")
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        if field.name == "out":
            parser.add_argument(flag, type=Path, required=True, help="folder to write into")
        elif field.name in ("start_from", "tokenizer"):
            parser.add_argument(flag, type=Path, default=field.default)
        elif field.name == "compile":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=True)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    return Recipe(**vars(parser.parse_args()))


if __name__ == "__main__":
    train(_recipe())
