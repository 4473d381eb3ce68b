"""Our types as the JSON that clients read."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ...lang.types import TokenLogprob, Usage
from . import errors
from .body import JsonObject
from .errors import HttpError
from .fields import finite
from .service import Tokenizer

# one encoder for all: making it costs more than encoding a delta
encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: object) -> bytes:
    return encode(value).encode()


DONE = b"data: [DONE]\n\n"


def event(value: object, name: str | None = None) -> bytes:
    """A server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {encode(value)}\n\n".encode()


def failure(error: HttpError) -> bytes:
    """The last event of a stream that cannot go on."""
    return b"data: " + errors.body(error) + b"\n\n"


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def usage(counts: Sequence[Usage], thinking: int | None = None) -> JsonObject:
    """Of one request, over all its prompts.

    thinking: tokens of thoughts, where they are told apart
    """
    total = counts[0] if len(counts) == 1 else sum(counts, Usage())
    details: JsonObject = {} if thinking is None else {"completion_tokens_details": {"reasoning_tokens": thinking}}
    return {
        **details,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "total_tokens": total.prompt_tokens + total.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": total.cached_tokens},
    }


@dataclass(frozen=True, slots=True)
class Naming:
    """What tokens are called beside log-probabilities. by_id: as vLLM names them where their text may not do"""

    tokenizer: Tokenizer
    by_id: bool = False

    def of(self, token: int) -> str:
        return f"token_id:{token}" if self.by_id else self.tokenizer.token_text(token)

    def prompt_logprobs(self, entries: Sequence[TokenLogprob | None], wanted: int) -> list[JsonObject | None]:
        """As vLLM has them: by id, of each token of a prompt and of the `wanted` best; only these have a rank."""
        return [None if entry is None else self._ranked(entry, wanted) for entry in entries]

    def _ranked(self, entry: TokenLogprob, wanted: int) -> JsonObject:
        ranks = {token: rank for rank, (token, _) in enumerate(entry.top, 1)}
        found = {entry.token: entry.logprob}
        for token, value in entry.top[:wanted]:
            found.setdefault(token, value)
        return {
            str(token): {"logprob": finite(value), "rank": ranks.get(token), "decoded_token": self.of(token)}
            for token, value in found.items()
        }


def chat_logprobs(entries: Sequence[TokenLogprob], wanted: int, naming: Naming) -> JsonObject:
    return {
        "content": [
            {
                **_chat_token(entry.token, entry.logprob, naming),
                "top_logprobs": [_chat_token(token, value, naming) for token, value in entry.top[:wanted]],
            }
            for entry in entries
        ],
        "refusal": None,
    }


def _chat_token(token: int, logprob: float, naming: Naming) -> JsonObject:
    raw = naming.tokenizer.token_bytes(token)
    text = naming.of(token) if naming.by_id else raw.decode(errors="replace")
    return {"token": text, "logprob": finite(logprob), "bytes": list(raw)}


def completion_logprobs(
    entries: Sequence[TokenLogprob | None], first: int, wanted: int, offset: int, naming: Naming
) -> tuple[JsonObject, int]:
    """The older form: parallel lists. Also returns where the next entry's text starts.

    entries: None only for the first token of an echoed prompt, whose id is `first`
    offset: characters of the text before the first entry; control tokens are no part of the text
    """
    texts: list[str] = []
    offsets: list[int] = []
    for entry in entries:
        token = first if entry is None else entry.token
        texts.append(naming.of(token))
        offsets.append(offset)
        tokenizer = naming.tokenizer
        offset += 0 if token in tokenizer.special_ids else len(tokenizer.token_text(token))
    found: JsonObject = {
        "tokens": texts,
        "token_logprobs": [None if entry is None else finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if entry is None else _top(entry, wanted, naming) for entry in entries],
        "text_offset": offsets,
    }
    return found, offset


def _top(entry: TokenLogprob, wanted: int, naming: Naming) -> dict[str, float]:
    """By text. Two tokens may read the same; the likelier one stands."""
    found: dict[str, float] = {}
    for token, value in entry.top[:wanted]:
        found.setdefault(naming.of(token), finite(value))
    found.setdefault(naming.of(entry.token), finite(entry.logprob))
    return found
