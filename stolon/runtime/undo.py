"""Taking back what rows of a failed step wrote, and what has been built on it since."""

from __future__ import annotations

from .planner import Planner
from .radix import RadixNode
from .sequence import Plan, Row, Sequence


def take_back(planner: Planner, plan: Plan, rows: list[Row], in_flight: list[Plan], *, spoilt: bool) -> None:
    """Forget what these rows of `plan` and later ones of their sequences wrote.

    plan: has ended; in_flight: later ones, which have not
    spoilt: also what their sequences wrote before and nobody else holds
    Whoever shares a forgotten node goes back to what stands before it and computes from there by itself; what it
    computes in steps that are in flight is void.
    """
    roster, holdings = planner.roster, planner.roster.holdings
    suspects: set[RadixNode] = set()
    for row in rows:
        suspects.update(_written(row.sequence, plan.step, spoilt=spoilt))
    void = {row.sequence for row in rows}
    with holdings.pool.used_until(in_flight[-1].step if in_flight else 0):
        for sequence in roster.running:
            path = sequence.node.path() if sequence.node else ()
            tops = [node.parent for node in path if node in suspects]
            if tops and tops[-1] is not None:
                holdings.rewind(sequence, tops[-1])
                planner.uncount_cached(sequence)
                void.add(sequence)
        for node in sorted(suspects, key=lambda n: (n.end, n.serial)):
            holdings.drop(node)
    for row in rows:
        row.sequence.computed = min(row.sequence.computed, row.start)
    for later in (plan, *in_flight):
        for row in later.rows:
            row.void = row.void or row.sequence in void


def _written(sequence: Sequence, step: int, *, spoilt: bool) -> list[RadixNode]:
    """Nodes on its path of `step` or later; if `spoilt`, also its own earlier ones that lead to nobody else's."""
    found: list[RadixNode] = []
    exclusive = spoilt
    for node in sequence.node.path() if sequence.node else ():
        exclusive = exclusive and node.locks == 1
        if node.step >= step or (exclusive and node.writer == sequence.id):
            found.append(node)
    return found
