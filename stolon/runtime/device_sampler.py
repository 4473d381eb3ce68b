"""What a device is told for the draws of one step, once the tokens before them are known."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..kernels.drawing import Allowed, Bias
from .sampler import end_tokens
from .sequence import Masks, Sequence
from .staging import DeviceArrays

Arrays = dict[str, NDArray[np.int32]]


def any_filter(sequences: list[Sequence], vocab_size: int) -> bool:
    """Whether anybody draws from less than all tokens."""
    return any(
        0 < s.params.top_k < vocab_size or s.params.top_p < 1.0 or s.params.min_p > 0.0
        for s in sequences
        if s.params.temperature > 0
    )


def bias_arrays(sequences: list[Sequence], faulty: set[int], eos_token_ids: frozenset[int], vocab_size: int) -> Arrays:
    """`logit_bias`, and end tokens that would come too early; nothing where nobody has any.

    faulty: indices of sequences whose parameters name tokens that do not exist; they get no bias
    """
    entries: list[list[tuple[int, float]]] = []
    for index, sequence in enumerate(sequences):
        own = [] if index in faulty else list(sequence.params.logit_bias)
        if sequence.num_output < sequence.params.min_tokens:
            own += [(token, -np.inf) for token in end_tokens(sequence.params, eos_token_ids, vocab_size)]
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


def bias_of(sent: Arrays, arrays: DeviceArrays) -> Bias | None:
    if "bias_firsts" not in sent:
        return None
    return Bias(arrays.int32("bias_firsts"), arrays.int32("bias_tokens"), arrays.float32("bias_values"))


def mask_arrays(masks: Masks | None, sampling: list[int]) -> Arrays:
    """sampling: indices into the plan's rows of those that draw; nothing where no row is constrained"""
    if masks is None or not masks.rows:
        return {}
    lines = np.full(len(sampling), -1, np.int32)
    place = {row: i for i, row in enumerate(sampling)}
    lines[[place[row] for row in masks.rows]] = np.arange(len(masks.rows))
    return {"allowed_lines": lines, "allowed_bits": masks.bits.reshape(-1)}


def allowed_of(sent: Arrays, arrays: DeviceArrays, words: int) -> Allowed | None:
    """words: of one mask"""
    if "allowed_lines" not in sent:
        return None
    return Allowed(arrays.int32("allowed_bits").view(-1, words), arrays.int32("allowed_lines"))
