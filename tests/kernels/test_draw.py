"""The draw's integers are fixed for good, and its winners are distributed as they should be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stolon.kernels.draw import LARGEST_NOISE, SMALLEST_NOISE, draw, draw_keys, gumbel, token_hash

MASK = 0xFFFFFFFF

# of seed 42, position 3 and token 17: both keys and the hash
RECORDED = (2583233866, 4199519317, 668941778)


def hash_of(token: int, key0: int, key1: int) -> int:
    """The same in whole numbers."""
    x = (token ^ key0) & MASK
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = (x + key1) & MASK
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def test_the_hash_is_what_whole_numbers_give() -> None:
    for seed, position in ((0, 0), (1, 7), (-5, 1000), (2**63 - 1, 2**31)):
        key0, key1 = draw_keys(seed, position)
        tokens = torch.tensor([0, 1, 2, 255, 151935, 2**31 - 1], dtype=torch.int32)
        got = token_hash(tokens, torch.tensor(key0, dtype=torch.int32), torch.tensor(key1, dtype=torch.int32))
        assert [value & MASK for value in got.tolist()] == [hash_of(token, key0, key1) for token in tokens.tolist()]


def test_the_hash_never_changes() -> None:
    # recorded once: another value would change every user's seeded text
    key0, key1 = draw_keys(42, 3)
    assert (key0 & MASK, key1 & MASK, hash_of(17, key0, key1)) == RECORDED


def test_noise_is_gumbel_and_within_its_bounds() -> None:
    ends = gumbel(torch.tensor([0, -1, 2**31 - 1, -(2**31)], dtype=torch.int32))
    assert ends.isfinite().all()
    assert ends.max() <= LARGEST_NOISE
    assert ends.min() >= SMALLEST_NOISE
    assert ends[0] > LARGEST_NOISE - 0.02
    assert ends[1] < SMALLEST_NOISE + 0.02
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=torch.Generator().manual_seed(0)).int()
    noise = gumbel(bits).double().sort().values
    expected = torch.exp(-torch.exp(-noise))
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand
    distance = (expected - torch.arange(1, len(noise) + 1) / len(noise)).abs().max()
    assert distance < 1.95 / math.sqrt(len(noise))


def keys_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor([draw_keys(seed, position) for position in range(count)], dtype=torch.int32)


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Of the cells that expect five or more; the rest are one cell."""
    large = expected >= 5
    seen = np.append(counts[large], counts[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    # Wilson and Hilferty: the cube root of chi-square over its mean is nearly normal
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


@pytest.mark.parametrize("seed", [0, 1, -77])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_20000_draws_follow_the_distribution(seed: int, spread: float) -> None:
    logits = torch.randn(100, generator=torch.Generator().manual_seed(5)) * spread
    count = 20_000
    scaled = logits.expand(count, -1).contiguous()
    drawn = draw(scaled, torch.full((count,), -math.inf), keys_of(count, seed))
    counts = np.bincount(drawn.numpy(), minlength=100)
    expected = logits.double().softmax(0).numpy() * count
    assert chi_square(counts, expected) < 3.7  # exceeded once in ten thousand


def test_neighbouring_seeds_draw_independently() -> None:
    count = 20_000
    logits = torch.zeros(count, 16)
    first = draw(logits, torch.full((count,), -math.inf), keys_of(count, 10))
    second = draw(logits, torch.full((count,), -math.inf), keys_of(count, 11))
    pairs = np.bincount((first * 16 + second).numpy(), minlength=256)
    assert chi_square(pairs, np.full(256, count / 256)) < 3.7


def test_a_draw_depends_on_nothing_but_its_row_and_its_keys() -> None:
    scaled = torch.randn(64, 5000, generator=torch.Generator().manual_seed(1)) * 3
    scaled[32:, :100] += 40  # here few can win, above many can
    floors = scaled.topk(40).values[:, -1]
    floors[::2] = -math.inf
    floors[1::4] = 0.0
    together = draw(scaled, floors, keys_of(64))
    alone = [draw(scaled[i : i + 1], floors[i : i + 1], keys_of(64)[i : i + 1]).item() for i in range(64)]
    assert together.tolist() == alone


def test_what_is_below_the_floor_is_never_drawn() -> None:
    scaled = torch.zeros(5000, 8)
    drawn = draw(scaled + torch.arange(8.0) * 0.1, torch.full((5000,), 0.35), keys_of(5000))
    assert set(drawn.tolist()) == {4, 5, 6, 7}


def test_leaving_out_hopeless_tokens_changes_no_draw() -> None:
    scaled = torch.randn(200, 1000, generator=torch.Generator().manual_seed(2)) * 12
    keys = keys_of(200)
    noise = gumbel(token_hash(torch.arange(1000, dtype=torch.int32), keys[:, :1], keys[:, 1:]))
    assert (scaled.amax(1, keepdim=True) - scaled > LARGEST_NOISE - SMALLEST_NOISE).any()
    assert draw(scaled, torch.full((200,), -math.inf), keys).tolist() == (scaled + noise).argmax(1).tolist()
