"""A plan as the arrays that a device's step reads."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels.draw import draw_keys
from .cpu_step import Wanted
from .sampler import temperature_of
from .sequence import Plan, Row, SharedPrefix
from .staging import HostArrays

NO_SLOT = -1
MOST = (1 << 31) - 1  # of an int32; no vocabulary has so many tokens


@dataclass(frozen=True, slots=True)
class Size:
    """How many of each a step has, padding included: what its layout, and its graph, depend on.

    tokens; rows: all, of which `singles` have one token each and come first
    kept: tokens whose hidden states are wanted, of which `draws` come first and get a next token
    """

    tokens: int
    rows: int
    singles: int
    kept: int
    draws: int

    @staticmethod
    def decode(rows: int) -> Size:
        """Every row is one token, and draws."""
        return Size(rows, rows, rows, rows, rows)


@dataclass(slots=True)
class Arranged:
    """A plan whose rows stand in the order in which a device computes them: those of one token first, then prompts.

    order: of each row, its index in the plan as it was made
    contexts: int32 [rows], positions that a row sees
    """

    plan: Plan
    order: list[int]
    wanted: Wanted
    contexts: NDArray[np.int32]
    size: Size

    @property
    def only_decodes(self) -> bool:
        """Every row is one token that draws, and nothing else is asked: what a graph can do."""
        rows = self.size.rows
        return rows > 0 and self.size == Size.decode(rows)


def arrange(plan: Plan) -> Arranged:
    rows = plan.rows
    order = [i for i, row in enumerate(rows) if row.length == 1]
    singles = len(order)
    if singles < len(rows):
        order += [i for i, row in enumerate(rows) if row.length > 1]
        plan = Plan([rows[i] for i in order], _moved(plan.shared, order), plan.step)
    wanted = Wanted.of(plan)
    size = Size(plan.num_tokens, len(rows), singles, len(wanted.indices), len(wanted.sampling))
    contexts = np.array([row.end for row in plan.rows], np.int32)
    return Arranged(plan, order, wanted, contexts, size)


def _moved(shared: list[SharedPrefix], order: list[int]) -> list[SharedPrefix]:
    """With rows as indices into `order`."""
    if not shared:
        return shared
    place = {i: new for new, i in enumerate(order)}
    return [SharedPrefix([place[i] for i in group.rows], group.length) for group in shared]


def batch_sizes(size: Size) -> dict[str, int]:
    """The arrays of a step's layout, except those of its attention.

    ids, positions, slots [tokens]: of each token; sources [tokens]: which id of the step before is this token's, or -1
    kept [kept]: indices of tokens
    temperatures, top_ps, min_ps (float32), top_ks [draws], keys [2 * draws]
    """
    return {
        "ids": size.tokens,
        "positions": size.tokens,
        "slots": size.tokens,
        "sources": size.tokens,
        "kept": size.kept,
        "temperatures": size.draws,
        "top_ps": size.draws,
        "min_ps": size.draws,
        "top_ks": size.draws,
        "keys": 2 * size.draws,
    }


def fill_batch(arrays: HostArrays, arranged: Arranged, size: Size, drawn_at: Sequence_[int]) -> None:
    """Write what `batch_sizes` lists.

    size: with padding: further rows of one token, whose keys and values are not kept
    drawn_at: by row of the plan launched before, the place of its draw
    """
    _fill_tokens(arrays, arranged, drawn_at)
    real = arranged.size
    kept = arrays.int32("kept")
    kept[: real.kept] = arranged.wanted.indices
    kept[real.kept :] = np.arange(real.tokens, real.tokens + size.kept - real.kept)
    _fill_sampling(arrays, arranged)


def _fill_tokens(arrays: HostArrays, arranged: Arranged, drawn_at: Sequence_[int]) -> None:
    ids, positions, slots, sources = map(arrays.int32, ("ids", "positions", "slots", "sources"))
    singles, total = arranged.size.singles, arranged.size.tokens
    sources[:] = -1
    rows = arranged.plan.rows
    alone = rows[:singles]
    ids[:singles] = [_id(row) for row in alone]
    sources[:singles] = [-1 if row.source is None else drawn_at[row.source] for row in alone]
    positions[:singles] = [row.start for row in alone]
    slots[:singles] = [row.sequence.slots[row.start] for row in alone]
    at = singles
    for row in rows[singles:]:
        end = at + row.length
        ids[at:end] = row.sequence.tokens[row.start : row.end]
        positions[at:end] = np.arange(row.start, row.end)
        slots[at:end] = row.sequence.slots[row.start : row.end]
        at = end
    ids[total:] = 0
    positions[total:] = 0
    slots[total:] = NO_SLOT


def _id(row: Row) -> int:
    """Of a row of one token; 0 where `sources` says which."""
    if row.guess is not None:
        return row.guess
    return row.sequence.tokens[row.start] if row.source is None else 0


def _fill_sampling(arrays: HostArrays, arranged: Arranged) -> None:
    draws = arranged.size.draws
    rows = [arranged.plan.rows[i] for i in arranged.wanted.sampling]
    params = [row.sequence.params for row in rows]
    for name, values, padding in (
        ("temperatures", [temperature_of(p) for p in params], 0.0),
        ("top_ps", [p.top_p for p in params], 1.0),
        ("min_ps", [p.min_p for p in params], 0.0),
    ):
        array = arrays.float32(name)
        array[:draws] = values
        array[draws:] = padding
    top_ks, keys = arrays.int32("top_ks"), arrays.int32("keys")
    top_ks[:draws] = [min(max(p.top_k, 0), MOST) for p in params]
    top_ks[draws:] = 0
    keys[:] = 0
    for i, row in enumerate(rows):
        if row.sequence.params.temperature > 0:
            keys[2 * i : 2 * i + 2] = draw_keys(row.sequence.seed, row.end)
