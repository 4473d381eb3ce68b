"""What each token stands for in bytes, read off a tokenizer's own decoder.

Almost every decoder is one of two kinds. Byte-level BPE spells each byte as one character of an alphabet;
SentencePiece-like decoders spell a space as "▁" and a byte as "<0xNN>", and drop a space at the very start of a text.
For both, decoding is joining the tokens' bytes, so text can be decoded token by token and no two tokens need to be
looked at together. A decoder of neither kind gets no rule (`None`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> dict[str, int]:
    """Character to byte, as byte-level BPE spells them: printable Latin-1 as itself, the rest from U+0100 upwards."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = sorted(set(range(256)) - set(shown))
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_ALPHABET = byte_alphabet()


@dataclass(frozen=True, slots=True)
class ByteLevelRule:
    """Each character is a byte; a token with any other character (an added one) stands for itself."""

    strip: int = 0  # spaces dropped at the very start of a text

    def token_bytes(self, token: str) -> bytes:
        try:
            return bytes([_ALPHABET[char] for char in token])
        except KeyError:
            return token.encode()


@dataclass(frozen=True, slots=True)
class PieceRule:
    """Characters stand for themselves after some replacements; `<0xNN>` is a byte where the decoder says so."""

    replacements: tuple[tuple[str, str], ...]
    byte_fallback: bool
    strip: int = 0

    def token_bytes(self, token: str) -> bytes:
        for old, new in self.replacements:
            token = token.replace(old, new)
        if self.byte_fallback and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return token.encode()


ByteRule = ByteLevelRule | PieceRule


def byte_rule(decoder: Mapping[str, Any] | None) -> ByteRule | None:
    """The rule of a decoder, given as `tokenizer.json` describes it; None if it is of neither kind."""
    if decoder is None:
        return None
    steps: list[Mapping[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return ByteLevelRule()
    replacements: list[tuple[str, str]] = []
    byte_fallback = fused = False
    strip = 0
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not (
                fused or byte_fallback
            ):
                replacements.append((old, new))
            case {"type": "ByteFallback"} if not fused:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0} if fused and not strip:
                strip = start
            case _:
                return None
    return PieceRule(tuple(replacements), byte_fallback, strip)
