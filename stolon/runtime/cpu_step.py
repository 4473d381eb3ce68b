"""A step after its forward pass: logits, draws and log-probabilities."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..lang.types import TokenLogprob
from .models.decoder import Decoder
from .models.linear import native_gemv
from .sampler import CHUNK_ITEMS, LogprobsAsked, logprobs, not_numbers, sample
from .sequence import Masks, Plan, Row, RowResult


class CpuStep:
    """The `Step` of a device that computes while its caller waits.

    hidden: [len(wanted.indices), width], the states where logits are wanted
    drawn: by row of the plan, the id drawn; 0 where there is none. Empty before `sample`, and filled in place
    """

    def __init__(
        self, plan: Plan, wanted: Wanted, hidden: Tensor, decoder: Decoder, eos_token_ids: frozenset[int]
    ) -> None:
        self.drawn: list[int] = []
        self._wanted = wanted
        self._hidden = hidden
        self._decoder = decoder
        self._eos = eos_token_ids
        self._rows = [plan.rows[i] for i in wanted.sampling]
        self._results = [RowResult() for _ in plan.rows]

    def sample(self, masks: Masks | None) -> None:
        results, sampling = self._results, self._wanted.sampling
        if sampling:
            with torch.inference_mode(), native_gemv():
                logits = self._decoder.logits(self._hidden[: len(sampling)])
                allowed = None
                if masks is not None:
                    place = {row: i for i, row in enumerate(sampling)}
                    allowed = {place[row]: bits for row, bits in zip(masks.rows, masks.bits, strict=True)}
                drawn = sample(logits, self._rows, self._eos, allowed)
            for i, result in zip(sampling, drawn, strict=True):
                results[i] = result
        self.drawn[:] = [0 if result.token is None else result.token for result in results]

    def results(self) -> list[RowResult]:
        if self._wanted.prompt:
            with torch.inference_mode(), native_gemv():
                self._tell_prompt_logprobs()
        return self._results

    def _tell_prompt_logprobs(self) -> None:
        prompt, first = self._wanted.prompt, len(self._wanted.sampling)
        height = max(1, CHUNK_ITEMS // self._decoder.config.vocab_size)
        for low in range(0, len(prompt), height):
            chunk = prompt[low : low + height]
            logits = self._decoder.logits(self._hidden[first + low : first + low + len(chunk)])
            told = logprobs(logits, [ask for _, ask in chunk])
            for (i, _), entry, fine in zip(chunk, told, logits.sum(1).isfinite().tolist(), strict=True):
                add_prompt_logprob(self._results[i], entry, fine)


@dataclass(slots=True)
class Wanted:
    """Where a plan's logits are needed.

    indices: of tokens of the batch, first those of `sampling`, then those of `prompt`
    sampling: rows that draw; prompt: for each position, its row and what to tell
    """

    indices: list[int]
    sampling: list[int]
    prompt: list[tuple[int, LogprobsAsked]]

    @staticmethod
    def of(plan: Plan) -> Wanted:
        wanted = Wanted([], [], [])
        asked: list[int] = []
        offset = 0
        for i, row in enumerate(plan.rows):
            if row.samples:
                wanted.sampling.append(i)
                wanted.indices.append(offset + row.length - 1)
            params = row.sequence.params
            if params.prompt_logprobs is not None:
                for position in _prompt_logprob_positions(row):
                    wanted.prompt.append((i, LogprobsAsked.of_prompt(params, row.sequence.tokens[position])))
                    asked.append(offset + position - 1 - row.start)
            offset += row.length
        wanted.indices += asked
        return wanted


def _prompt_logprob_positions(row: Row) -> range:
    """Positions of the prompt's tokens whose log-probabilities this row's logits give, from `logprob_start` on."""
    first = max(row.start + 1, row.sequence.params.logprob_start)
    return range(first, min(row.end + 1, row.sequence.num_prompt))


def add_prompt_logprob(result: RowResult, entry: TokenLogprob, finite: bool) -> None:
    if finite:
        result.prompt_logprobs.append(entry)
    elif result.error is None:
        result.error = not_numbers()
