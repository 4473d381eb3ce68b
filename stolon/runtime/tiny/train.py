"""Trains the tiny model from nothing: `python -m stolon.runtime.tiny.train --out DIR --minutes 80`.

The budget is wall-clock time, and the learning rate follows it, so a run always anneals to its end. Data are the same
for the same seed; the weights are not bit for bit, because a busy machine takes fewer steps.
"""

# the annotations of torch and transformers are partial
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import argparse
import json
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from .export import save_model
from .network import Shape, TinyLlama
from .packing import Rows, batches
from .tokenizer import TOKENIZER_SEED, train_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train; every field is a flag."""

    out: Path
    minutes: float = 80.0
    max_steps: int = 10**9
    seed: int = 1
    threads: int = 2
    tokens_per_batch: int = 4096
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
        self._loss = torch.compile(self._weighted_loss) if recipe.compile else self._weighted_loss

    def _weighted_loss(self, rows: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        tokens, positions, mask, targets, weights = rows
        logits = self.model(tokens, positions, mask).float()
        each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (each * weights.flatten()).sum() / weights.sum()

    def step(self, rows: Rows, share: float) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self._loss((rows.tokens, rows.positions, rows.mask, rows.targets, rows.weights))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._vectors, 1.0)
        for optimizer, peak in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def save(self, progress: Progress) -> None:
        out = self.recipe.out
        save_model(self.model, self.tokenizer, out)
        save_file(
            {name: weight.detach().clone() for name, weight in self.model.state_dict().items()},
            out / "training.safetensors",
        )
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.recipe).items()}
        (out / "training.json").write_text(json.dumps({"recipe": settings, **asdict(progress)}, indent=2) + "\n")


def train(recipe: Recipe) -> Progress:
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer = train_tokenizer(TOKENIZER_SEED)
    trainer = Trainer(recipe, tokenizer)
    progress = Progress()
    source = batches(tokenizer, recipe.seed, recipe.tokens_per_batch)
    started, cpu_started, saved = time.monotonic(), time.process_time(), time.monotonic()
    budget_s = recipe.minutes * 60
    while progress.steps < recipe.max_steps and progress.wall_s < budget_s:
        share = rate_share(recipe, progress.steps, progress.wall_s / budget_s)
        loss = trainer.step(next(source), share)
        now = time.monotonic()
        progress.steps += 1
        progress.tokens += recipe.tokens_per_batch
        progress.wall_s, progress.cpu_s = now - started, time.process_time() - cpu_started
        progress.loss = loss if progress.steps == 1 else 0.98 * progress.loss + 0.02 * loss
        if progress.steps % 50 == 0:
            print(
                f"step {progress.steps} loss {progress.loss:.3f} tokens {progress.tokens / 1e6:.2f}M "
                f"wall {progress.wall_s:.0f}s cpu {progress.cpu_s:.0f}s rate {share:.2f}",
                flush=True,
            )
        if now - saved > recipe.save_every_s:
            trainer.save(progress)
            saved = time.monotonic()
    trainer.save(progress)
    return progress


def _recipe() -> Recipe:
    parser = argparse.ArgumentParser(description="Train the tiny model.")
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        if field.name == "out":
            parser.add_argument(flag, type=Path, required=True, help="folder to write into")
        elif field.name == "start_from":
            parser.add_argument(flag, type=Path)
        elif field.name == "compile":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=True)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)
    return Recipe(**vars(parser.parse_args()))


if __name__ == "__main__":
    print(json.dumps(asdict(train(_recipe()))))
