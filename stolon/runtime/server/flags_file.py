"""Flags from a YAML file: its keys are flags without dashes in front, or settings by their own names."""

# YAML has any type until it is checked
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .flags_objects import OBJECTS


class ConfigFileError(Exception):
    """Why the file cannot be read as flags."""


def arguments_of(path: str, flags: Mapping[str, argparse.Action]) -> list[str]:
    """The file as a command line. Raises ConfigFileError; values are checked where any command line's are."""
    arguments: list[str] = []
    for key, value in _entries(path).items():
        arguments += _argument(path, str(key), value, flags)
    return arguments


def _entries(path: str) -> dict[Any, Any]:
    try:
        import yaml  # comes with the optional local runtime
    except ImportError as error:
        raise ConfigFileError("--config needs PyYAML: pip install 'stolon[local]'") from error
    try:
        found = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigFileError(f"--config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigFileError(f"--config {path} cannot be read: it is not text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigFileError(f"--config {path} is not YAML: {error}") from None
    if not isinstance(found, dict):
        raise ConfigFileError(f"--config {path} must hold flags and their values, one `flag: value` a line")
    return found


def _argument(path: str, key: str, value: Any, flags: Mapping[str, argparse.Action]) -> list[str]:
    flag = f"--{key.replace('_', '-')}"
    if flag in OBJECTS and isinstance(value, dict):
        return [f"{flag}={json.dumps(value)}"]
    if flag in flags and flag != "--config":
        return _said(path, key, flag, flags[flag], value)
    name = key.replace("-", "_")
    negative = [spelling for spelling, action in flags.items() if action.dest == name and action.nargs == 0]
    if negative and isinstance(value, bool):  # a setting that is on by itself: its flags turn it off
        return [] if value else [negative[0]]
    names = [spelling.lstrip("-") for spelling in flags]
    close = difflib.get_close_matches(flag.lstrip("-"), names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigFileError(f"in {path}: there is no flag {key[:60]!r}{hint}")


def _said(path: str, key: str, flag: str, action: argparse.Action, value: Any) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ConfigFileError(f"in {path}: {key} must be true or false, got {value!r}")
        return [flag] if value else []
    if value is None:
        return []
    if action.nargs == "+" and isinstance(value, list):
        return [flag, *map(str, value)] if value else []
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ConfigFileError(f"in {path}: {key} must be one text or number, got {value!r}")
    return [f"{flag}={value}"]
