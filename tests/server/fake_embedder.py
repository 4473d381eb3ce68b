"""An embedding engine without a model: tokens are bytes, and a vector counts letters, so that likeness can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stolon.lang.errors import ContextLengthError
from stolon.runtime.packed import Tokens
from tests.server.fake import VOCAB, Beat, ByteTokenizer


class FakeEmbedder:
    """hold: cleared, no vector comes; running, aborted: requests that have begun, and that were given up

    A classifier's logits are how many letters the two texts share, less two.
    """

    model_name = "fake"
    other_names = ()
    path = None
    memory_report = "memory: none"
    chat = None
    vocab_size = VOCAB

    def __init__(self, *, is_classifier: bool = False, context_length: int = 64) -> None:
        self.tokenizer = ByteTokenizer(bos=False)
        self.is_classifier = is_classifier
        self.width = 1 if is_classifier else 26
        self.context_length = context_length
        self.heartbeat = Beat()
        self.hold = asyncio.Event()
        self.hold.set()
        self.running = self.aborted = self.finished = self.computed = 0

    def frame(self, *texts: str, longest: int | None = None) -> Tokens:
        pair = [list(text.encode()) for text in texts]
        ids = [*pair[0], *([0, *pair[1]] if len(pair) > 1 else [])]
        return Tokens(ids[:longest], [0] * len(ids[:longest]))

    def as_is(self, ids: Sequence[int]) -> Tokens:
        return Tokens(ids)

    async def embed(
        self, texts: Sequence[Tokens], *, dimensions: int | None = None, timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        for text in texts:
            if len(text.ids) > self.context_length:
                raise ContextLengthError("too long", param="input")
        self.running += 1
        is_done = False
        try:
            await self.hold.wait()
            is_done = True
            self.finished += len(texts)
            self.computed += sum(len(text.ids) for text in texts)
            return self._classified(texts) if self.is_classifier else self._counted(texts, dimensions)
        finally:
            self.running -= 1
            self.aborted += not is_done

    def _counted(self, texts: Sequence[Tokens], dimensions: int | None) -> NDArray[np.float32]:
        counts = np.array([[list(text.ids).count(97 + i) for i in range(26)] for text in texts], np.float32)
        kept = counts[:, :dimensions] + 1e-3
        return kept / np.linalg.norm(kept, axis=1, keepdims=True)

    def _classified(self, texts: Sequence[Tokens]) -> NDArray[np.float32]:
        rows: list[list[float]] = []
        for text in texts:
            at = list(text.ids).index(0)
            rows.append([len({*text.ids[:at]} & {*text.ids[at + 1 :]}) - 2.0])
        return np.array(rows, np.float32)

    async def flush_cache(self) -> bool:
        return True

    def stats(self) -> dict[str, object]:
        """What the real one's has, in texts."""
        totals = {"steps": self.finished, "submitted": self.finished, "finished": self.finished, "failed": 0}
        return {**totals, "computed": self.computed, "running": self.running, "waiting": 0, "alive": True}

    async def close(self, drain_s: float = 0) -> None:
        self.hold.set()
