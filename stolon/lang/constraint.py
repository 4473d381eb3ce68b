"""The form that an answer must have. Made and checked where the user writes it; hashable, so that it keys caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ConstraintKind = Literal["regex", "choices", "json_schema", "json_object", "grammar"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """text: of the regex, of the schema as JSON, or of the grammar (Lark); empty for the other kinds
    choices: the texts to choose from, without doubles, for that kind only
    """

    kind: ConstraintKind
    text: str = ""
    choices: tuple[str, ...] = ()
