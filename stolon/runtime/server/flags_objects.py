"""Flags of vLLM whose value is a JSON object, as one flag for each setting in it; vLLM spells them with a dot, too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

OBJECTS = ("--structured-outputs-config", "--speculative-config")


class ObjectFlagError(Exception):
    """Why the value of such a flag cannot be read."""


def expanded(arguments: Sequence[str]) -> Iterator[str]:
    """`--flag {"setting": "value"}` as `--flag.setting=value`, all else as it is. Raises ObjectFlagError."""
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name not in OBJECTS:
            yield argument
            continue
        given = value if equals else next(waiting, "")
        for setting, found in _settings(name, given).items():
            yield f"{name}.{setting.replace('_', '-')}={found}"


def _settings(name: str, given: str) -> dict[str, str]:
    try:
        found: Any = json.loads(given)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ObjectFlagError(f"{name} must be a JSON object, got {given[:60]!r}")
    settings: dict[str, str] = {}
    for setting, value in cast("dict[str, Any]", found).items():
        if isinstance(value, (dict, list)):
            raise ObjectFlagError(f"{name}: {setting[:40]} must be one text, number or true or false")
        if value is not None:
            settings[setting] = value if isinstance(value, str) else json.dumps(value)
    return settings
