"""Attention of one device step: planned on the host, done by the kernels that were chosen."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.attention_plan import Chip, DecodePlan, DecodePlanner, Heads, Shared, plan_extend
from ..kernels.choose import Operators
from ..kernels.paged import DecodeWork, ExtendWork
from ..kernels.reference import HeadNorm, Places
from .device_batch import Arranged, Size
from .kv import KVCache
from .staging import Arrays, DeviceArrays


class AttentionPlans:
    """Says for each kind of layer (`windows`: positions that it sees, None for all) which program attends to what.

    fixed: every row is done by the kernel for prompts, whose sums do not depend on the batch
    """

    def __init__(self, heads: Heads, chip: Chip, windows: tuple[int | None, ...], *, fixed: bool) -> None:
        self.heads = heads
        self.windows = sorted(set(windows), key=lambda window: window or 0)
        self.kind = [self.windows.index(window) for window in windows]  # of each layer
        self._chip = chip
        self._fixed = fixed
        self._planners: dict[int, DecodePlanner] = {}

    def singles(self, size: Size) -> int:
        """How many rows are done as decode rows."""
        return 0 if self._fixed else size.singles

    def planner(self, rows: int) -> DecodePlanner:
        found = self._planners.get(rows)
        if found is None:
            found = self._planners[rows] = DecodePlanner(rows, self.heads, self._chip)
        return found

    def plan(
        self, arranged: Arranged, size: Size, lines: list[int], *, prefixes: bool | None = None
    ) -> tuple[Arrays, bool]:
        """The arrays to stage, and whether any prefix is read once for several rows.

        size: with padding; lines: of the slot table, by row
        prefixes: True makes room for them even if none is shared, False takes none, None those that pay
        """
        singles = self.singles(size)
        contexts = _padded(arranged.contexts, size.rows)
        padded_lines = _padded(np.array(lines, np.int32), size.rows)
        arrays: Arrays = {}
        shares = False
        if singles:
            groups = [] if prefixes is False else [Shared(group.rows, group.length) for group in arranged.plan.shared]
            planner = self.planner(singles)
            plans = [planner.plan(contexts[:singles], groups, window) for window in self.windows]
            arrays["lines"] = padded_lines[:singles]
            shares = bool(prefixes) or any(plan.prefixes is not None for plan in plans)
            for kind, plan in enumerate(plans):
                arrays |= _decode_arrays(plan, planner, kind, shares=shares)
        if size.rows > singles:
            lengths = _padded(np.array([row.length for row in arranged.plan.rows], np.int32), size.rows)[singles:]
            arrays["prompt_lines"] = padded_lines[singles:]
            arrays |= _extend_arrays(lengths, contexts[singles:], singles, self.heads)
        return arrays, shares


def _decode_arrays(plan: DecodePlan, planner: DecodePlanner, kind: int, *, shares: bool) -> Arrays:
    arrays = {
        f"items.{kind}": plan.items.reshape(-1),
        f"partials.{kind}": plan.firsts,
        f"members.{kind}": plan.members,
    }
    if shares:
        prefixes = np.zeros((planner.prefixes, 5), np.int32) if plan.prefixes is None else plan.prefixes
        arrays[f"prefixes.{kind}"] = prefixes.reshape(-1)
    return arrays


def _extend_arrays(lengths: NDArray[np.int32], contexts: NDArray[np.int32], first: int, heads: Heads) -> Arrays:
    """first: where the first row's tokens begin. Rows of no token are padding; each has a tile, so that the number of
    tiles of rows of one token is that of the rows."""
    padding = np.flatnonzero(lengths == 0).astype(np.int32)
    tiles = np.concatenate((plan_extend(lengths, contexts, heads), np.stack((padding, np.zeros_like(padding)), 1)))
    return {
        "firsts": (np.cumsum(lengths) - lengths + first).astype(np.int32),
        "lengths": lengths,
        "contexts": contexts,
        "tiles": tiles.reshape(-1),
    }


def _padded(array: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    if len(array) == length:
        return array
    padded = np.zeros(length, np.int32)
    padded[: len(array)] = array
    return padded


@dataclass(frozen=True, slots=True)
class _Kind:
    """What layers with one window do in a step."""

    window: int | None
    decode: DecodeWork | None
    extend: ExtendWork | None


class DeviceAttention:
    """Attention of one batch, called once a layer. Its arrays may be filled anew, and it is then another batch's."""

    def __init__(
        self,
        operators: Operators,
        plans: AttentionPlans,
        cache: KVCache,
        table: Tensor,
        turns: Tensor,
        arrays: DeviceArrays,
        size: Size,
        *,
        shares: bool,
    ) -> None:
        self._operators = operators
        self._cache = cache
        self._table = table
        self._turns = turns
        self._places = Places(arrays.int32("positions"), arrays.int32("slots"))
        self._singles = plans.singles(size)
        extend = None
        if size.rows > self._singles:
            extend = ExtendWork(
                arrays.int32("firsts"),
                arrays.int32("lengths"),
                arrays.int32("contexts"),
                arrays.int32("prompt_lines"),
                arrays.int32("tiles").view(-1, 2),
            )
        self._kinds: list[_Kind] = []
        for kind, window in enumerate(plans.windows):
            decode = None
            if self._singles:
                decode = DecodeWork(
                    arrays.int32("lines"),
                    arrays.int32(f"items.{kind}").view(-1, 4),
                    arrays.int32(f"partials.{kind}"),
                    arrays.int32(f"prefixes.{kind}").view(-1, 5) if shares else None,
                    arrays.int32(f"members.{kind}"),
                    plans.planner(self._singles).partials,
                )
            self._kinds.append(_Kind(window, decode, extend))
        self._kind = plans.kind

    def __call__(self, layer: int, qkv: Tensor, norm: HeadNorm | None) -> Tensor:
        paged = self._cache.paged(layer, self._table)
        query = self._operators.rotary_write(qkv, self._turns, self._places, paged, norm)
        kind = self._kinds[self._kind[layer]]
        if kind.extend is None:
            assert kind.decode is not None
            return self._operators.decode_attention(query, paged, kind.decode).flatten(1)
        attended = self._operators.extend_attention(query, paged, kind.extend, window=kind.window)
        if kind.decode is not None:
            attended[: self._singles] = self._operators.decode_attention(query[: self._singles], paged, kind.decode)
        return attended.flatten(1)
