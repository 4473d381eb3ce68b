"""The form that an answer must have. Made and checked where the user writes it; hashable, so that it keys caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ConstraintKind = Literal["regex", "choices", "json_schema", "json_object", "grammar", "tags"]
KINDS: frozenset[str] = frozenset(get_args(ConstraintKind))


@dataclass(frozen=True, slots=True)
class Constraint:
    """text: of the regex, of the schema as JSON, or of the grammar (Lark); empty for the other kinds
    choices: the texts to choose from, without doubles, for that kind only
    after: the answer is free until this text was said, and has the form from there on; empty: from its first token

    The text of `tags` is JSON, `{"tags": [{"begin": str, "schema": {...}, "end": str}, ...], "free": bool,
    "least": int, "most": int or null, "separator": str}`: pieces of JSON between marks, as in tool calls. With `free`
    anything may be said until a `begin`; without it the answer is `least` to `most` pieces, `separator` between them,
    or one piece whose tag has `"alone": true`, which then is all of it.
    """

    kind: ConstraintKind
    text: str = ""
    choices: tuple[str, ...] = ()
    after: str = ""
