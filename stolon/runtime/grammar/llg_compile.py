"""From the texts of constraints to grammars on llguidance."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace

from llguidance import LLMatcher, grammar_from
from llguidance.gbnf_to_lark import any_to_lark

from ...lang.errors import InvalidRequest
from .dfa import written
from .dialect import Choice, parse
from .llg import LlgGrammar
from .llg_blame import placed
from .llg_closing import allowed_tokens, shortest_known
from .llg_examples import Examples, choices_of, endings
from .llg_source import BYTES, LIMITS, Reach, Source, first_line, refusal, speaks_of_limit, spelling
from .llg_tags import check_schemas, tags_source
from .llg_vocabulary import LlgVocabulary
from .schema import rewrite_schema

MAX_GRAMMAR_BYTES = 256 * 1024
# comments, quoted text and patterns, the last two even where they are not closed; else `<` begins a special token
_LARK_PIECES = re.compile(r"""//[^\n]*|"(?:[^"\\\n]|\\.)*"?|/(?:[^/\\\n]|\\.)+/?|<""")
# walks through a new grammar, and the steps of each: what fails there fails while an answer is made
_CHANCE_WALKS = 3
_CHANCE_STEPS = 12
_SMALL = 8_192  # bytes of llguidance's own words
_BYTE_VALUES = 256
_LONGEST_OPENED = 512  # bytes
_LONGEST_COMPLETION = 4_096  # bytes of one that is looked for


def schema_source(text: str, *, compact: bool = False) -> Source:
    """Raises InvalidRequest; `code` and `param` (a JSON pointer) as `rewrite_schema` has them."""
    examples = Examples()
    try:
        plain = rewrite_schema(text, examples.of, compact=compact)
        examples.learn_names(plain.text)
        source = LLMatcher.grammar_from_json_schema(plain.text, overrides=spelling(compact=compact))
        return completed(Source(source, Reach(plain.completion, plain.jump, examples.texts, plain.is_plain)))
    except InvalidRequest as error:
        raise placed(error, text, examples.of) from error


def json_object_source(*, compact: bool = False) -> Source:
    """Any JSON object."""
    text = LLMatcher.grammar_from_json_schema(json.dumps({"type": "object"}), overrides=spelling(compact=compact))
    return Source(text, Reach("{}", 8, plain=True))


def lark_source(text: str) -> Source:
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
    # in what one token opens each literal may stand once, unless the grammar is out to make much of little
    opened = sum(len(piece[0]) for piece in _LARK_PIECES.finditer(lark) if piece[0][0] == '"')
    return completed(
        Source(LLMatcher.grammar_from_lark(lark), Reach(jump=min(opened, _LONGEST_OPENED) + 16, is_json=False))
    )


def pieces_source(text: str, *, compact: bool = False) -> Source:
    """Tagged pieces of JSON. Raises InvalidRequest as `tags_source` does."""
    source = tags_source(text, Examples(), compact=compact)
    try:
        return completed(source)
    except InvalidRequest:
        check_schemas(text, schema_source)  # if one of them is to blame
        raise


def regex_source(pattern: str) -> Source:
    """The texts that `re.fullmatch` takes, as the automaton has them. Raises InvalidRequest as `parse` does."""
    tree = parse(pattern)
    if tree == Choice(()):
        raise InvalidRequest("the constraint allows no answer at all; loosen it", code="grammar_empty")
    reach = Reach(examples=tuple(choices_of(pattern)), is_json=False)
    return completed(Source(LLMatcher.grammar_from_regex(written(tree)), reach))


def choices_source(options: Sequence[str]) -> Source:
    """Exactly one of `options`. Raises InvalidRequest for none."""
    if not options:
        raise InvalidRequest(
            "choices must not be empty: name at least one text", param="choices", code="invalid_choices"
        )
    return completed(Source(grammar_from("choice", json.dumps(options)), Reach(min(options, key=len), is_json=False)))


def completed(source: Source) -> Source:
    """`source` with a completion, looked for where none is known or the known one is none; walked for a bit.

    llguidance finds some faults of a grammar, and passes some of its limits, at the first masks only.
    Raises InvalidRequest where it refuses the grammar, then or there, and where no answer was found.
    """
    matcher = LLMatcher(BYTES.tokenizer, source.text, log_level=0, limits=LIMITS)
    if matcher.is_error():
        raise refusal(matcher)
    along = matcher.deep_copy()
    text = source.reach.completion
    if text is None or not along.consume_tokens(list(text.encode())) or not along.is_accepting():
        text = _found(matcher, source.reach)
    # what is plain and small meets no limit
    for seed in range(0 if source.reach.plain and len(source.text) < _SMALL else _CHANCE_WALKS):
        _walk_by_chance(matcher.deep_copy(), random.Random(seed))
    return replace(source, reach=replace(source.reach, completion=text))


def _found(matcher: LLMatcher, reach: Reach) -> str:
    hints = [list(text.encode()) for text in endings(reach.examples, is_json=reach.is_json)]
    found = shortest_known(matcher, BYTES, _LONGEST_COMPLETION, hints, is_json=reach.is_json)
    if found is None:
        trial = matcher.deep_copy()
        trial.compute_bitmask()
        if trial.is_error() and speaks_of_limit(first_line(trial)):
            raise refusal(trial)
        raise InvalidRequest(
            "no whole answer to this grammar was found; simplify it, or give it a shorter way to an end",
            code="grammar_too_complex",
        )
    return bytes(found).decode("utf-8", "replace")


def _walk_by_chance(state: LLMatcher, chance: random.Random) -> None:
    """Raises InvalidRequest where a mask cannot be made."""
    for _ in range(_CHANCE_STEPS):
        ids = allowed_tokens(state.compute_bitmask())
        if state.is_error():
            raise refusal(state)
        inside = ids[ids < _BYTE_VALUES]
        if not len(inside) or not state.consume_token(int(inside[chance.randrange(len(inside))])):
            return


def compile_schema(text: str, vocabulary: LlgVocabulary) -> LlgGrammar:
    return LlgGrammar(schema_source(text), vocabulary)


def compile_json_object(vocabulary: LlgVocabulary) -> LlgGrammar:
    return LlgGrammar(json_object_source(), vocabulary)


def compile_lark(text: str, vocabulary: LlgVocabulary) -> LlgGrammar:
    return LlgGrammar(lark_source(text), vocabulary)
