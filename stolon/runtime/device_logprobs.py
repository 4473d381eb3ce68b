"""Log-probabilities that were asked for: looked up on the device, told on the host."""

# torch's own types have gaps
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..kernels.choose import Operators
from ..lang.types import TokenLogprob
from .sampler import LogprobsAsked
from .staging import Arrays, DeviceArrays, Outbox


class Lookup:
    """What to look up in rows of logits, one entry of `asked` a row (None: nothing).

    name: of its arrays in the layout that carries them to the device
    """

    def __init__(self, name: str, asked: list[LogprobsAsked | None]) -> None:
        self._name = name
        self.asked = asked
        self.top = max((ask.top for ask in asked if ask is not None), default=0)
        pairs = [(row, token) for row, ask in enumerate(asked) if ask is not None for token in ask.extra]
        self.arrays: Arrays = {}
        if pairs:
            rows, ids = zip(*pairs, strict=True)
            self.arrays = {f"{name}.rows": np.array(rows, np.int32), f"{name}.ids": np.array(ids, np.int32)}

    def find(
        self, operators: Operators, logits: Tensor, normalizers: Tensor, arrays: DeviceArrays, outbox: Outbox
    ) -> Found:
        """Enqueue it. logits: [len(asked), vocab], as they came; normalizers: float32 [len(asked)]"""
        top = extra = None
        if self.top:
            values, ids = operators.top_logprobs(logits, normalizers, self.top)
            top = outbox.put(values), outbox.put(ids)
        if self.arrays:
            rows = arrays.int32(f"{self._name}.rows")
            values = logits[rows, arrays.int32(f"{self._name}.ids")].float() - normalizers[rows]
            extra = outbox.put(values)
        return Found(self.asked, top, extra)


@dataclass(frozen=True, slots=True)
class Found:
    """Where the outbox has what was looked up: log-probabilities and ids of the likeliest, and of single ids."""

    asked: list[LogprobsAsked | None]
    top: tuple[int, int] | None
    extra: int | None

    def tell(self, outbox: Outbox, tokens: list[int], logprobs: list[float]) -> list[TokenLogprob | None]:
        """tokens, logprobs: of each row's own token"""
        rows = len(self.asked)
        values: list[list[float]] = [[]] * rows
        ids: list[list[int]] = [[]] * rows
        if self.top is not None:
            values = outbox.take(self.top[0]).view(np.float32).reshape(rows, -1).tolist()
            ids = outbox.take(self.top[1]).reshape(rows, -1).tolist()
        extra = iter([] if self.extra is None else outbox.take(self.extra).view(np.float32).tolist())
        return [
            None
            if ask is None
            else TokenLogprob(
                token=tokens[i],
                logprob=logprobs[i],
                top=tuple(zip(ids[i][: ask.top], values[i][: ask.top], strict=True)),
                extra=tuple((token, next(extra)) for token in ask.extra),
            )
            for i, ask in enumerate(self.asked)
        ]
