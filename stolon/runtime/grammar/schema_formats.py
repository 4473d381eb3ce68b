"""Formats of strings: those that llguidance knows and gets right, and those for which the pattern is ours.

Names that JSON Schema does not define are annotations.
"""

from __future__ import annotations

# leap years from 0004 on; year 0000 is no date to most readers
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = r"(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DAY = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
# no leap seconds: most readers refuse :60, and where one may be depends on the zone
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_ZONE = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_PCHAR = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})"
_SEGMENT = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=@]|%[0-9A-Fa-f]{2})"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"

PATTERNS: dict[str, str] = {
    "date": rf"^{_DAY}$",
    "time": rf"^{_CLOCK}{_ZONE}$",
    "date-time": rf"^{_DAY}[Tt]{_CLOCK}{_ZONE}$",
    "json-pointer": rf"^{_POINTER}$",
    "relative-json-pointer": rf"^(?:0|[1-9][0-9]*)(?:#|{_POINTER})$",
    # a reference with an authority is left out: it would have to be held to the rules of a host
    "uri-reference": (
        rf"^(?:[A-Za-z][A-Za-z0-9+.\-]*:{_PCHAR}*|{_SEGMENT}+)?(?:/{_PCHAR}+)*/?"
        rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:\x23(?:{_PCHAR}|[/?])*)?$"
    ),
}
ENGINE_FORMATS = frozenset({"duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
# defined by JSON Schema, and neither known to the engine nor a regular pattern that fits here
REFUSED = frozenset({"idn-email", "idn-hostname", "iri", "iri-reference", "uri-template", "regex"})


def known_format(name: str) -> bool:
    """Whether a format says something; unknown names are annotations."""
    return name in PATTERNS or name in ENGINE_FORMATS or name in REFUSED
