"""From constraints, as callers ask for them, to the forms that their answers are held to."""

from __future__ import annotations

import asyncio

from ..lang.constraint import Constraint
from .config import GrammarBackend
from .constrained import Form
from .grammar.compiler import GrammarCompiler
from .preface import Prefaces
from .tokenizer import Tokenizer


class Forms:
    """Those of one model. `close` it.

    vocab_size: width of the logits; eos_ids: tokens that end an answer
    compact: whether JSON is written without white space
    jump: whether forced tokens cost no forward pass of their own
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_ids: frozenset[int],
        *,
        backend: GrammarBackend,
        compact: bool,
        jump: bool,
    ) -> None:
        self._tokenizer = tokenizer
        self._words = -(-vocab_size // 32)
        self._ends = frozenset(token for token in eos_ids if token < vocab_size)  # a checkpoint may name others
        self._jump = jump
        self._compiler = GrammarCompiler(tokenizer, vocab_size, self._ends, backend=backend, compact=compact)
        self._prefaces = Prefaces(tokenizer, vocab_size, self._ends)

    async def form(self, constraint: Constraint) -> Form:
        """Raises InvalidRequest, with `code` and `param`, for a constraint that cannot be had."""
        grammar = await asyncio.wrap_future(self._compiler.compile(constraint))
        preface = await asyncio.to_thread(self._prefaces.get, constraint.after) if constraint.after else None
        return Form(
            grammar=grammar,
            preface=preface,
            ends=self._ends,
            words=self._words,
            text_of=self._tokenizer.token_bytes,
            encode=self._encode,
            jump=self._jump,
        )

    def close(self) -> None:
        self._compiler.close()

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_run(text, "inside")
