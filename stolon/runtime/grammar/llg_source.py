"""A grammar in llguidance's words, and what its budget rests on; made without a vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from ...lang.errors import InvalidRequest
from .llg_vocabulary import LlgVocabulary
from .spelling import separators

# some tens of milliseconds of llguidance's work in one step: its default stops at patterns of names that are in use;
# four items of a row for each of the properties that an object may have
LIMITS = LLParserLimits(step_lexer_fuel=1_000_000, max_items_in_row=5_000, verbose_errors=False)
BYTES = LlgVocabulary([bytes([i]) for i in range(256)] + [b""], eos_ids=[256])
"""The bytes as a vocabulary, with one end token."""


def spelling(*, compact: bool) -> Any:
    """How llguidance is to write JSON.

    White space is fixed: all text between two values is forced then, which saves forward passes. And no \\uXXXX, by
    which a name that the schema lists could be spelled in another way and pass for one that it does not list.
    """
    item, name = separators(compact=compact)
    return {
        "whitespace_flexible": False,
        "item_separator": item,
        "key_separator": name,
        "json_allowed_escapes": 'nrbtf\\"',
    }


@dataclass(frozen=True, slots=True)
class Reach:
    """What is known of ways to an end.

    completion: text of a whole answer, if one is known; jump: bytes by which one opened value may move the end
    examples: texts with which a string may be ended where it must have a pattern
    ways: texts of whole pieces, each of which should stay open as long as it fits
    plain: whether strings have no patterns, so that letters inside them never move the end
    marks: where text is free, what ends it; is_json: whether answers are JSON, perhaps between marks
    """

    completion: str | None = None
    jump: int | None = None
    examples: tuple[str, ...] = ()
    plain: bool = False
    marks: tuple[str, ...] = ()
    is_json: bool = True
    ways: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """text: as LLMatcher takes it"""

    text: str
    reach: Reach = field(default_factory=Reach)


def refusal(state: LLMatcher) -> InvalidRequest:
    """Why llguidance refuses a grammar."""
    text = first_line(state)
    code = "grammar_too_complex" if speaks_of_limit(text) else "invalid_grammar"
    return InvalidRequest(f"the grammar is refused: {text}", code=code)


def speaks_of_limit(text: str) -> bool:
    """Whether an error of llguidance is one of its limits and not a fault of the grammar or the token."""
    return any(word in text.lower() for word in ("too large", "too complex", "fuel", "limit", "too many"))


def first_line(state: LLMatcher) -> str:
    return (state.get_error().strip() or "no reason given").splitlines()[0][:300]
