"""Which tokens to score when options are compared as continuations of one prompt."""

from __future__ import annotations

from collections.abc import Sequence


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all the sequences have."""
    rows = [tuple(sequence) for sequence in sequences]
    first, last = min(rows), max(rows)  # in dictionary order; no row between them shares less with either
    for place, (left, right) in enumerate(zip(first, last)):  # noqa: B905 the shorter one decides
        if left != right:
            return place
    return min(len(first), len(last))


def first_scored(prompt: Sequence[int], continued: Sequence[Sequence[int]]) -> int:
    """Where scoring starts, at least 1: after the longest prefix that `prompt` and all of its continuations share.

    A tokenizer may merge the end of a prompt with the start of an option. The tokens before the first difference are
    the same whatever the option, so they say nothing; from there on every option answers for its own, also for the
    part of the prompt that its tokens took over. The prompt takes part, so that an option's own tokens count even
    where all options begin alike, or where there is but one.
    """
    return max(1, shared_length([prompt, *continued]))
