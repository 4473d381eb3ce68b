"""The best hit rate that any prefix cache could reach on some requests: everything kept, each edge computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Best:
    """In tokens. cached: of all prompts, found in an unlimited cache; distinct: computed once; longest: one request."""

    prompt_tokens: int
    cached_tokens: int
    distinct_tokens: int
    longest: int

    @property
    def hit_rate(self) -> float:
        return self.cached_tokens / max(self.prompt_tokens, 1)


def best_possible(requests: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Best:
    """requests: (prompt ids, output ids) in the order of their end.

    A request computes at least the last token of its prompt, and never the last token of its output.
    """
    root: dict[int, dict] = {}
    prompt_tokens = cached = distinct = longest = 0
    for prompt, output in requests:
        node, matched, matching = root, 0, True
        computed = [*prompt, *output][: max(len(prompt) + len(output) - 1, len(prompt))]
        for position, token in enumerate(computed):
            child = node.get(token)
            if child is None:
                child = node[token] = {}
                distinct += 1
                matching = False
            elif matching and position < len(prompt):
                matched += 1
            node = child
        prompt_tokens += len(prompt)
        longest = max(longest, len(prompt) + len(output))
        cached += min(matched, len(prompt) - 1)
    return Best(prompt_tokens, cached, distinct, longest)
