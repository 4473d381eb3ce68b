"""From logits to tokens: penalties and bias, temperature, filters, one draw; and the log-probabilities asked for."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.draw import draw, draw_keys, first_largest
from ..kernels.reference_sample import largest
from ..lang.errors import EngineError, InvalidRequest
from ..lang.types import SamplingParams, TokenLogprob
from .sequence import Row, RowResult

# Logits of this many rows x vocabulary are worked on at once: 32 MiB of float32.
CHUNK_ITEMS = 1 << 23
# What a byte of a mask adds to the logits of its eight tokens: nothing where the bit is set. float32 [256, 8]
_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_PENALTIES = np.where(_SET == 1, np.float32(0), np.float32(-np.inf))


def sample(
    logits: Tensor,
    rows: list[Row],
    eos_token_ids: frozenset[int],
    allowed: Mapping[int, NDArray[np.int32]] | None = None,
) -> list[RowResult]:
    """Draw the token that comes behind each row.

    logits: float32 [len(rows), vocab], as the model gave them; may be changed
    allowed: of constrained rows, by index: the bits of the tokens that may come, as in `Masks`
    A row whose logits are not numbers, or whose parameters name tokens that do not exist, gets an error of its own.
    """
    results = [RowResult() for _ in rows]
    params = [row.sequence.params for row in rows]
    finite = logits.sum(1).isfinite().tolist()
    for result, asked, fine in zip(results, params, finite, strict=True):
        result.error = parameter_fault(asked, logits.shape[1]) if fine else not_numbers()
    wanted = [i for i, result in enumerate(results) if result.error is None and wants_logprob(params[i])]
    raw = logits[wanted] if wanted else logits
    for i, row in enumerate(rows):
        if results[i].error is None:
            _edit(logits[i], row, eos_token_ids)
    for i, bits in (allowed or {}).items():  # last, so that no bias brings back what is not allowed
        _restrict(logits[i], bits)
    likeliest = first_largest(logits)
    for result, best in zip(results, logits.gather(1, likeliest.unsqueeze(1)).squeeze(1).tolist(), strict=True):
        if result.error is None and best == -math.inf:
            result.error = none_allowed()
    drawn = [i for i, r in enumerate(results) if r.error is None and params[i].temperature > 0]
    tokens: list[int] = likeliest.tolist()
    step = max(1, CHUNK_ITEMS // logits.shape[1])
    for low in range(0, len(drawn), step):
        chunk = drawn[low : low + step]
        for i, token in zip(chunk, _draw_rows(logits[chunk], [rows[i] for i in chunk]), strict=True):
            tokens[i] = token
    for i, result in enumerate(results):
        if result.error is None:
            result.token = tokens[i]
    if wanted:
        told = [LogprobsAsked.of_output(params[i], tokens[i]) for i in wanted]
        for i, logprob in zip(wanted, logprobs(raw, told), strict=True):
            results[i].logprob = logprob
    return results


def not_numbers() -> EngineError:
    return EngineError("the model's logits are not numbers (NaN or infinity)", code="nan_logits")


def none_allowed() -> EngineError:
    return EngineError(
        "no token may be drawn: the constraint, or stop_token_ids before min_tokens, leave none",
        code="no_token_allowed",
    )


def parameter_fault(params: SamplingParams, vocab: int) -> InvalidRequest | None:
    """What is wrong with parameters that name tokens, if anything is."""
    for token in (*(t for t, _ in params.logit_bias), *params.logprob_token_ids):
        if not 0 <= token < vocab:
            return InvalidRequest(f"token id {token} is outside the vocabulary, [0, {vocab})", param="logit_bias")
    return None


def temperature_of(params: SamplingParams) -> float:
    """What float32 logits are divided by; 0 is greedy. Beyond these bounds only overflow would change anything."""
    return min(max(params.temperature, 1e-20), 1e20) if params.temperature > 0 else 0.0


def repetition_of(params: SamplingParams) -> float:
    """The penalty, bounded like the temperature, so that logits which both have enlarged are still numbers."""
    return min(max(params.repetition_penalty, 1e-10), 1e10)


def wants_logprob(params: SamplingParams) -> bool:
    return params.logprobs is not None or bool(params.logprob_token_ids)


def _edit(logits: Tensor, row: Row, eos_token_ids: frozenset[int]) -> None:
    """Penalties, bias and `min_tokens`, in place on one row: [vocab].

    The repetition penalty (arXiv:1909.05858, section 4.1) counts prompt and output, the other two the output only.
    """
    sequence, params = row.sequence, row.sequence.params
    if (repetition := repetition_of(params)) != 1.0:
        seen = torch.from_numpy(np.unique(np.array(sequence.tokens, np.int64)))
        values = logits[seen]
        logits[seen] = torch.where(values < 0, values * repetition, values / repetition)
    if (params.frequency_penalty or params.presence_penalty) and sequence.num_output:
        output, counts = np.unique(np.array(sequence.tokens[sequence.num_prompt :], np.int64), return_counts=True)
        penalty = torch.from_numpy(counts).float() * params.frequency_penalty + params.presence_penalty
        logits[torch.from_numpy(output)] -= penalty
    if params.logit_bias:
        ids, bias = zip(*params.logit_bias, strict=True)
        logits.index_add_(0, torch.tensor(ids), torch.tensor(bias, dtype=torch.float32))
    if row.end - sequence.num_prompt < params.min_tokens:
        ends = end_tokens(params, eos_token_ids, logits.shape[0])
        logits[torch.tensor(ends, dtype=torch.int64)] = -math.inf


def end_tokens(params: SamplingParams, eos_token_ids: frozenset[int], vocab: int) -> list[int]:
    """Those that would end an answer."""
    ends = set(params.stop_token_ids) | (set[int]() if params.ignore_eos else eos_token_ids)
    return [token for token in ends if 0 <= token < vocab]


def _restrict(logits: Tensor, bits: NDArray[np.int32]) -> None:
    """Leave what may come, in place on one row: [vocab]."""
    # added byte by byte of the mask: of 150,000 logits that takes 70 us, filling in single ones 230 to 690
    penalties = torch.from_numpy(np.take(_PENALTIES, bits.view(np.uint8), axis=0).reshape(-1))[: logits.shape[0]]
    logits[: len(penalties)] += penalties
    logits[len(penalties) :] = -math.inf  # what the mask does not know may not come


def _draw_rows(logits: Tensor, rows: list[Row]) -> list[int]:
    params = [row.sequence.params for row in rows]
    scaled = logits / torch.tensor([temperature_of(p) for p in params]).unsqueeze(1)
    floors = filter_floors(scaled, params)
    keys = [draw_keys(row.sequence.seed, row.end) for row in rows]
    return draw(scaled, floors, torch.tensor(keys, dtype=torch.int32)).tolist()


def filter_floors(scaled: Tensor, params: Sequence_[SamplingParams]) -> Tensor:
    """The smallest value that top_k, top_p and min_p leave in each row, tokens of equal value all staying.

    scaled: float32 [rows, vocab], logits over temperature; returns float32 [rows], -inf where nothing is filtered
    top_k keeps the k largest; top_p the fewest largest of those left whose probabilities, renormalised, reach p;
    min_p what is at least p times as likely as the most likely.
    """
    rows, vocab = scaled.shape
    floors = torch.full((rows,), -math.inf)
    top_k = [p.top_k if 0 < p.top_k < vocab else 0 for p in params]
    counted = [i for i in range(rows) if top_k[i]]
    if counted:
        best = scaled[counted].topk(max(top_k), dim=1).values
        floors[counted] = best.gather(1, torch.tensor([[top_k[i] - 1] for i in counted])).squeeze(1)
    for i, asked in enumerate(params):
        if asked.top_p < 1.0:
            floors[i] = _nucleus_floor(scaled[i], floors[i], asked.top_p)
    least = torch.tensor([math.log(p.min_p) if p.min_p else -math.inf for p in params])
    return torch.maximum(floors, scaled.amax(1) + least)


def _nucleus_floor(scaled: Tensor, floor: Tensor, top_p: float) -> Tensor:
    """The last value that is needed to reach `top_p` of what is at least `floor`. scaled: [vocab]"""
    best = scaled.amax()
    weights = (scaled - best).exp_()
    if floor > -math.inf:
        weights.masked_fill_(scaled < floor, 0.0)
    total = weights.sum()
    # all that are lighter than this together weigh less than what may be left out, so none of them is needed
    values = scaled[weights >= total * (1 - top_p) / len(weights)]
    values = torch.from_numpy(np.sort(values.numpy())[::-1].copy())  # numpy sorts four times as fast as torch
    reached = (values - best).exp_().cumsum(0)
    return values[min(int(torch.searchsorted(reached, total * top_p)), len(values) - 1)]


@dataclass(frozen=True, slots=True)
class LogprobsAsked:
    """What to tell of one position: the token itself, the `top` most likely, and `extra` ids."""

    token: int
    top: int
    extra: tuple[int, ...]

    @staticmethod
    def of_output(params: SamplingParams, token: int) -> LogprobsAsked:
        return LogprobsAsked(token, params.logprobs or 0, params.logprob_token_ids)

    @staticmethod
    def of_prompt(params: SamplingParams, token: int) -> LogprobsAsked:
        return LogprobsAsked(token, params.prompt_logprobs or 0, params.logprob_token_ids)


def logprobs(logits: Tensor, asked: list[LogprobsAsked]) -> list[TokenLogprob]:
    """Natural-log probabilities from the model's own logits: float32 [len(asked), vocab]."""
    normalizer = logits.logsumexp(1)
    chosen = (logits[torch.arange(len(asked)), torch.tensor([a.token for a in asked])] - normalizer).tolist()
    top_values, top_ids = largest(logits, max(a.top for a in asked))
    values: list[list[float]] = (top_values - normalizer.unsqueeze(1)).tolist()
    ids: list[list[int]] = top_ids.tolist()
    answers: list[TokenLogprob] = []
    for i, ask in enumerate(asked):
        extra: list[float] = []
        if ask.extra:
            extra = (logits[i, torch.tensor(ask.extra)] - normalizer[i]).tolist()
        answers.append(
            TokenLogprob(
                token=ask.token,
                logprob=chosen[i],
                top=tuple(zip(ids[i][: ask.top], values[i][: ask.top], strict=True)),
                extra=tuple(zip(ask.extra, extra, strict=True)),
            )
        )
    return answers
