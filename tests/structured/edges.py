"""Constraints judged as an answer is made: token by token, under the masks, on vocabularies of three kinds."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from stolon.lang.constraint import Constraint
from stolon.runtime.grammar.automaton import AutomatonGrammar
from stolon.runtime.grammar.dfa import Dfa
from stolon.runtime.grammar.llg import LlgGrammar
from stolon.runtime.grammar.llg_vocabulary import LlgVocabulary
from stolon.runtime.grammar.matcher import Grammar, Matcher
from stolon.runtime.grammar.outlines import OutlinesGrammar, TokenTable
from stolon.runtime.grammar.prepare import Backend, prepare
from stolon.runtime.grammar.trie import Vocabulary
from stolon.runtime.tokenizer import Tokenizer
from stolon.runtime.tokenizer_facts import TokenizerFacts
from tests.runtime.made_tokenizers import byte_level, sentencepiece

VOCABULARIES = ("bytes", "byte-level", "byte fallback")
PADDING = 40  # rows beyond the last token


class Words:
    """A vocabulary of one kind, with padding rows behind it."""

    def __init__(self, kind: str) -> None:
        if kind == "bytes":
            self.texts = [bytes([byte]) for byte in range(256)] + [b"", b""]
            self.eos_ids, self.special_ids, self._tokenizer = {256}, {256, 257}, None
        else:
            made = byte_level() if kind == "byte-level" else sentencepiece("never")
            self._tokenizer = _read(made)
            self.special_ids = set(self._tokenizer.special_ids)
            self.eos_ids = set(self._tokenizer.eos_ids)
            count = self._tokenizer.vocab_size
            self.texts = [b"" if id in self.special_ids else self._tokenizer.token_bytes(id) for id in range(count)]
        self.rows = len(self.texts) + PADDING
        self._ends = sorted(self.eos_ids)
        self._never = [*sorted(self.special_ids - self.eos_ids), *range(len(self.texts), self.rows)]
        self._padded = self.texts + [b""] * PADDING

    def encode(self, text: str) -> list[int]:
        return list(text.encode()) if self._tokenizer is None else self._tokenizer.encode_run(text, "inside")

    def grammar(self, constraint: Constraint, backend: Backend = "auto", *, compact: bool = False) -> Grammar:
        prepared = prepare(constraint, backend, self.texts, compact=compact)
        if isinstance(prepared, TokenTable):
            return OutlinesGrammar(prepared, self.rows, frozenset(self.eos_ids))
        if isinstance(prepared, Dfa):
            return AutomatonGrammar(prepared, self.trie)
        return LlgGrammar(prepared, self.llg)

    @property
    def trie(self) -> Vocabulary:
        return _trie(self)

    @property
    def llg(self) -> LlgVocabulary:
        return _llg(self)

    def allowed(self, matcher: Matcher, budget: int = 10_000) -> set[int]:
        row = np.full(-(-self.rows // 32), -1, np.int32)
        matcher.fill_mask(row, budget)
        return set(np.flatnonzero(np.unpackbits(row.view(np.uint8), bitorder="little")).tolist())

    def says(self, grammar: Grammar, text: str) -> bool:
        """Whether each token of `text` was allowed, and an end token after the last, and nowhere else but at ends."""
        matcher = grammar.matcher()
        bits = np.zeros(-(-self.rows // 32), np.int32)
        for token in self.encode(text):
            matcher.fill_mask(bits, 100_000)
            row = np.unpackbits(bits.view(np.uint8), bitorder="little")
            assert bool(row[self._ends].any()) == matcher.is_accepting
            assert not row[self._never].any()
            if not row[token]:
                return False
            matcher.advance(token)
        return matcher.is_accepting


@lru_cache(maxsize=8)
def words(kind: str) -> Words:
    return Words(kind)


@lru_cache(maxsize=8)
def _trie(of: Words) -> Vocabulary:
    return Vocabulary(of._padded, of.eos_ids)


@lru_cache(maxsize=8)
def _llg(of: Words) -> LlgVocabulary:
    return LlgVocabulary(of.texts, eos_ids=of.eos_ids, special_ids=of.special_ids, rows=of.rows, encode=of.encode)


def _read(made: PreTrainedTokenizerFast) -> Tokenizer:
    eos: Any = made.eos_token_id
    facts = TokenizerFacts(bos_token_id=None, eos_ids=frozenset([eos]), chat_templates={}, named_tokens={})
    return Tokenizer(made.backend_tokenizer, facts)


def schema(found: Any) -> Constraint:
    return Constraint("json_schema", json.dumps(found, ensure_ascii=False))


def written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
