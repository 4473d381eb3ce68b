"""Batches of logits whose rows ask for different things."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stolon.kernels.draw import draw_keys
from stolon.kernels.drawing import Allowed, Bias, Draws, Penalties

# (temperature, top_k, top_p, min_p) of the rows
FILTERS = [
    (1.0, 0, 1.0, 0.0),
    (0.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.9, 0.0),
    (1.0, 0, 1.0, 0.05),
    (2.0, 40, 0.8, 0.01),
    (0.0, 3, 0.5, 0.5),
    (1.0, 1, 1.0, 0.0),
    (0.01, 10_000, 0.999, 0.0),
    (1.0, 0, 1e-6, 0.0),
]


def make_draws(*, first_key: int = 0, filters: list[tuple[float, int, float, float]] = FILTERS) -> Draws:
    temperature, top_k, top_p, min_p = zip(*filters, strict=True)
    keys = [draw_keys(11, first_key + row) for row in range(len(filters))]
    return Draws(
        temperature=torch.tensor(temperature),
        top_k=torch.tensor(top_k, dtype=torch.int32),
        top_p=torch.tensor(top_p),
        min_p=torch.tensor(min_p),
        keys=torch.tensor(keys, dtype=torch.int32),
        filters=any(row[1:] != (0, 1.0, 0.0) for row in filters),
    )


def make_logits(rows: int, vocab: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Of a larger tensor, so that rows do not follow each other."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab + 7, generator=generator) * 3).to(dtype)[:, 3 : vocab + 3]


def make_penalties(rows: int, vocab: int) -> Penalties:
    """Every third row has none; lines are in no order."""
    random = np.random.default_rng(3)
    counts = random.integers(0, 6, (rows + 2, vocab)) * (random.random((rows + 2, vocab)) < 0.2)
    lines = random.permutation(rows + 2)[:rows]
    lines[::3] = -1
    repetition, frequency, presence = (
        torch.from_numpy(random.uniform(low, 2, rows).astype(np.float32)) for low in (0.5, -2, -2)
    )
    counts, lines = torch.from_numpy(counts.astype(np.int32)), torch.from_numpy(lines.astype(np.int32))
    return Penalties(repetition, frequency, presence, counts, lines)


def make_bias(rows: int, vocab: int) -> Bias:
    """Some rows have entries; one forbids a token, one names a token twice."""
    random = np.random.default_rng(4)
    counts = random.integers(0, 4, rows) * 2
    firsts = np.concatenate(([0], np.cumsum(counts)))
    tokens = random.integers(0, vocab, firsts[-1])
    values = random.uniform(-5, 5, firsts[-1])
    values[0] = -math.inf
    tokens[-1] = tokens[-2]
    arrays = firsts.astype(np.int32), tokens.astype(np.int32), values.astype(np.float32)
    return Bias(*map(torch.from_numpy, arrays))


def make_allowed(rows: int, vocab: int) -> Allowed:
    """Every second row may have a quarter of the tokens."""
    random = np.random.default_rng(5)
    lines = np.full(rows, -1, np.int32)
    lines[1::2] = random.permutation(len(lines[1::2]))
    words = random.integers(-(2**31), 2**31, (2, max(1, rows // 2), -(-vocab // 32)), dtype=np.int64).astype(np.int32)
    return Allowed(torch.from_numpy(words[0] & words[1]), torch.from_numpy(lines))
