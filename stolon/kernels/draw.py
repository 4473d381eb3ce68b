"""Randomness of a draw: a hash of (seed, position, token), so that no draw depends on what else is in the batch.

The integers are defined bit for bit, for a GPU kernel to repeat; the noise made of them is float32.
"""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_LOW31 = 0x7FFFFFFF
# Largest float32 below 1: the noise of the largest hashes stays finite.
_BELOW_ONE = 1.0 - 2.0**-24

# Bounds of `gumbel`, rounded outwards: -log(-log1p(-2**-32)) and -log(-log1p(-_BELOW_ONE)).
LARGEST_NOISE = 22.19
SMALLEST_NOISE = -2.82

# Rows are worked on in parts of this size, which stay in a core's second-level cache.
_PART = 1 << 18
# Where more than this share of the tokens could win, picking them out costs more than looking at all.
_SPARSE = 1 / 8


def draw_keys(seed: int, position: int) -> tuple[int, int]:
    """Two signed 32-bit keys for the draw at one position of one sequence.

    splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of the seed, and again of that and the position
    """
    mixed = _splitmix64(_splitmix64(seed & _MASK64) ^ (position & _MASK64))
    return _signed32(mixed & 0xFFFFFFFF), _signed32(mixed >> 32)


def token_hash(tokens: Tensor, key0: Tensor, key1: Tensor) -> Tensor:
    """32 mixed bits for each token, in int32 that wraps around.

    tokens, key0, key1: int32, of shapes that broadcast
    The shifts and multipliers are those of `lowbias32` (Chris Wellons, "Prospecting for hash functions", 2018), with
    the second key added between the two rounds. Right shifts fill with zeros.
    """
    x = tokens ^ key0
    x ^= (x >> 16) & 0xFFFF
    x *= 0x7FEB352D
    x ^= (x >> 15) & 0x1FFFF
    x += key1
    x *= _signed32(0x846CA68B)
    x ^= (x >> 16) & 0xFFFF
    return x


def gumbel(bits: Tensor) -> Tensor:
    """Standard Gumbel noise, -log(-log(1 - v)) with v = (low 31 bits + 1/2) / 2**31.

    bits: int32; returns float32 in [SMALLEST_NOISE, LARGEST_NOISE]. The likely winners have small v, which float32
    resolves finely, so that probabilities far below 2**-24 are still drawn as often as they should be.
    """
    v = (bits & _LOW31).float()
    v.add_(0.5).mul_(-(2.0**-31)).clamp_(min=-_BELOW_ONE)
    return v.log1p_().neg_().log_().neg_()


def draw(scaled: Tensor, floors: Tensor, keys: Tensor) -> Tensor:
    """One token a row, with probability proportional to exp(scaled), among those at least as large as the floor.

    scaled: float32 [rows, vocab]; floors: float32 [rows], at most the row's maximum; keys: int32 [rows, 2]
    returns: int64 [rows]
    The winner is the largest sum of logit and Gumbel noise (Gumbel 1954), the lower id where sums tie. Noise is
    bounded, so what lies further below the maximum than the bounds are apart can never win and is left out.
    """
    step = max(1, _PART // scaled.shape[1])
    parts = range(0, scaled.shape[0], step)
    return torch.cat([_draw_part(scaled[i : i + step], floors[i : i + step], keys[i : i + step]) for i in parts])


def _draw_part(scaled: Tensor, floors: Tensor, keys: Tensor) -> Tensor:
    rows, vocab = scaled.shape
    reach = scaled.amax(1) - (LARGEST_NOISE - SMALLEST_NOISE)
    allowed = scaled >= torch.maximum(floors, reach).unsqueeze(1)
    sampled = allowed[:, ::16]  # which way to go changes the cost only, so a sixteenth will do to tell
    if int(sampled.sum()) > sampled.numel() * _SPARSE:
        tokens = torch.arange(vocab, dtype=torch.int32, device=scaled.device)
        score = gumbel(token_hash(tokens, keys[:, :1], keys[:, 1:])).add_(scaled)
        if bool(floors.isneginf().all()):
            return first_largest(score)
        return first_largest(score.masked_fill_(allowed.logical_not_(), -torch.inf))
    candidates = allowed.view(-1).nonzero().squeeze(1)
    row = candidates // vocab
    token = candidates - row * vocab
    score = gumbel(token_hash(token.int(), keys[row, 0], keys[row, 1])) + scaled.reshape(-1)[candidates]
    best = torch.full((rows,), -torch.inf, device=scaled.device).scatter_reduce_(0, row, score, "amax")
    wins = score == best[row]
    winner = torch.full((rows,), vocab, dtype=torch.int64, device=scaled.device)
    return winner.scatter_reduce_(0, row[wins], token[wins], "amin")


def first_largest(values: Tensor) -> Tensor:
    """Where each row has its largest value, the first place if there are several: int64 [rows]."""
    if values.device.type == "cpu":
        # numpy's is vectorised; torch's takes 20 times as long for a large vocabulary
        return torch.from_numpy(values.numpy().argmax(1))
    return values.argmax(1)


def _splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def _signed32(x: int) -> int:
    return x - (1 << 32) if x >= 1 << 31 else x
