"""What a checkpoint's files say about its tokenizer, beside the tokenizer itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..lang.errors import CheckpointError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """eos_ids: ids that end an answer; chat_templates: sources by name; named_tokens: "bos_token" and the like."""

    bos_token_id: int | None
    eos_ids: frozenset[int]
    chat_templates: dict[str, str]
    named_tokens: dict[str, str]


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, fit for our own."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def facts_of(loaded: Any, directory: Path) -> TokenizerFacts:
    templates: Any = loaded.chat_template or {}
    named = {name: str(token) for name, token in loaded.special_tokens_map.items() if isinstance(token, str)}
    return TokenizerFacts(
        bos_token_id=loaded.bos_token_id,
        eos_ids=_eos_ids(directory, loaded),
        chat_templates={"default": templates} if isinstance(templates, str) else dict(templates),
        named_tokens=named,
    )


def _eos_ids(directory: Path, loaded: Any) -> frozenset[int]:
    """The tokenizer's own, and what generation_config.json says; config.json's only where that says nothing."""
    own: int | None = loaded.eos_token_id
    config = json_object(directory / "config.json")
    # a model may have more rows than its tokenizer has tokens, and name one of those
    rows: Any = config.get("vocab_size")
    limit = max(len(loaded), rows if isinstance(rows, int) else 0)
    found: Any = json_object(directory / "generation_config.json").get("eos_token_id")
    found = config.get("eos_token_id") if found is None else found
    listed = cast("list[Any]", found) if isinstance(found, list) else [] if found is None else [found]
    for id in listed:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < limit:
            raise CheckpointError(f"{directory}: eos_token_id must be ids from 0 to {limit - 1}, got {found!r}")
    return frozenset(listed if own is None else [own, *listed])


def json_object(path: Path) -> dict[str, Any]:
    """The content of a file that need not be there."""
    if not path.is_file():
        return {}
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(found).__name__}")
    return cast("dict[str, Any]", found)
