"""A model's vocabulary in the form that each engine needs, made when first needed."""

from __future__ import annotations

from threading import Lock

from ...lang.errors import InvalidRequest
from ..tokenizer import Tokenizer
from .automaton import AutomatonGrammar
from .dfa import Dfa
from .llg import LlgGrammar
from .llg_vocabulary import LlgVocabulary
from .matcher import Grammar
from .outlines import OutlinesGrammar, TokenTable
from .prepare import Prepared
from .trie import Vocabulary


class Vocabularies:
    """Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: frozenset[int]) -> None:
        """vocab_size: width of the logits; ids without a token are never legal, nor are control tokens but `eos_ids`"""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._lock = Lock()
        self._trie: Vocabulary | None = None
        self._llg: LlgVocabulary | None = None

    def grammar(self, prepared: Prepared) -> Grammar:
        """Raises InvalidRequest where the vocabulary allows no answer."""
        if isinstance(prepared, Dfa):
            return AutomatonGrammar(prepared, self._for_automata())
        if isinstance(prepared, TokenTable):
            return OutlinesGrammar(prepared, self._vocab_size, self._eos_ids)
        return LlgGrammar(prepared, self._for_llguidance())

    def make(self) -> None:
        """Have both forms ready."""
        self._for_llguidance()
        self._for_automata()

    def texts(self) -> list[bytes]:
        """By token id; empty for what is no text."""
        tokenizer = self._tokenizer
        if tokenizer.rule is None:
            raise InvalidRequest(
                "this tokenizer does not say which bytes its tokens stand for, so no answer can be held to a form",
                code="unsupported_constraint",
            )
        silent = tokenizer.special_ids | self._eos_ids
        known = min(tokenizer.vocab_size, self._vocab_size)
        texts = [b"" if id in silent else tokenizer.token_bytes(id) for id in range(known)]
        return texts + [b""] * (self._vocab_size - known)

    def _for_automata(self) -> Vocabulary:
        with self._lock:
            if self._trie is None:
                self._trie = Vocabulary(self.texts(), self._eos_ids, self._encode)
            return self._trie

    def _for_llguidance(self) -> LlgVocabulary:
        with self._lock:
            if self._llg is None:
                self._llg = LlgVocabulary(
                    self.texts(),
                    eos_ids=self._eos_ids,
                    special_ids=self._tokenizer.special_ids,
                    rows=self._vocab_size,
                    encode=self._encode,
                )
            return self._llg

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_run(text, "inside")
