"""A device's step after its forward pass was enqueued: draws, and what came of them."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels.choose import Operators
from ..kernels.drawing import Draws
from .accelerator import Accelerator
from .cpu_step import add_prompt_logprob
from .device_batch import Arranged
from .device_logprobs import Found
from .device_masks import MaskStaging
from .device_penalties import TokenCounts
from .device_wishes import PromptPiece, Wishes
from .models.decoder import Decoder
from .sampler import none_allowed, not_numbers
from .sequence import Masks, RowResult
from .staging import DeviceArrays, Outbox


@dataclass(frozen=True, slots=True)
class Drawing:
    """What all steps of one model draw with.

    drawn: int32 [most rows], the ids that the last step drew, in the order of its draws
    """

    accelerator: Accelerator
    operators: Operators
    decoder: Decoder
    eos_token_ids: frozenset[int]
    masks: MaskStaging
    counts: TokenCounts
    drawn: Tensor


class DeviceStep:
    """The `Step` of a device that computes while its caller goes on.

    launched: the arrays that came with the launch; hidden: [kept, width], the states where logits are wanted; a later
    launch may overwrite both, so `sample` comes before it
    """

    def __init__(
        self, drawing: Drawing, arranged: Arranged, wishes: Wishes, launched: DeviceArrays, hidden: Tensor
    ) -> None:
        self._drawing = drawing
        self._order = arranged.order
        self._draws_of = [arranged.order[i] for i in arranged.wanted.sampling]
        self._wishes = wishes
        self._launched = launched
        self._hidden = hidden
        self._outbox = Outbox(drawing.accelerator)
        self._draws: _SentDraws | None = None
        self._prompts: list[_SentPrompts] = []

    def sample(self, masks: Masks | None) -> None:
        """masks: their rows are those of the plan as the scheduler made it"""
        try:
            with torch.inference_mode():
                if self._draws_of:
                    self._draw(masks)
                self._look_prompts_up()
                if not self._outbox.is_empty:
                    self._outbox.send()
        except BaseException:
            self._drawing.counts.forget()
            raise

    def _draw(self, masks: Masks | None) -> None:
        drawing, wishes, launched = self._drawing, self._wishes, self._launched
        rows = len(self._draws_of)
        logits = drawing.decoder.head(self._hidden[:rows])
        drawn = drawing.operators.sample(
            logits,
            Draws(
                launched.float32("temperatures")[:rows],
                launched.int32("top_ks")[:rows],
                launched.float32("top_ps")[:rows],
                launched.float32("min_ps")[:rows],
                launched.int32("keys").view(-1, 2)[:rows],
                wishes.filters,
                drawing.counts.penalties(launched) if wishes.counts else None,
                wishes.bias(launched),
                None if masks is None else drawing.masks.send(masks, self._draws_of),
            ),
        )
        for line in wishes.lines:
            if line is not None:
                line.drawing += 1
        tokens = drawn.tokens.int()
        drawing.drawn[:rows] = tokens
        put = self._outbox.put
        self._draws = _SentDraws(
            wishes,
            put(tokens),
            put(drawn.logprobs),
            put(drawn.normalizers),
            wishes.told.find(drawing.operators, logits, drawn.normalizers, launched, self._outbox),
        )

    def _look_prompts_up(self) -> None:
        decoder, first = self._drawing.decoder, len(self._draws_of)
        for piece in self._wishes.prompts:
            logits = decoder.logits(self._hidden[first : first + len(piece.tokens)])
            first += len(piece.tokens)
            normalizers = logits.logsumexp(1)
            own = logits.gather(1, self._launched.int32(piece.name).long().unsqueeze(1)).squeeze(1) - normalizers
            self._prompts.append(
                _SentPrompts(
                    piece,
                    self._outbox.put(own),
                    self._outbox.put(normalizers),
                    piece.lookup.find(self._drawing.operators, logits, normalizers, self._launched, self._outbox),
                )
            )

    def results(self) -> list[RowResult]:
        results = [RowResult() for _ in self._order]
        if not self._outbox.is_empty:
            self._outbox.wait()
        if self._draws is not None:
            for place, result in zip(self._draws_of, self._draws.read(self._outbox), strict=True):
                results[place] = result
        for prompts in self._prompts:
            prompts.read(self._outbox, results, self._order)
        return results


@dataclass(frozen=True, slots=True)
class _SentDraws:
    """Where the outbox has each draw's token, its log-probability and its row's normaliser."""

    wishes: Wishes
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
            line = self.wishes.lines[i]
            if line is not None:
                line.read(token)
            error: Exception | None = self.wishes.faults[i] if finite[i] else not_numbers()
            if error is None and token < 0:
                error = none_allowed()
            results.append(RowResult(token, told[i]) if error is None else RowResult(error=error))
        return results


@dataclass(frozen=True, slots=True)
class _SentPrompts:
    """Where the outbox has what was looked up for tokens of prompts."""

    piece: PromptPiece
    logprobs: int
    normalizers: int
    found: Found

    def read(self, outbox: Outbox, results: list[RowResult], order: list[int]) -> None:
        """order: the place of each row's result"""
        logprobs = outbox.take(self.logprobs).view(np.float32).tolist()
        finite = np.isfinite(outbox.take(self.normalizers).view(np.float32)).tolist()
        told = self.found.tell(outbox, self.piece.tokens, logprobs)
        for row, entry, fine in zip(self.piece.rows, told, finite, strict=True):
            assert entry is not None
            add_prompt_logprob(results[order[row]], entry, fine)
