"""Command-line flags, made from the fields of the settings: name, type, default, help and further spellings."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .. import limits
from ..config import EngineConfig, SchedulerConfig
from ..limits import Range
from .settings import ServerConfig

PROGRAM = "stolon.launch_server"

_GROUPS: tuple[tuple[str, type], ...] = (
    ("model", EngineConfig),
    ("server", ServerConfig),
    ("scheduling", SchedulerConfig),
)


def parse(arguments: Sequence[str] | None = None) -> tuple[ServerConfig, EngineConfig]:
    """The settings that the command line asks for. Exits with 2 and one line on stderr where it cannot be read."""
    parser = _Parser(
        prog=PROGRAM,
        description="Serve a model under the OpenAI protocol and the native one.",
        formatter_class=_Help,
        allow_abbrev=False,  # a script must not break when a longer flag arrives
    )
    for title, config in _GROUPS:
        group = parser.add_argument_group(title)
        for field, kind in _fields(config):
            _add(group.add_argument, field, kind)
    found = vars(parser.parse_args(arguments))
    scheduler = SchedulerConfig(**_of(SchedulerConfig, found))
    return (
        ServerConfig(**_of(ServerConfig, found)),
        EngineConfig(**_of(EngineConfig, found), scheduler=scheduler),
    )


def _fields(config: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Fields that become flags, with their types."""
    kinds = typing.get_type_hints(config)
    return [(field, kinds[field.name]) for field in dataclasses.fields(config) if "help" in field.metadata]


def _of(config: type, found: dict[str, Any]) -> dict[str, Any]:
    return {field.name: found[field.name] for field, _ in _fields(config)}


def _add(add: Callable[..., object], field: dataclasses.Field[Any], kind: Any) -> None:
    name = field.name.replace("_", "-")
    spellings = [f"--{name}", *field.metadata["also"]]
    required = field.default is dataclasses.MISSING
    shown = "" if required or field.default is None or kind is bool else f" (default: {field.default})"
    text = field.metadata["help"].replace("%", "%%") + shown
    if kind is bool:
        if field.default:
            spellings = [f"--no-{name}", f"--disable-{name}", *field.metadata["also"]]
            text = f"do not {text}"
        add(
            *spellings,
            dest=field.name,
            help=text,
            default=field.default,
            action="store_false" if field.default else "store_true",
        )
        return
    kind = _without_none(kind)
    default = None if required else field.default
    if typing.get_origin(kind) is typing.Literal:
        add(*spellings, dest=field.name, help=text, default=default, required=required, choices=typing.get_args(kind))
        return
    add(
        *spellings,
        dest=field.name,
        help=text,
        default=default,
        required=required,
        type=str if kind is str else _number(kind, limits.FLAGS.get(field.name, limits.ANY_FLAG)),
        metavar="TEXT" if kind is str else "N",
    )


def _without_none(kind: Any) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (kind,) = [part for part in typing.get_args(kind) if part is not types.NoneType]
    return kind


def _number(kind: type[int] | type[float], bounds: Range) -> Callable[[str], int | float]:
    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {word}, {bounds}, got {text[:40]!r}") from None
        if not bounds.holds(value):
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {text[:40]}")
        return value

    return read


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        known = [spelling for action in self._actions for spelling in action.option_strings]
        if message.startswith("unrecognized arguments: "):
            wrong = message.removeprefix("unrecognized arguments: ").split()[0]
            close = difflib.get_close_matches(wrong.split("=")[0], known, n=1)
            hint = f"; did you mean {close[0]}?" if close else "; --help lists all flags"
            message = f"unknown flag {wrong[:60]}{hint}"
        self.exit(2, f"{PROGRAM}: error: {' '.join(message.split())}\n")
