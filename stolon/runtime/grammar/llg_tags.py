"""Pieces of JSON between marks, as tool calls are written, as one grammar for llguidance.

Where text is free it ends at a mark: the part of `begin` up to its first `>` or `]`, if it starts with `<` or `[` and
has one, else all of it. Once a mark was said one of the pieces that begin with it must follow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from llguidance import LLMatcher

from ...lang.errors import InvalidRequest
from .llg_blame import placed
from .llg_examples import Examples
from .llg_source import Reach, Source, spelling
from .schema import PlainSchema, rewrite_schema

MAX_TAGS = 128
MAX_PIECES = 1_000
MAX_MARK = 1_024  # characters of a `begin`, an `end` or the separator
_MARK = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")


@dataclass(frozen=True, slots=True)
class _Tag:
    """alone: a piece of it is a whole answer, and no other piece stands beside it"""

    begin: str
    end: str
    plain: PlainSchema
    alone: bool = False

    def completion(self) -> str | None:
        """The text of a piece, if one is known."""
        return None if self.plain.completion is None else f"{self.begin}{self.plain.completion}{self.end}"


@dataclass(frozen=True, slots=True)
class _Tags:
    """As lang/constraint.py describes the text of `tags`."""

    tags: list[_Tag]
    free: bool
    least: int
    most: int | None
    separator: str


def tags_source(text: str, examples: Examples, *, compact: bool = False) -> Source:
    """Without a completion where a schema has none that is known.

    Raises InvalidRequest, code "invalid_grammar" for a text that is not as described, else as `rewrite_schema` does;
    `param` is the path of the schema and the pointer in it.
    """
    found = _read(text, examples.of, compact)
    for tag in found.tags:
        examples.learn_names(tag.plain.text)
    lines = [f"j{i}: %json {_spelled(tag.plain.text, compact)}" for i, tag in enumerate(found.tags)]
    lines += _free(found) if found.free else _bound(found)
    pieces = [piece for tag in found.tags if (piece := tag.completion()) is not None]
    completion = _completion(found)
    opened = max(len(f"{tag.begin}{tag.end}{found.separator}") + _length(tag.plain) for tag in found.tags)
    marks = tuple(_mark(tag) for tag in found.tags) if found.free else ()
    is_plain = all(tag.plain.is_plain for tag in found.tags)
    reach = Reach(completion, opened, examples.texts, is_plain, marks, ways=tuple(dict.fromkeys(pieces)))
    return Source(LLMatcher.grammar_from_lark("\n".join(lines)), reach)


def check_schemas(text: str, check: Callable[[str], object]) -> None:
    """Raise what `check` raises for the first schema of `text` that it refuses, with the schema's path before `param`.

    text: that `tags_source` has read
    """
    for index, tag in enumerate(json.loads(text)["tags"]):
        try:
            check(json.dumps(tag["schema"]))
        except InvalidRequest as error:
            raise _of_tag(index, error) from error


def _of_tag(index: int, error: InvalidRequest) -> InvalidRequest:
    return InvalidRequest(f"tag {index}: {error}", param=f"tags/{index}/schema{error.param}", code=error.code)


def _length(plain: PlainSchema) -> int:
    """Bytes by which beginning a piece, or a value in it, may move the end."""
    return plain.jump + (len(plain.completion.encode()) if plain.completion is not None else plain.jump)


def _completion(tags: _Tags) -> str | None:
    """The text of a whole answer, if one is known."""
    if not tags.least:
        return ""
    known = [(tag.alone, piece) for tag in tags.tags if (piece := tag.completion()) is not None]
    whole = [piece for alone, piece in known if alone]
    pieces = [piece for alone, piece in known if not alone]
    if pieces:
        whole.append(tags.separator.join([min(pieces, key=len)] * tags.least))
    return min(whole, key=len) if whole else None


def _bound(tags: _Tags) -> list[str]:
    choice = " | ".join(f"t{i}" for i, tag in enumerate(tags.tags) if not tag.alone)
    lines = [f"piece: {choice}"]
    lines += [f"t{i}: {_quoted(tag.begin)} j{i} {_quoted(tag.end)}" for i, tag in enumerate(tags.tags)]
    least, most = tags.least, tags.most
    if least == 0:
        more = "" if most is None else most - 1
        some = "piece" if most == 1 else f"piece (SEPARATOR piece){{0,{more}}}"
        lines.append("pieces:" if most == 0 else f"pieces: ({some})?")
    else:
        more = "" if most is None else most - 1
        lines.append("pieces: piece" if most == 1 else f"pieces: piece (SEPARATOR piece){{{least - 1},{more}}}")
    lines.append(" | ".join(["start: pieces", *(f"t{i}" for i, tag in enumerate(tags.tags) if tag.alone)]))
    separated = tags.separator and most not in (0, 1)
    if separated:
        return [*lines, f"SEPARATOR: {json.dumps(tags.separator, ensure_ascii=False)}"]
    return [line.replace("SEPARATOR ", "") for line in lines]


def _free(tags: _Tags) -> list[str]:
    marks: dict[str, list[int]] = {}
    for index, tag in enumerate(tags.tags):
        marks.setdefault(_mark(tag), []).append(index)
    names = [re.escape(mark).replace("/", r"\/").replace("\n", r"\n") for mark in marks]
    lines: list[str] = []
    for place, (mark, members) in enumerate(marks.items()):
        lines.append(f"m{place}[lazy]: /(?s:.*){names[place]}/")
        for index in members:
            tag = tags.tags[index]
            lines.append(f"t{index}: m{place} {_quoted(tag.begin[len(mark) :])} j{index} {_quoted(tag.end)}")
    most = "" if tags.most is None else tags.most
    choice = " | ".join(f"t{i}" for i in range(len(tags.tags)))
    lines.append(f"piece: {choice}")
    lines.append("start: TAIL" if tags.most == 0 else f"start: piece{{{tags.least},{most}}} TAIL")
    # what a pattern is not may be no characters at all, so that both are asked for
    lines.append(f"TAIL: /(?s:.*)/ & ~/(?s:.*)({'|'.join(names)})(?s:.*)/")
    return lines


def _mark(tag: _Tag) -> str:
    found = _MARK.match(tag.begin)
    return found[0] if found else tag.begin


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""


def _spelled(schema: str, compact: bool) -> str:
    found: dict[str, Any] = json.loads(schema)
    return json.dumps({**found, "x-guidance": spelling(compact=compact)}, ensure_ascii=False)


def _read(text: str, example: Callable[[str], str | None], compact: bool) -> _Tags:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(f"it is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise _wrong("it is no object")
    given = cast("dict[str, Any]", found)
    tags, separator = given.get("tags"), given.get("separator", "")
    least, most, free = given.get("least", 0), given.get("most"), given.get("free", False)
    if not isinstance(tags, list) or not 0 < len(cast("list[Any]", tags)) <= MAX_TAGS:
        raise _wrong(f"`tags` must be a list of 1 to {MAX_TAGS}")
    if not _is_mark(separator) or not isinstance(free, bool):
        raise _wrong(f"`separator` must be a text of at most {MAX_MARK} characters, and `free` true or false")
    if not _is_count(least) or not (most is None or (_is_count(most) and most >= least)):
        raise _wrong(f"`least` and `most` must be whole numbers up to {MAX_PIECES}, and `most` no less")
    read = [_tag(tag, index, example, compact) for index, tag in enumerate(cast("list[Any]", tags))]
    if all(tag.alone for tag in read) or (free and any(tag.alone for tag in read)):
        raise _wrong("a tag that is `alone` stands beside others that are not, and nothing is `free` then")
    return _Tags(read, free, least, most, separator)


def _tag(found: Any, index: int, example: Callable[[str], str | None], compact: bool) -> _Tag:
    given = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    begin, end, schema, alone = given.get("begin"), given.get("end"), given.get("schema"), given.get("alone", False)
    if not _is_mark(begin) or not _is_mark(end) or not (begin or alone is True):
        raise _wrong(
            f"`begin` and `end` of tag {index} must be texts of at most {MAX_MARK} characters, `begin` not empty"
        )
    if not isinstance(alone, bool):
        raise _wrong(f"`alone` of tag {index} must be true or false")
    text = json.dumps(schema)
    try:
        return _Tag(begin, end, rewrite_schema(text, example, compact=compact), alone)
    except InvalidRequest as error:
        raise _of_tag(index, placed(error, text, example)) from error


def _is_mark(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_MARK


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_PIECES


def _wrong(what: str) -> InvalidRequest:
    return InvalidRequest(f"the description of tags is wrong: {what}", param="tags", code="invalid_grammar")
