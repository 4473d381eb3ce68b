"""The engine of embedding models and classifiers: texts in, vectors out."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Sequence

import numpy as np

from ..lang.errors import BackendTimeout, ContextLengthError, EngineClosedError, InvalidRequest
from .config import EngineConfig
from .directories import model_directory, path_as_given, served_names
from .embed_loop import EmbeddingThread, Vectors
from .loop import Heartbeat
from .packed import Tokens, load_packed
from .tokenizer_absent import tokenizer_of


class EmbeddingEngine:
    """One model on one device, computing for all who ask. Construction loads the model and starts the thread.

    width: numbers in a vector; is_classifier: they are the logits of labels
    """

    chat = None

    def __init__(self, config: EngineConfig) -> None:
        folder = model_directory(config)
        self.config = config
        self.model_name, *self.other_names = served_names(config)
        self.path = path_as_given(config)
        self.tokenizer = tokenizer_of(config)
        model = load_packed(folder, config)
        self.memory_report = model.report
        self.context_length = model.context_length
        self.vocab_size = model.vocab_size
        self.width = model.width
        self.is_classifier = model.is_classifier
        scheduler = config.scheduler.with_whole_prompts(model.context_length)
        self._thread = EmbeddingThread(
            model, token_budget=scheduler.step_tokens, most_waiting=scheduler.max_queued_requests
        )
        self._at_exit = weakref.finalize(self, self._thread.stop)
        self._process = os.getpid()

    @property
    def heartbeat(self) -> Heartbeat:
        return self._thread.heartbeat

    def frame(self, *texts: str, longest: int | None = None) -> Tokens:
        """A text, or a pair of texts, as the model reads it. Raises InvalidRequest as `encode_framed` does."""
        return Tokens(*self.tokenizer.encode_framed(*texts, longest=longest))

    def as_is(self, ids: Sequence[int]) -> Tokens:
        """Tokens that somebody else has made; nothing is put around them."""
        return Tokens(ids)

    async def embed(
        self, texts: Sequence[Tokens], *, dimensions: int | None = None, timeout_s: float | None = None
    ) -> Vectors:
        """float32 [texts, width], in order, each of length 1 (logits are as they are). Cancelling ends the work.

        dimensions: only so many of the first numbers, brought to length 1 again (arXiv:2205.13147)
        Raises InvalidRequest, ContextLengthError, OverloadedError, BackendTimeout, EngineError, EngineClosedError.
        """
        if os.getpid() != self._process:
            raise EngineClosedError("the engine cannot be used after fork: its thread stayed in the parent process")
        for text in texts:
            self._check(text.ids)
        try:
            vectors = await asyncio.wait_for(self._thread.vectors(texts), timeout_s)
        except asyncio.TimeoutError:
            raise BackendTimeout(f"the request did not end within {timeout_s:g} seconds; send less at once") from None
        return vectors if dimensions is None else _shortened(vectors, dimensions)

    async def flush_cache(self) -> bool:
        """There is no cache."""
        return True

    def stats(self) -> dict[str, object]:
        """Counters since the start, and gauges: `running` and `waiting` in texts."""
        return self._thread.stats()

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuse new texts, let waiting ones go on for up to `drain_s`, end the rest, stop the thread."""
        await asyncio.to_thread(self.shutdown, drain_s)

    def shutdown(self, drain_s: float = 0.0) -> None:
        """`close` for callers without an event loop. A second call does nothing."""
        if os.getpid() == self._process:
            self._thread.stop(drain_s)

    def _check(self, ids: Sequence[int]) -> None:
        if not ids:
            raise InvalidRequest("a text has no tokens; send at least one", param="input")
        if len(ids) > self.context_length:
            raise ContextLengthError(
                f"the text has {len(ids)} tokens, but the model reads at most {self.context_length}; shorten it, or "
                "have it cut with truncate_prompt_tokens",
                param="input",
            )
        if not (min(ids) >= 0 and max(ids) < self.vocab_size):
            wrong = next(id for id in ids if not 0 <= id < self.vocab_size)
            raise InvalidRequest(f"the vocabulary has ids 0 to {self.vocab_size - 1}, got {wrong}", param="input")


def _shortened(vectors: Vectors, dimensions: int) -> Vectors:
    kept = vectors[:, :dimensions]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    return kept / np.maximum(lengths, np.finfo(np.float32).tiny)
