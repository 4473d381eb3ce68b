"""From logits to tokens without a sort: penalties, bias, mask and temperature in one pass, filters by search, one draw.

Vocabularies are cut into segments of fixed size, so that nothing depends on what else is in the batch.
"""

# Triton's language has no types
# pyright: basic, reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOperatorIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .draw import LARGEST_NOISE, SMALLEST_NOISE
from .drawing import Drawn, Draws
from .ordinals import from_ordinal, to_ordinal
from .tiles import FINISH, FLOORS, SEGMENT, padded

# What lies further below the largest logit never wins a draw.
_REACH = tl.constexpr(LARGEST_NOISE - SMALLEST_NOISE)
# Largest float32 below 1, as in `draw.gumbel`.
_BELOW_ONE = tl.constexpr(1.0 - 2.0**-24)


def sample(logits: Tensor, draws: Draws) -> Drawn:
    """Draw one token a row: penalties, bias, mask, temperature, top_k, top_p, min_p, then the largest sum of logit and
    Gumbel noise, the lower token where sums tie.

    logits: [rows, vocab], any float type, last dimension contiguous; not changed
    Four kernels, or three if no row filters: edit (rows and segments), floors (a program a row), draw (rows and
    segments), finish (a program a row). Their grids depend on sizes only, so a CUDA graph may hold them.
    The noise is that of `draw`: the same integers bit for bit, the same formula in float32.
    Plain form: reference_sample, whose nucleus is summed in float64 where this one is in float32.
    """
    rows, vocab = logits.shape
    device = logits.device
    segments = triton.cdiv(vocab, SEGMENT.keys)
    scaled = torch.empty((rows, vocab), dtype=torch.float32, device=device)
    facts = torch.empty((rows, segments, 3), dtype=torch.float32, device=device)
    floors = torch.empty(rows, dtype=torch.float32, device=device)
    scores = torch.empty((rows, segments), dtype=torch.float32, device=device)
    best = torch.empty((rows, segments), dtype=torch.int32, device=device)
    drawn = Drawn(
        torch.empty(rows, dtype=torch.int64, device=device),
        torch.empty(rows, dtype=torch.float32, device=device),
        torch.empty(rows, dtype=torch.float32, device=device),
    )
    if not rows:
        return drawn
    sizes = {"VOCAB": vocab, "SEGMENTS": segments}
    whole = {"PADDED": padded(segments)}
    _edit[(rows * segments,)](
        logits,
        scaled,
        facts,
        draws.temperature,
        *_edit_tensors(draws),
        logits.stride(0),
        **sizes,
        BLOCK=SEGMENT.keys,
        PENALTIES=draws.penalties is not None,
        BIAS=draws.bias is not None,
        ALLOWED=draws.allowed is not None,
        **SEGMENT.options,
    )
    if draws.filters:
        asked = draws.top_k, draws.top_p, draws.min_p
        _floors[(rows,)](scaled, facts, floors, *asked, **sizes, **whole, BLOCK=FLOORS.keys, **FLOORS.options)
    _draw[(rows * segments,)](
        scaled,
        facts,
        floors,
        scores,
        best,
        draws.temperature,
        draws.keys,
        **sizes,
        **whole,
        BLOCK=SEGMENT.keys,
        FILTERS=draws.filters,
        **SEGMENT.options,
    )
    penalties = draws.penalties
    _finish[(rows,)](
        logits,
        facts,
        scores,
        best,
        drawn.tokens,
        drawn.logprobs,
        drawn.normalizers,
        best if penalties is None else penalties.counts,
        best if penalties is None else penalties.lines,
        logits.stride(0),
        **sizes,
        **whole,
        COUNTED=penalties is not None,
        **FINISH.options,
    )
    return drawn


def _edit_tensors(draws: Draws) -> list[Tensor | int]:
    """Of the penalties, the bias and the mask; where there are none, anything, as it is not read."""
    unused = draws.temperature
    found: list[Tensor | int] = []
    if draws.penalties is None:
        found += [unused] * 5
    else:
        penalties = draws.penalties
        found += [penalties.repetition, penalties.frequency, penalties.presence, penalties.counts, penalties.lines]
    found += [unused] * 3 if draws.bias is None else [draws.bias.firsts, draws.bias.tokens, draws.bias.values]
    if draws.allowed is None:
        return [*found, unused, unused, 0]
    return [*found, draws.allowed.bits, draws.allowed.lines, draws.allowed.bits.stride(0)]


@triton.jit
def _edit(
    logits,
    scaled,
    facts,
    temperature,
    repetition,
    frequency,
    presence,
    counts,
    count_lines,
    bias_firsts,
    bias_tokens,
    bias_values,
    bits,
    bit_lines,
    bits_stride,
    stride,
    VOCAB: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
    PENALTIES: tl.constexpr,
    BIAS: tl.constexpr,
    ALLOWED: tl.constexpr,
):
    """One segment of one row: the scaled logits; of the logits as they came the largest and the sum of exponentials
    over it; of the scaled ones the largest."""
    row = (tl.program_id(0) // SEGMENTS).to(tl.int64)
    segment = tl.program_id(0) % SEGMENTS
    token = segment * BLOCK + tl.arange(0, BLOCK)
    inside = token < VOCAB
    value = tl.load(logits + row * stride + token, mask=inside, other=float("-inf")).to(tl.float32)
    largest = tl.max(value, 0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    fact = facts + (row * SEGMENTS + segment) * 3
    tl.store(fact, largest)
    tl.store(fact + 1, tl.sum(tl.exp(value - shift), 0))

    if PENALTIES:
        line = tl.load(count_lines + row).to(tl.int64)
        if line >= 0:
            count = tl.load(counts + line * VOCAB + token, mask=inside, other=0)
            repeated = tl.load(repetition + row)
            value = tl.where(count > 0, tl.where(value < 0, value * repeated, value / repeated), value)
            output = count >> 1
            penalty = output.to(tl.float32) * tl.load(frequency + row) + tl.load(presence + row)
            value = tl.where(output > 0, value - penalty, value)
    if BIAS:
        for entry in range(tl.load(bias_firsts + row), tl.load(bias_firsts + row + 1)):
            value += tl.where(token == tl.load(bias_tokens + entry), tl.load(bias_values + entry), 0.0)
    if ALLOWED:
        line = tl.load(bit_lines + row).to(tl.int64)
        if line >= 0:
            word = tl.load(bits + line * bits_stride + token // 32, mask=inside, other=0)
            value = tl.where(((word >> (token % 32)) & 1) != 0, value, float("-inf"))
    heat = tl.load(temperature + row)
    # adding 0 turns -0, which the search for floors would put below 0, into 0
    value = value / tl.where(heat > 0, heat, 1.0) + 0.0
    tl.store(fact + 2, tl.max(value, 0))
    tl.store(scaled + row * VOCAB + token, value, mask=inside)


@triton.jit
def _fact(facts, row, which: tl.constexpr, SEGMENTS: tl.constexpr, PADDED: tl.constexpr):
    """Number `which` of the facts of a row's segments, -inf beyond them: [PADDED]"""
    segment = tl.arange(0, PADDED)
    return tl.load(facts + (row * SEGMENTS + segment) * 3 + which, mask=segment < SEGMENTS, other=float("-inf"))


@triton.jit
def _measure(scaled, floor, best, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """How many logits of a row are at least `floor`, and the sum of their exponentials over the largest."""
    count = tl.zeros((BLOCK,), tl.int32)
    mass = tl.zeros((BLOCK,), tl.float32)
    # one program alone cannot wait for each read: three are on the way, 96 KiB
    for start in tl.range(0, VOCAB, BLOCK, num_stages=4):
        token = start + tl.arange(0, BLOCK)
        value = tl.load(scaled + token, mask=token < VOCAB, other=float("-inf"))
        kept = (value >= floor) & (token < VOCAB)
        count += kept.to(tl.int32)
        mass += tl.where(kept, tl.exp(value - best), 0.0)
    return tl.sum(count, 0), tl.sum(mass, 0)


@triton.jit
def _search(scaled, low, best, most, target, BY_COUNT: tl.constexpr, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """The largest floor, not below `low`, that leaves at least `target` tokens (or that much mass); `low` if none does.

    best: the row's largest logit; most: how many are at least `low`
    Bisection over the floats' ordinals: what is at least `under` suffices, what is at least `over` does not. It ends
    where no number, or a single logit, lies between: at about the logarithm of the distance between two logits.
    """
    under = to_ordinal(low)
    over = to_ordinal(best) + 1
    left = most
    right = 0
    while (over - under > 1) & (left - right > 1):
        middle = under + (over - under) // 2
        count, mass = _measure(scaled, from_ordinal(middle), best, VOCAB, BLOCK)
        if BY_COUNT:
            enough = count >= target
        else:
            enough = mass >= target
        under = tl.where(enough, middle, under)
        left = tl.where(enough, count, left)
        over = tl.where(enough, over, middle)
        right = tl.where(enough, right, count)
    return from_ordinal(under)


@triton.jit
def _floors(
    scaled,
    facts,
    floors,
    top_k,
    top_p,
    min_p,
    VOCAB: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What the filters of one row leave; floors below what can win a draw are not looked for."""
    row = tl.program_id(0).to(tl.int64)
    best = tl.max(_fact(facts, row, 2, SEGMENTS, PADDED), 0)
    scaled += row * VOCAB
    floor = best - _REACH
    k = tl.load(top_k + row)
    p = tl.load(top_p + row)
    least = tl.load(min_p + row)
    usable = (best > float("-inf")) & (best < float("inf"))
    if usable & ((k > 0) | (p < 1.0)):
        count, mass = _measure(scaled, floor, best, VOCAB, BLOCK)
        if (k > 0) & (k < count):
            floor = _search(scaled, floor, best, count, k, True, VOCAB, BLOCK)
            count, mass = _measure(scaled, floor, best, VOCAB, BLOCK)
        if p < 1.0:
            floor = _search(scaled, floor, best, count, mass * p, False, VOCAB, BLOCK)
    if least > 0:
        floor = tl.maximum(floor, best + tl.log(least))
    tl.store(floors + row, floor)


@triton.jit
def hash_bits(token, key0, key1):
    """`draw.token_hash`, in uint32. token: int32 tensor; key0, key1: int32"""
    x = (token ^ key0).to(tl.uint32, bitcast=True)
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x += key1.to(tl.uint32, bitcast=True)
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _gumbel(bits):
    """`draw.gumbel`: -log(-log1p(-v)) with v = (low 31 bits + 1/2) / 2**31."""
    minus = tl.maximum(((bits & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * -(2.0**-31), -_BELOW_ONE)
    # log1p as in Kahan's and Higham's books: the error of rounding 1 + x is divided out
    rounded = 1.0 + minus
    close = rounded == 1.0
    quotient = minus / tl.where(close, 1.0, rounded - 1.0)
    return -tl.log(-tl.where(close, minus, tl.log(rounded) * quotient))


@triton.jit
def _draw(
    scaled,
    facts,
    floors,
    scores,
    winners,
    temperature,
    keys,
    VOCAB: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    FILTERS: tl.constexpr,
):
    """The best token of one segment of one row, the lowest where several are, and its score."""
    row = (tl.program_id(0) // SEGMENTS).to(tl.int64)
    segment = tl.program_id(0) % SEGMENTS
    here = tl.load(facts + (row * SEGMENTS + segment) * 3 + 2)
    best = tl.max(_fact(facts, row, 2, SEGMENTS, PADDED), 0)
    floor = best - _REACH
    if FILTERS:
        floor = tl.maximum(floor, tl.load(floors + row))
    token = segment * BLOCK + tl.arange(0, BLOCK)
    place = row * SEGMENTS + segment
    if here < floor:
        tl.store(scores + place, float("-inf"))
        tl.store(winners + place, VOCAB)
        return
    inside = token < VOCAB
    value = tl.load(scaled + row * VOCAB + token, mask=inside, other=float("-inf"))
    score = value
    if tl.load(temperature + row) > 0:
        bits = hash_bits(token, tl.load(keys + row * 2), tl.load(keys + row * 2 + 1))
        score = tl.where(value >= floor, value + _gumbel(bits), float("-inf"))
    largest = tl.max(score, 0)
    tl.store(scores + place, largest)
    tl.store(winners + place, tl.min(tl.where(inside & (score == largest), token, VOCAB), 0))


@triton.jit
def _finish(
    logits,
    facts,
    scores,
    winners,
    tokens,
    logprobs,
    normalizers,
    counts,
    count_lines,
    stride,
    VOCAB: tl.constexpr,
    SEGMENTS: tl.constexpr,
    PADDED: tl.constexpr,
    COUNTED: tl.constexpr,
):
    """The best of a row's segments, and its logarithm of the sum of exponentials."""
    row = tl.program_id(0).to(tl.int64)
    segment = tl.arange(0, PADDED)
    there = segment < SEGMENTS
    largest = _fact(facts, row, 0, SEGMENTS, PADDED)
    most = tl.max(largest, 0)
    best = tl.max(_fact(facts, row, 2, SEGMENTS, PADDED), 0)
    sums = tl.load(facts + (row * SEGMENTS + segment) * 3 + 1, mask=there, other=0.0)
    shift = tl.where(most == float("-inf"), 0.0, most)
    # a segment of nothing but -inf has a sum of 0; inf - inf is NaN, as it should be
    shares = tl.where(largest == float("-inf"), 0.0, tl.exp(largest - shift))
    normalizer = most + tl.log(tl.sum(tl.where(there, sums * shares, 0.0), 0))
    tl.store(normalizers + row, normalizer)

    score = tl.load(scores + row * SEGMENTS + segment, mask=there, other=float("-inf"))
    winner = tl.load(winners + row * SEGMENTS + segment, mask=there, other=VOCAB)
    token = tl.min(tl.where(score == tl.max(score, 0), winner, VOCAB), 0)
    fine = (tl.abs(normalizer) < float("inf")) & (tl.abs(best) < float("inf")) & (token < VOCAB)
    tl.store(tokens + row, tl.where(fine, token, -1).to(tl.int64))
    chosen = tl.load(logits + row * stride + tl.where(fine, token, 0)).to(tl.float32)
    tl.store(logprobs + row, chosen - normalizer)
    if COUNTED:
        line = tl.load(count_lines + row).to(tl.int64)
        if fine & (line >= 0):
            place = counts + line * VOCAB + token
            tl.store(place, tl.load(place) + 2)
