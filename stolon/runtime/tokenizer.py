"""Text to tokens and back. What a user writes is never read as a control token; only trusted text is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from ..lang.errors import CheckpointError, InvalidRequest
from .directories import fetching
from .tokenizer_bytes import ByteRule, byte_rule
from .tokenizer_facts import TokenizerFacts, facts_of, first_line
from .tokenizer_special import ControlTokens

_auto: Any = AutoTokenizer  # the library's own types are too loose to check against

# where a run of plain text stands: at the start of all, behind a control token, or right behind other text
Place = Literal["first", "after_control", "inside"]

_LONG = 1 << 14  # characters
_CHARACTERS_A_TOKEN = 16  # more than almost any text has


@dataclass(frozen=True, slots=True)
class TokenRun:
    """A run of tokens that a model generated, and the text that was read from them."""

    text: str
    tokens: tuple[int, ...]


class Tokenizer:
    """A checkpoint's tokenizer. Safe to use from several threads: nothing in it changes but caches.

    vocab_size: one more than the largest id that has a token; a model may have more rows, which stand for no text
    special_ids: ids of control tokens, left out of text; special_tokens: how they are spelled, longest first
    bos_token_id: the id that starts a text, if the tokenizer names one
    eos_ids: ids that end an answer, from the tokenizer and from generation_config.json (else config.json)
    rule: how a token stands for bytes; None where only the tokenizer's own decoder knows
    chat_templates: sources by name, as the checkpoint brings them; "default" is the usual one
    named_tokens: what a chat template may ask for: "bos_token" and the like
    """

    def __init__(self, backend: Backend, facts: TokenizerFacts) -> None:
        """Takes over `backend`; nobody else may use it afterwards."""
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # for good: control tokens are found here, not there
        settings = json.loads(backend.to_str())
        self._unspaced = _without_prefix_space(backend)
        self._spaces_every_run = not _spaces_only_the_first(settings)
        added = backend.get_added_tokens_decoder()
        self.control = ControlTokens({id: token for id, token in added.items() if token.special})
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self.special_ids = self.control.ids
        self.special_tokens = self.control.spellings
        self._reserved = self.control.ids - {_unknown_of(settings["model"], vocab)}
        self._prefix = _prefix_of(backend)
        self._frames = {count: _frame_of(backend, count) for count in (1, 2)}
        self.bos_token_id = facts.bos_token_id
        self.eos_ids = facts.eos_ids
        self.chat_templates = facts.chat_templates
        self.named_tokens = facts.named_tokens
        self.rule: ByteRule | None = byte_rule(settings["decoder"])
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def load(cls, directory: Path) -> Tokenizer:
        """Read the tokenizer in `directory`; no network, no code from the checkpoint.

        Raises CheckpointError if it is missing or cannot be used.
        """
        if not directory.is_dir():
            raise CheckpointError(f"there is no folder {directory}; give the folder of a checkpoint with a tokenizer")
        try:
            loaded = _auto.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library raises whatever its readers raise, bare Exception from Rust among it
            if not (directory / "tokenizer.json").exists():
                raise CheckpointError(
                    f"{directory} has no tokenizer.json; copy it there from where the model came from, or name the "
                    "folder of a tokenizer (tokenizer_path)" + fetching(directory)
                ) from error
            raise CheckpointError(f"the tokenizer in {directory} cannot be read: {first_line(error)}") from error
        if not getattr(loaded, "is_fast", False):
            raise CheckpointError(
                f"the tokenizer in {directory} ({type(loaded).__name__}) has no tokenizer.json; convert it with "
                "transformers' save_pretrained first"
            )
        return cls(loaded.backend_tokenizer, facts_of(loaded, directory))

    def require(self, what: str) -> None:
        """Raises InvalidRequest where no tokenizer is loaded and `what` cannot be had (see `NoTokenizer`)."""

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Tokens of what a user wrote: a control token's spelling in it is plain text.

        Raises InvalidRequest if `text` holds an unpaired surrogate.
        """
        ids = self.encode_run(text, "first")
        return [*self._prefix, *ids] if bos else ids

    def encode_run(self, text: str, place: Place) -> list[int]:
        """Tokens of plain text at a place of a sequence; control tokens are neither read nor added."""
        check_text(text)
        spaced = place == "first" or (place == "after_control" and self._spaces_every_run)
        backend = self._backend if spaced else self._unspaced
        if len(text) > _LONG:
            # a batch lets other threads run meanwhile, one text by itself does not
            (encoding,) = backend.encode_batch([text], add_special_tokens=False)
        else:
            encoding = backend.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._reserved.isdisjoint(ids):
            return ids
        # some models have control tokens among their ordinary pieces and find them in any text; half a spelling is none
        if len(text) == 1:
            raise InvalidRequest(f"this model reads the character {text!r} as a control token; leave it out")
        middle = len(text) // 2
        return self.encode_run(text[:middle], place) + self.encode_run(text[middle:], "inside")

    def encode_scaffold(self, text: str) -> list[int]:
        """Tokens of trusted text: control tokens in it are read as such; none is added."""
        ids: list[int] = []
        for run in self.control.split(text):
            ids.extend([run] if isinstance(run, int) else self.encode_run(run, "after_control" if ids else "first"))
        return ids

    def encode_parts(self, parts: Sequence[str | TokenRun], *, bos: bool = True) -> list[int]:
        """Tokens of a plain text of which some runs are tokens already; those stay as they are."""
        ids = list(self._prefix) if bos else []
        place: Place = "first"
        for part in joined(parts):
            ids.extend(part.tokens if isinstance(part, TokenRun) else self.encode_run(part, place))
            place = "inside"
        return ids

    def encode_framed(self, *texts: str, longest: int | None = None) -> tuple[list[int], list[int]]:
        """One text or two as an embedding model reads them: with all that the tokenizer itself puts around and between
        them. Returns the tokens, and of each to which of the texts it belongs, as the tokenizer counts (0 or 1).

        longest: the last text is cut so that there are at most so many tokens
        Raises InvalidRequest if that leaves nothing of it.
        """
        *before, last = texts
        runs = [self.encode_run(text, "first") for text in before]
        runs.append(self.encode_run(last, "first") if longest is None else self._encode_beginning(last, longest))
        frame = self._frames[len(texts)]
        if longest is not None:
            fixed = sum(isinstance(part, int) for part, _ in frame) + sum(map(len, runs[:-1]))
            if longest <= fixed:
                raise InvalidRequest(f"at most {longest} tokens leave no room: {fixed} are needed around the text")
            runs[-1] = runs[-1][: longest - fixed]
        ids: list[int] = []
        types: list[int] = []
        waiting = iter(runs)
        for part, kind in frame:
            run = [part] if isinstance(part, int) else next(waiting)
            ids.extend(run)
            types.extend([kind] * len(run))
        return ids, types

    def _encode_beginning(self, text: str, most: int) -> list[int]:
        """At least the first `most` tokens of `text`. Of one that is far longer the rest is not read: each of its
        characters would cost a hundred bytes of memory on the way."""
        size = most * _CHARACTERS_A_TOKEN
        while size < len(text):
            ids = self.encode_run(text[:size], "first")
            if len(ids) > 2 * most:  # far from where it was cut, the tokens are those of the whole
                return ids
            size *= 4
        return self.encode_run(text, "first")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text that `ids` stand for, on their own. Bytes that are no UTF-8 become U+FFFD."""
        if self.rule is None:
            return self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        skip = self.special_ids if skip_special_tokens else frozenset[int]()
        text = b"".join(self.token_bytes(id) for id in ids if id not in skip).decode(errors="replace")
        strip = self.rule.strip
        while strip and text.startswith(" "):
            text, strip = text[1:], strip - 1
        return text

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token adds to a text (a control token: its spelling); empty for an id without a token."""
        found = self._bytes.get(id)
        if found is None:
            token = self._backend.id_to_token(id) if 0 <= id < self.vocab_size else None
            found = b"" if token is None else self._bytes_of(id, token)
            self._bytes[id] = found
        return found

    def token_text(self, id: int) -> str:
        """A token to show to people; bytes that are no whole character become U+FFFD."""
        return self.token_bytes(id).decode(errors="replace")

    def _bytes_of(self, id: int, token: str) -> bytes:
        if self.rule is not None:
            return self.rule.token_bytes(token)
        return self._backend.decode([id], skip_special_tokens=False).encode()


def check_text(text: str, param: str | None = None) -> None:
    """Raise InvalidRequest if `text` cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"unpaired surrogate U+{ord(text[error.start]):04X} at character {error.start}; send whole characters",
            param=param,
        ) from None


def joined(parts: Sequence[str | TokenRun]) -> list[str | TokenRun]:
    """`parts` with neighbouring strings joined, and without what adds nothing."""
    runs: list[str | TokenRun] = []
    for part in parts:
        if isinstance(part, str) and runs and isinstance(runs[-1], str):
            runs[-1] += part
        elif part if isinstance(part, str) else part.tokens:
            runs.append(part)
    return runs


def _unknown_of(model: dict[str, Any], vocab: dict[str, int]) -> int | None:
    """The id that stands for text without a token: it is marked as a control token, but text may well give it."""
    return model["unk_id"] if "unk_id" in model else vocab.get(model.get("unk_token") or "")


def _prefix_of(backend: Backend) -> list[int]:
    """What the tokenizer itself puts before a text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def _frame_of(backend: Backend, count: int) -> list[tuple[int | None, int]]:
    """What the tokenizer puts around `count` texts: control tokens, and None for each text; each with its type."""
    found = backend.encode("a", "a" if count > 1 else None, add_special_tokens=True)
    frame: list[tuple[int | None, int]] = []
    inside: int | None = None
    for id, kind, text in zip(found.ids, found.type_ids, found.sequence_ids, strict=True):
        if text is None or text != inside:
            frame.append((id if text is None else None, kind))
        inside = text
    return frame


def _spaces_only_the_first(settings: dict[str, Any]) -> bool:
    """Whether a text gets a space in front only at its very start, not after a control token."""
    return any(node.get("prepend_scheme") == "first" for node in _nodes(settings["pre_tokenizer"]))


def _without_prefix_space(backend: Backend) -> Backend:
    """The same tokenizer, but never putting a space before a text; `backend` itself if it does not anyway."""
    settings = json.loads(backend.to_str())
    changed = False
    for node in _nodes(settings["pre_tokenizer"]):
        if node["type"] == "Metaspace" and node["prepend_scheme"] != "never":
            node["prepend_scheme"], changed = "never", True
        elif node["type"] == "ByteLevel" and node["add_prefix_space"]:
            node["add_prefix_space"], changed = False, True
    for node in _nodes(settings["normalizer"]):
        if node["type"] == "Prepend":
            node["prepend"], changed = "", True
    if not changed:
        return backend
    inner = Backend.from_str(json.dumps(settings))
    inner.encode_special_tokens = True
    return inner


def _nodes(settings: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normalizer's or pre-tokenizer's steps, those of nested sequences among them."""
    if settings is None:
        return []
    if settings["type"] != "Sequence":
        return [settings]
    inner: list[dict[str, Any]] = settings.get("normalizers") or settings.get("pretokenizers") or []
    return [node for step in inner for node in _nodes(step)]
