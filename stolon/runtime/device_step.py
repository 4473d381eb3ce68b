"""A device's step after its forward pass was enqueued: draws, and what came of them."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.choose import Operators
from ..kernels.drawing import Draws
from ..lang.errors import InvalidRequest
from .accelerator import Accelerator
from .cpu_step import add_prompt_logprob
from .device_batch import Arranged
from .device_logprobs import Found, Lookup
from .device_penalties import CountLine, TokenCounts
from .device_sampler import allowed_of, any_filter, bias_arrays, bias_of, mask_arrays
from .models.decoder import Decoder
from .sampler import CHUNK_ITEMS, LogprobsAsked, none_allowed, not_numbers, parameter_fault, wants_logprob
from .sequence import Masks, RowResult
from .staging import DeviceArrays, Layout, Outbox, Staging

Arrays = dict[str, NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """What all steps of one model draw with.

    drawn: int32 [most rows], the ids that the last step drew, in the order of its draws
    """

    accelerator: Accelerator
    operators: Operators
    decoder: Decoder
    eos_token_ids: frozenset[int]
    staging: Staging
    counts: TokenCounts
    drawn: Tensor


class DeviceStep:
    """The `Step` of a device that computes while its caller goes on.

    launched: the arrays that came with the launch; hidden: [kept, width], the states where logits are wanted; a later
    launch may overwrite them, so `sample` comes before it
    """

    def __init__(self, drawing: Drawing, arranged: Arranged, launched: DeviceArrays, hidden: Tensor) -> None:
        self._drawing = drawing
        self._arranged = arranged
        self._launched = launched
        self._hidden = hidden
        self._sequences = [arranged.plan.rows[i].sequence for i in arranged.wanted.sampling]
        self._outbox = Outbox(drawing.accelerator)
        self._draws: _SentDraws | None = None
        self._prompts: list[_SentPrompts] = []

    def sample(self, masks: Masks | None) -> None:
        """masks: their rows are those of the plan as the scheduler made it"""
        try:
            with torch.inference_mode():
                if self._sequences:
                    self._draw(masks)
                if self._arranged.wanted.prompt:
                    self._look_prompts_up()
                if not self._outbox.is_empty:
                    self._outbox.send()
        except BaseException:
            self._drawing.counts.forget()
            raise

    def _draw(self, masks: Masks | None) -> None:
        drawing, sequences = self._drawing, self._sequences
        vocab = drawing.decoder.config.vocab_size
        faults = [parameter_fault(s.params, vocab) for s in sequences]
        faulty = {i for i, fault in enumerate(faults) if fault is not None}
        asked = [
            LogprobsAsked.of_output(s.params, 0) if wants_logprob(s.params) and i not in faulty else None
            for i, s in enumerate(sequences)
        ]
        lookup = Lookup("told", asked)
        counting, lines = drawing.counts.plan(sequences)
        order = self._arranged.order
        masking = mask_arrays(masks, [order[i] for i in self._arranged.wanted.sampling])
        sent = {
            **lookup.arrays,
            **counting,
            **masking,
            **bias_arrays(sequences, faulty, drawing.eos_token_ids, vocab),
        }
        arrays = send(drawing.staging, sent)
        rows, launched = len(sequences), self._launched
        logits = drawing.decoder.head(self._hidden[:rows])
        drawn = drawing.operators.sample(
            logits,
            Draws(
                launched.float32("temperatures")[:rows],
                launched.int32("top_ks")[:rows],
                launched.float32("top_ps")[:rows],
                launched.float32("min_ps")[:rows],
                launched.int32("keys").view(-1, 2)[:rows],
                any_filter(sequences, vocab),
                drawing.counts.penalties(arrays) if counting else None,
                bias_of(sent, arrays),
                allowed_of(sent, arrays, -(-vocab // 32)),
            ),
        )
        tokens = drawn.tokens.int()
        drawing.drawn[:rows] = tokens
        put = self._outbox.put
        self._draws = _SentDraws(
            faults,
            lines,
            put(tokens),
            put(drawn.logprobs),
            put(drawn.normalizers),
            lookup.find(logits, drawn.normalizers, arrays, self._outbox),
        )

    def _look_prompts_up(self) -> None:
        prompt, first = self._arranged.wanted.prompt, len(self._sequences)
        decoder, staging = self._drawing.decoder, self._drawing.staging
        height = max(1, CHUNK_ITEMS // decoder.config.vocab_size)
        for low in range(0, len(prompt), height):
            asked: list[LogprobsAsked | None] = [ask for _, ask in prompt[low : low + height]]
            tokens = [ask.token for _, ask in prompt[low : low + height]]
            lookup = Lookup("told", asked)
            arrays = send(staging, {"tokens": np.array(tokens, np.int32), **lookup.arrays})
            logits = decoder.logits(self._hidden[first + low : first + low + len(asked)])
            normalizers = logits.logsumexp(1)
            own = logits.gather(1, arrays.int32("tokens").long().unsqueeze(1)).squeeze(1) - normalizers
            rows = [self._arranged.order[i] for i, _ in prompt[low : low + height]]
            self._prompts.append(
                _SentPrompts(
                    rows,
                    tokens,
                    self._outbox.put(own),
                    self._outbox.put(normalizers),
                    lookup.find(logits, normalizers, arrays, self._outbox),
                )
            )

    def results(self) -> list[RowResult]:
        results = [RowResult() for _ in self._arranged.plan.rows]
        if not self._outbox.is_empty:
            self._outbox.wait()
        if self._draws is not None:
            order = self._arranged.order
            places = [order[i] for i in self._arranged.wanted.sampling]
            for place, result in zip(places, self._draws.read(self._outbox), strict=True):
                results[place] = result
        for prompts in self._prompts:
            prompts.read(self._outbox, results)
        return results


def send(staging: Staging, arrays: Arrays) -> DeviceArrays:
    """Copy arrays to the device, in one piece; nothing is copied if there are none."""
    parcel = staging.open(Layout({name: array.size for name, array in arrays.items()}))
    for name, array in arrays.items():
        parcel.host.int32(name)[:] = array
    if arrays:
        parcel.send()
    return parcel.device


@dataclass(frozen=True, slots=True)
class _SentDraws:
    """Where the outbox has each draw's token, its log-probability and its row's normaliser."""

    faults: list[InvalidRequest | None]
    lines: list[CountLine | None]
    tokens: int
    logprobs: int
    normalizers: int
    found: Found

    def read(self, outbox: Outbox) -> list[RowResult]:
        tokens = outbox.take(self.tokens).tolist()
        logprobs = outbox.take(self.logprobs).view(np.float32).tolist()
        finite = np.isfinite(outbox.take(self.normalizers).view(np.float32)).tolist()
        told = self.found.tell(outbox, tokens, logprobs)
        results: list[RowResult] = []
        for i, token in enumerate(tokens):
            line = self.lines[i]
            if line is not None and token >= 0:
                line.counted.append(token)
            error: Exception | None = self.faults[i] if finite[i] else not_numbers()
            if error is None and token < 0:
                error = none_allowed()
            results.append(RowResult(token, told[i]) if error is None else RowResult(error=error))
        return results


@dataclass(frozen=True, slots=True)
class _SentPrompts:
    """Where the outbox has what was looked up for tokens of prompts. rows: of the plan"""

    rows: list[int]
    tokens: list[int]
    logprobs: int
    normalizers: int
    found: Found

    def read(self, outbox: Outbox, results: list[RowResult]) -> None:
        logprobs = outbox.take(self.logprobs).view(np.float32).tolist()
        finite = np.isfinite(outbox.take(self.normalizers).view(np.float32)).tolist()
        told = self.found.tell(outbox, self.tokens, logprobs)
        for row, entry, fine in zip(self.rows, told, finite, strict=True):
            assert entry is not None
            add_prompt_logprob(results[row], entry, fine)
