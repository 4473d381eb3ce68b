"""What people look at: a bounded part of the tree and of the requests, as plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from .radix import RadixNode, RadixTree
from .sequence import Sequence

WIDEST = 32  # children shown of one node, so that a wide top does not hide what is below


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node of the tree.

    id, parent: unlike any other's; the parent of a first node is 0, the root, which is not shown
    tokens: in its own run; end: from the root up to its end; locks, pins: as on RadixNode
    idle: uses of the tree since this node or one below it that is shown was used last; 0: just now
    hidden: children that are not shown; first: its first token ids
    """

    id: int
    parent: int
    tokens: int
    end: int
    locks: int
    pins: int
    idle: int
    hidden: int
    first: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RequestView:
    """One answer that waits or runs; sizes in tokens.

    most: of its answer; cached: of its prompt, None before it ran
    """

    id: int
    status: str
    prompt: int
    computed: int
    output: int
    most: int
    cached: int | None
    priority: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class View:
    nodes: list[NodeView]
    requests: list[RequestView]


def view_tree(tree: RadixTree, most: int, first: int = 0) -> list[NodeView]:
    """At most `most` nodes, from the top down, of each node's children the newest first; each with `first` token ids.

    The work does not grow with the tree.
    """
    shown: list[RadixNode] = []
    pending: deque[RadixNode] = deque([tree.root])
    children: dict[int, int] = {}
    while pending:
        parent = pending.popleft()
        taken = list(islice(reversed(parent.children.values()), min(WIDEST, most - len(shown))))
        children[parent.serial] = len(taken)
        shown += taken
        pending += taken
    access = {node.serial: node.access for node in shown}
    for node in reversed(shown):  # children stand after their parents
        parent_serial = node.parent.serial if node.parent is not None else 0
        if parent_serial in access:
            access[parent_serial] = max(access[parent_serial], access[node.serial])
    return [_node_view(node, tree.now - access[node.serial], children[node.serial], first) for node in shown]


def _node_view(node: RadixNode, idle: int, shown_children: int, first: int) -> NodeView:
    return NodeView(
        id=node.serial,
        parent=node.parent.serial if node.parent is not None else 0,
        tokens=len(node.key),
        end=node.end,
        locks=node.locks,
        pins=node.pins,
        idle=idle,
        hidden=len(node.children) - shown_children,
        first=tuple(node.key[:first]),
    )


def view_requests(sequences: Iterable[Sequence], most: int) -> list[RequestView]:
    return [
        RequestView(
            id=sequence.id,
            status=sequence.status.value,
            prompt=sequence.num_prompt,
            computed=sequence.computed,
            output=sequence.num_output,
            most=sequence.params.max_tokens,
            cached=sequence.cached,
            priority=sequence.priority,
            preemptions=sequence.preemptions,
        )
        for sequence in islice(sequences, most)
    ]
