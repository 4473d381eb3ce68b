"""Patterns and formats of strings as forms, where they mean to us what they mean to llguidance."""

from __future__ import annotations

import re

from ...lang.errors import InvalidRequest
from .charset import EVERY
from .dialect import parse_search
from .form import Form, inner
from .schema_formats import PATTERNS

# Read alike in both dialects: letters, signs, groups, greedy and lazy repeats, sets, and of the classes those that are
# ASCII under JSON Schema. Others (\s, \b, flags, names, ...) are not, or not surely.
_ESCAPE = r"""\\(?:[dw]|[-.+*?()\[\]{}|^$\\/"'@#%&~=:,;<>!`_ ]|x(?:00|[2-6][0-9A-Fa-f]|7[0-9A-Ea-e]))"""
_IN_SET = rf"(?:{_ESCAPE}|(?!--|&&|~~|\|\|)[^\\\[\]\x00-\x1f])"
_ALIKE = re.compile(
    rf"(?:{_ESCAPE}|\((?:\?:)?|[)|.^$]|(?:[*+?]|\{{\d+(?:,\d*)?\}})\??(?![*+?{{])"
    rf"|\[\\s\\S\]|\[\^?(?!\^){_IN_SET}+\]|[^\\()\[\]{{}}|.^$*+?\x00-\x1f])*"
)
_CODE = re.compile(r"\\x\{([0-9a-fA-F]{1,5})\}")
# halves of pairs, and the last characters that a set by what is not in it has in our dialect
_UNSAID = re.compile(f"[\ud800-\udfff{chr(EVERY[-1][1])}-\U0010ffff]")

_LONGEST = 4_096  # characters, some 3 µs each

_H16 = "[0-9A-Fa-f]{1,4}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_ATOM = r"[0-9A-Za-z!#$%'*+/=?`{}_\-\x26\x5e\x7c\x7e]+"
_LABEL = "[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?"
_SHORT_LABEL = "[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_CLOCK = "(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_CALENDAR = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"


def _ipv6() -> str:
    """RFC 4291: eight groups, of which one stretch may be left out."""
    found = [f"(?:{_H16}:){{7}}{_H16}", f"::(?:{_H16}:){{0,5}}{_H16}:{_H16}"]
    for before in range(7):
        head = f"(?:(?:{_H16}:){{0,{before}}}{_H16})?::"
        after = 5 - before
        tail = f"(?:{_H16}:){{0,{after - 1}}}{_H16}:{_H16}" if after > 0 else (_H16 if after == 0 else "")
        found.append(head + tail)
    return "|".join(found)


# what llguidance takes for each, written anew; it has `uri` too, which is not small
_FORMATS = {
    **PATTERNS,
    "uuid": "^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
    "ipv4": f"^{_IPV4}$",
    "ipv6": f"^(?:{_ipv6()})$",
    "email": rf"^{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}(?:\.{_LABEL})*|\[{_IPV4}\])$",
    "hostname": rf"^{_SHORT_LABEL}(?:\.{_SHORT_LABEL})*$",
    "duration": f"^P(?:{_CALENDAR}(?:T{_CLOCK})?|T{_CLOCK}|[0-9]+W)$",
}


def format_form(name: str) -> Form | None:
    """What stands between the quotes of a string of this format."""
    return pattern_form(_FORMATS[name]) if name in _FORMATS else None


def pattern_form(pattern: str) -> Form | None:
    """What stands between the quotes of a string in which the pattern is found; None where it is not surely the same
    that llguidance takes, or where it is long."""
    pattern = _CODE.sub(lambda found: re.escape(chr(int(found[1], 16))), pattern)
    if len(pattern) > _LONGEST or _ALIKE.fullmatch(pattern) is None or _UNSAID.search(pattern):
        return None
    try:
        found = parse_search(pattern)
    except InvalidRequest:
        return None
    return None if found is None else inner(found)
