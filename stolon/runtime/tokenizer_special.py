"""Control tokens: where they stand in trusted text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tokenizers import AddedToken

# Unicode's White_Space, which is what the library means; Python's own notion has four more
_WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class ControlTokens:
    """The tokens that a tokenizer reads as marks, not as words.

    ids: of all of them; spellings: how they are written, longest first
    """

    def __init__(self, special: Mapping[int, AddedToken]) -> None:
        self.ids = frozenset(special)
        self._id_of = {token.content: id for id, token in special.items()}
        self.spellings = tuple(sorted(self._id_of, key=lambda spelling: (-len(spelling), spelling)))
        self._takes_left = frozenset(id for id, token in special.items() if token.lstrip)
        self._takes_right = frozenset(id for id, token in special.items() if token.rstrip)
        # (?!) matches nowhere; of two that start at one place the longer is read
        beginnings = {spelling[:end] for spelling in self.spellings for end in range(1, len(spelling))}
        self._longest = max(map(len, self.spellings), default=1)
        self._beginning = re.compile(f"(?:{'|'.join(map(re.escape, sorted(beginnings))) or '(?!)'})$(?!\n)")
        self.pattern = re.compile("|".join(map(re.escape, self.spellings)) or "(?!)")

    def split(self, text: str) -> list[str | int]:
        """`text` cut at its control tokens: plain runs as text, control tokens as ids; no empty runs.

        A token that swallows the white space beside it does so here.
        """
        runs: list[str | int] = []
        left: int | None = None
        end = 0
        for found in self.pattern.finditer(text):
            right = self._id_of[found[0]]
            if run := self._trimmed(text[end : found.start()], left, right):
                runs.append(run)
            runs.append(right)
            left, end = right, found.end()
        if rest := self._trimmed(text[end:], left, None):
            runs.append(rest)
        return runs

    def begins_at_end(self, text: str) -> bool:
        """Whether `text` ends in the beginning of a control token, which what follows could complete."""
        return self._beginning.search(text[-self._longest :]) is not None

    def broken(self, text: str, mark: str) -> str:
        """`text` with `mark` inside every control token's spelling, and behind the beginning of one at its end."""
        # again and again: what is left of a broken spelling may spell another one
        while self.pattern.search(text):
            text = self.pattern.sub(lambda found: found[0][:1] + mark + found[0][1:], text)
        return text + mark if self.begins_at_end(text) else text

    def _trimmed(self, run: str, left: int | None, right: int | None) -> str:
        # cut here and not by the pattern, which would take quadratic time over long white space
        if left in self._takes_right:
            run = run.lstrip(_WHITE_SPACE)
        return run.rstrip(_WHITE_SPACE) if right in self._takes_left else run
