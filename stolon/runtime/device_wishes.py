"""What the draws of a step, and its looks at prompts, ask for besides the batch: all of it is known at launch."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.drawing import Bias
from ..lang.errors import InvalidRequest
from .cpu_step import Wanted
from .device_logprobs import Lookup
from .device_penalties import CountLine, TokenCounts
from .sampler import CHUNK_ITEMS, LogprobsAsked, end_tokens, parameter_fault, wants_logprob
from .sequence import Plan, Row
from .staging import Arrays, DeviceArrays


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """Tokens of prompts whose logits are computed at once.

    rows: of the plan; tokens: to tell the log-probabilities of; name: of the array that carries them
    """

    rows: list[int]
    tokens: list[int]
    name: str
    lookup: Lookup


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of one step.

    rows: those that draw; faults: what is wrong with the parameters of each; lines: where its tokens are counted
    told: what to look up in the logits of draws; prompts: what in those of prompts, in the order of `Wanted`
    filters: whether anybody draws from less than all tokens
    arrays: what the device has to know of it, to be sent with the launch
    """

    rows: list[Row]
    faults: list[InvalidRequest | None]
    lines: list[CountLine | None]
    told: Lookup
    prompts: list[PromptPiece]
    filters: bool
    arrays: Arrays

    def bias(self, arrays: DeviceArrays) -> Bias | None:
        if "bias_firsts" not in self.arrays:
            return None
        return Bias(arrays.int32("bias_firsts"), arrays.int32("bias_tokens"), arrays.float32("bias_values"))

    @property
    def counts(self) -> bool:
        """Whether anybody is penalised."""
        return "count_lines" in self.arrays


def gather_wishes(
    plan: Plan, wanted: Wanted, counts: TokenCounts, eos_token_ids: frozenset[int], vocab_size: int
) -> Wishes:
    rows = [plan.rows[i] for i in wanted.sampling]
    faults = [parameter_fault(row.sequence.params, vocab_size) for row in rows]
    asked = [
        LogprobsAsked.of_output(row.sequence.params, 0) if wants_logprob(row.sequence.params) and not fault else None
        for row, fault in zip(rows, faults, strict=True)
    ]
    told = Lookup("told", asked)
    prompts = _prompt_pieces(wanted.prompt, vocab_size)
    counting, lines = counts.plan(rows)
    arrays = counting | told.arrays | _bias_arrays(rows, faults, eos_token_ids, vocab_size)
    for piece in prompts:
        arrays[piece.name] = np.array(piece.tokens, np.int32)
        arrays |= piece.lookup.arrays
    return Wishes(rows, faults, lines, told, prompts, _any_filter(rows, vocab_size), arrays)


def _any_filter(rows: list[Row], vocab_size: int) -> bool:
    params = [row.sequence.params for row in rows]
    return any(0 < p.top_k < vocab_size or p.top_p < 1.0 or p.min_p > 0.0 for p in params if p.temperature > 0)


def _bias_arrays(
    rows: list[Row], faults: list[InvalidRequest | None], eos_token_ids: frozenset[int], vocab_size: int
) -> Arrays:
    """`logit_bias`, and end tokens that would come too early; nothing where nobody has any.

    A sequence whose parameters name tokens that do not exist gets no bias.
    """
    entries: list[list[tuple[int, float]]] = []
    for row, fault in zip(rows, faults, strict=True):
        params = row.sequence.params
        own = [] if fault is not None else list(params.logit_bias)
        # by the row, as the token before may still be on the device
        if row.end - row.sequence.num_prompt < params.min_tokens:
            own += [(token, -np.inf) for token in end_tokens(params, eos_token_ids, vocab_size)]
        entries.append(own)
    if not any(entries):
        return {}
    firsts = np.zeros(len(entries) + 1, np.int32)
    np.cumsum([len(own) for own in entries], out=firsts[1:])
    return {
        "bias_firsts": firsts,
        "bias_tokens": np.array([token for own in entries for token, _ in own], np.int32),
        "bias_values": np.array([value for own in entries for _, value in own], np.float32).view(np.int32),
    }


def _prompt_pieces(prompt: list[tuple[int, LogprobsAsked]], vocab_size: int) -> list[PromptPiece]:
    """prompt: rows and what to tell, as in `Wanted`"""
    height = max(1, CHUNK_ITEMS // vocab_size)
    pieces: list[PromptPiece] = []
    for low in range(0, len(prompt), height):
        piece = prompt[low : low + height]
        asked: list[LogprobsAsked | None] = [ask for _, ask in piece]
        name = f"prompt.{low}"
        tokens = [ask.token for _, ask in piece]
        pieces.append(PromptPiece([row for row, _ in piece], tokens, name, Lookup(name, asked)))
    return pieces
