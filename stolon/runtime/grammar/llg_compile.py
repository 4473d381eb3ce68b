"""From the texts of constraints to grammars on llguidance."""

from __future__ import annotations

import json
import re
from typing import Any

from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import any_to_lark

from ...lang.errors import InvalidRequest
from .llg import LlgGrammar, Reach
from .llg_closing import shortest_known
from .llg_vocabulary import LlgVocabulary
from .schema import rewrite_schema

MAX_GRAMMAR_BYTES = 256 * 1024
# white space is fixed, as Python's json writes it: all text between two values is forced then, which saves forward
# passes. And no \uXXXX, by which a name that the schema lists could be spelled in another way and pass for one that it
# does not list
_SPELLING: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
# comments, quoted text and patterns, the last two even where they are not closed; else `<` begins a special token
_LARK_PIECES = re.compile(r"""//[^\n]*|"(?:[^"\\\n]|\\.)*"?|/(?:[^/\\\n]|\\.)+/?|<""")
_BYTES = LlgVocabulary([bytes([i]) for i in range(256)] + [b""], eos_ids=[256])
_LONGEST_EXAMPLE = 256
_PATTERN_LIMITS = LLParserLimits(verbose_errors=False)


def compile_schema(text: str, vocabulary: LlgVocabulary) -> LlgGrammar:
    """Raises InvalidRequest; `code` and `param` (a JSON pointer) as `rewrite_schema` has them."""
    plain = rewrite_schema(text, _example)
    source = LLMatcher.grammar_from_json_schema(plain.text, overrides=_SPELLING)
    try:
        return LlgGrammar(source, vocabulary, Reach(plain.completion, plain.jump, plain.examples))
    except InvalidRequest as error:
        raise _as_schema_error(error) from error


def compile_json_object(vocabulary: LlgVocabulary) -> LlgGrammar:
    """Any JSON object."""
    source = LLMatcher.grammar_from_json_schema(json.dumps({"type": "object"}), overrides=_SPELLING)
    return LlgGrammar(source, vocabulary, Reach("{}", 8))


def compile_lark(text: str, vocabulary: LlgVocabulary) -> LlgGrammar:
    """A grammar in Lark's notation, or in GBNF (`root ::= ...`). Raises InvalidRequest, code "invalid_grammar" or
    "grammar_too_complex".
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_GRAMMAR_BYTES:
        raise InvalidRequest(
            f"the grammar has {size:,} bytes, the limit is {MAX_GRAMMAR_BYTES:,}", code="grammar_too_complex"
        )
    try:
        lark = any_to_lark(text)
    except Exception as error:
        # the converter raises bare Exception, and whatever a wrong index raises: all of it speaks of the text
        raise InvalidRequest(f"the grammar cannot be read: {error}", code="invalid_grammar") from error
    if any(piece[0] == "<" for piece in _LARK_PIECES.finditer(lark)):
        raise InvalidRequest(
            "the grammar names a special token (<...>); an answer is made of text alone", code="invalid_grammar"
        )
    return LlgGrammar(LLMatcher.grammar_from_lark(lark), vocabulary)


def _example(pattern: str) -> str | None:
    """A text of a pattern, found on the pattern alone: beside other text a search would rarely come to its end."""
    matcher = LLMatcher(_BYTES.tokenizer, LLMatcher.grammar_from_regex(pattern), log_level=0, limits=_PATTERN_LIMITS)
    found = None if matcher.is_error() else shortest_known(matcher, _BYTES, _LONGEST_EXAMPLE, is_json=False)
    return None if found is None else bytes(found).decode("utf-8", "replace")


def _as_schema_error(error: InvalidRequest) -> InvalidRequest:
    text = str(error)
    code = "unsupported_schema_keyword"
    if error.code == "grammar_too_complex":
        code = "schema_too_large"
    elif "nsatisfiable" in text:
        code = "unsatisfiable_schema"
    return InvalidRequest(f"schema #: {text}", param="#", code=code)
