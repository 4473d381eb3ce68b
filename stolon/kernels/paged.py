"""What the attention kernels are told: where keys and values lie, and who attends to which of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PagedKV:
    """One layer's cache.

    keys, values: [slots, kv_heads, head_dim], of the type computed in or float8_e4m3fn; last dimension contiguous
    table: int32 [lines, positions], the slot of each position of a sequence; what lies beyond its length is not read
    key_scale, value_scale: what the stored numbers are multiplied with; other than 1 for float8 only
    """

    keys: Tensor
    values: Tensor
    table: Tensor
    key_scale: float = 1.0
    value_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ExtendWork:
    """Rows of any number of new tokens, whose keys and values are already in the cache.

    firsts, lengths, contexts, lines: int32 [rows]: index of a row's first token in the query, how many tokens it has
        from there, how many positions its sequence has with them, and its line of the table
    tiles: int32 [tiles, 2], made by `plan_extend`: row, and which of its tokens comes first
    """

    firsts: Tensor
    lengths: Tensor
    contexts: Tensor
    lines: Tensor
    tiles: Tensor


@dataclass(frozen=True, slots=True)
class DecodeWork:
    """One new token a row, made by `plan_decode`; all sizes depend on the number of rows only, never on lengths.

    lines: int32 [rows], of the table
    items: int32 [items, 4]: row, first position, position after the last, partial result (-1: this is all of the row);
        row -1 is nothing to do
    firsts: int32 [rows + 1]: partial results of row i are firsts[i] .. firsts[i + 1]
    prefixes: int32 [n, 5] or None: first of `members`, how many, first position, position after the last, and which of
        each member's partial results it is; 0 members is nothing to do
    members: int32 [rows]: rows that share a prefix, group after group
    partials: how many partial results there may be
    """

    lines: Tensor
    items: Tensor
    firsts: Tensor
    prefixes: Tensor | None
    members: Tensor
    partials: int
