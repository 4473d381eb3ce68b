"""From logits to tokens in plain PyTorch, with full sorts: what the Triton kernels are compared with."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .draw import draw, first_largest
from .drawing import Allowed, Bias, Drawn, Draws, Penalties


def sample(logits: Tensor, draws: Draws) -> Drawn:
    """Draw one token a row: penalties, bias, mask, temperature, top_k, top_p, min_p, then the largest sum of logit and
    Gumbel noise, the lower token where sums tie.

    logits: [rows, vocab], any float type, last dimension contiguous; not changed
    The noise of a token depends on its row's keys and its id only, see `draw`.
    """
    raw = logits.float()
    normalizers = raw.logsumexp(1)
    scaled = scale_logits(raw, draws)
    best = scaled.amax(1)
    fine = normalizers.isfinite() & best.isfinite()
    scaled = torch.where(fine.unsqueeze(1), scaled, 0.0)
    floors = filter_floors(scaled, draws)
    tokens = torch.where(draws.temperature > 0, draw(scaled, floors, draws.keys), first_largest(scaled))
    logprobs = raw.gather(1, tokens.unsqueeze(1)).squeeze(1) - normalizers
    if draws.penalties is not None:
        counted = fine & (draws.penalties.lines >= 0)
        draws.penalties.counts[draws.penalties.lines[counted].long(), tokens[counted]] += 2
    return Drawn(torch.where(fine, tokens, -1), logprobs, normalizers)


def scale_logits(raw: Tensor, draws: Draws) -> Tensor:
    """float32 [rows, vocab]: with penalties, bias and mask, over the temperature where that is not 0."""
    edited = raw.clone()
    if draws.penalties is not None:
        edited = _penalize(edited, draws.penalties)
    if draws.bias is not None:
        _add_bias(edited, draws.bias)
    if draws.allowed is not None:
        edited.masked_fill_(~_may_come(draws.allowed, raw.shape[1]), -torch.inf)
    temperature = draws.temperature
    return edited / torch.where(temperature > 0, temperature, 1.0).unsqueeze(1)


def _penalize(logits: Tensor, penalties: Penalties) -> Tensor:
    """Repetition (arXiv:1909.05858, section 4.1) counts prompt and output, the other two the output only."""
    counts = penalties.counts[penalties.lines.clamp(min=0).long()]
    counts = torch.where(penalties.lines.unsqueeze(1) >= 0, counts, 0)
    repetition = penalties.repetition.unsqueeze(1)
    repeated = torch.where(logits < 0, logits * repetition, logits / repetition)
    logits = torch.where(counts > 0, repeated, logits)
    output = counts >> 1
    penalty = output * penalties.frequency.unsqueeze(1) + penalties.presence.unsqueeze(1)
    return torch.where(output > 0, logits - penalty, logits)


def _add_bias(logits: Tensor, bias: Bias) -> None:
    entries = torch.arange(int(bias.firsts[-1]), device=logits.device)
    rows = torch.searchsorted(bias.firsts[1:].long(), entries, right=True)
    logits.index_put_((rows, bias.tokens[entries].long()), bias.values[entries], accumulate=True)


def _may_come(allowed: Allowed, vocab: int) -> Tensor:
    """bool [rows, vocab]"""
    token = torch.arange(vocab, device=allowed.bits.device)
    words = allowed.bits[allowed.lines.clamp(min=0).long()][:, token // 32]
    return ((words >> (token % 32)) & 1).bool() | (allowed.lines < 0).unsqueeze(1)


def filter_floors(scaled: Tensor, draws: Draws) -> Tensor:
    """The smallest value that top_k, top_p and min_p leave in each row, float32 [rows]; tokens of equal value all stay.

    top_k keeps the k largest; top_p the fewest largest of those left whose probabilities, renormalised, reach p; min_p
    what is at least p times as likely as the most likely.
    """
    rows, vocab = scaled.shape
    floors = torch.full((rows,), -torch.inf, device=scaled.device)
    if not draws.filters:
        return floors
    values = scaled.sort(1, descending=True).values
    kth = values.gather(1, (draws.top_k.clamp(1, vocab) - 1).long().unsqueeze(1)).squeeze(1)
    floors = torch.where(draws.top_k > 0, kth, floors)
    weights = torch.where(values >= floors.unsqueeze(1), (values - values[:, :1]).exp(), 0.0)
    reached = weights.double().cumsum(1)
    needed = (reached < (reached[:, -1] * draws.top_p).unsqueeze(1)).sum(1).clamp(max=vocab - 1)
    nucleus = values.gather(1, needed.unsqueeze(1)).squeeze(1)
    floors = torch.where(draws.top_p < 1, torch.maximum(floors, nucleus), floors)
    return torch.maximum(floors, values[:, 0] + draws.min_p.log())


def top_logprobs(logits: Tensor, normalizers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each row, likeliest first, the lower id where logits are equal.

    logits: [rows, vocab], any float type, as they came; normalizers: of `Drawn`
    returns: float32 log-probabilities and int32 ids, [rows, min(count, vocab)]
    """
    values, ids = largest(logits.float(), count)
    return values - normalizers.unsqueeze(1), ids.int()


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, or all, and where they stand, int64; of equal ones the first come first.

    values: [rows, n]. torch's own selection leaves open which of several equal ones it takes.
    """
    most = values.shape[1]
    count = min(count, most)
    found, places = values.topk(min(count + 1, most), dim=1)
    if 0 < count < most:
        for row in (found[:, count - 1] == found[:, count]).nonzero().squeeze(1).tolist():
            least = found[row, count - 1]
            above = places[row, :count][found[row, :count] != least]
            equal = np.flatnonzero((values[row] == least).cpu().numpy())[: count - len(above)]
            places[row, :count] = torch.cat((above, torch.from_numpy(equal).to(above.device)))
    places = places[:, :count].sort(1).values
    found, order = values.gather(1, places).sort(dim=1, descending=True, stable=True)
    return found, places.gather(1, order)
