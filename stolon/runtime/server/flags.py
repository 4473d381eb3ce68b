"""Command-line flags, made from the fields of the settings: name, type, default, help and further spellings."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NoReturn

from ...lang.errors import InvalidRequest
from .. import limits
from ..config import EngineConfig, SchedulerConfig
from .errors import HttpError
from .flags_file import ConfigFileError, arguments_of
from .flags_foreign import FOREIGN, Foreign
from .flags_objects import OBJECTS, ObjectFlagError, expanded
from .settings import ServerConfig
from .sharing import Sharing
from .template_variables import default_variables

PROGRAM = "stolon.launch_server"

# title, where the settings are, and which; what is not named in any of the later groups is in the first of its class
_GROUPS: tuple[tuple[str, type, str], ...] = (
    ("model", EngineConfig, ""),
    (
        "memory and speed",
        EngineConfig,
        "context_length kv_tokens kv_bytes kv_pages kv_cache_dtype memory_fraction threads quantization deterministic",
    ),
    ("graphs, on a GPU", EngineConfig, "cuda_graph cuda_graph_max_bs cuda_graph_seconds"),
    (
        "answers",
        EngineConfig,
        "random_seed grammar_backend constrained_json_whitespace_pattern jump_forward chat_template",
    ),
    ("embeddings", EngineConfig, "is_embedding pooling"),
    ("scheduling", SchedulerConfig, ""),
    (
        "speculation",
        SchedulerConfig,
        "speculative_algorithm speculative_num_draft_tokens speculative_rows",
    ),
    (
        "address and keys",
        ServerConfig,
        "host port api_key api_key_file admin_api_key insecure_no_auth ssl_certfile ssl_keyfile",
    ),
    ("pages of other origins", ServerConfig, "allowed_origins allowed_methods allowed_headers allow_credentials"),
    ("chat", ServerConfig, "tool_call_parser reasoning_parser allow_chat_template_kwargs default_chat_template_kwargs"),
    (
        "what requests leave open",
        ServerConfig,
        "sampling_defaults preferred_sampling_params allow_auto_truncate stream_interval",
    ),
    ("log and metrics", ServerConfig, "log_level log_requests log_requests_level metrics"),
    ("log and metrics", EngineConfig, "decode_log_interval"),
    ("time and size limits", ServerConfig, ""),
)


def parse(
    arguments: Sequence[str] | None = None, *, program: str = PROGRAM, no_model: str = ""
) -> tuple[ServerConfig, EngineConfig]:
    """The settings that the command line asks for. Exits with 2 and one line on stderr where it cannot be read.

    program: whose flags these are, for that line; no_model: what else than a model may be named, in words
    """
    parser = _Parser(
        prog=program,
        usage=f"python -m {program} [MODEL] [flags]",
        description="Serve a model under the OpenAI protocol and the native one.",
        formatter_class=_Help,
        allow_abbrev=False,  # a script must not break when a longer flag arrives
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="the same as --model-path")
    parser.add_argument("--config", metavar="FILE", help="YAML file of flags; the command line wins over it")
    groups = {title: parser.add_argument_group(title) for title, _, _ in _GROUPS}
    for title, config, _ in _GROUPS:
        for field, kind in _fields(config):
            if _group_of(config, field.name) == title:
                _add(groups[title].add_argument, field, kind)
    _add_foreign(parser)
    for name in OBJECTS:  # for a file, which may name what is known alone; they are gone before anything is read
        parser.add_argument(name, help=argparse.SUPPRESS)
    found = _read(parser, sys.argv[1:] if arguments is None else arguments, no_model)
    try:
        default_variables(found["default_chat_template_kwargs"])
    except HttpError as error:
        parser.error(error.message)
    scheduler = SchedulerConfig(**_of(SchedulerConfig, found))
    server = ServerConfig(**_of(ServerConfig, found))
    try:
        Sharing.of(server)
    except InvalidRequest as error:
        parser.error(str(error))
    return (
        server,
        EngineConfig(**_of(EngineConfig, found), scheduler=scheduler),
    )


def _read(parser: _Parser, arguments: Sequence[str], no_model: str) -> dict[str, Any]:
    arguments = _plain(parser, arguments)
    found = vars(parser.parse_args(arguments))
    if found["config"] is not None:
        try:
            from_file = arguments_of(found["config"], parser.spellings())
        except ConfigFileError as error:
            parser.error(str(error))
        parser.origin = f"in {found['config']}: "
        from_file = _plain(parser, from_file)
        parser.parse_args(from_file)  # so that what is wrong there is said of the file
        parser.origin = ""
        found = vars(parser.parse_args([*from_file, *arguments]))
    for note in sorted(found.get("foreign") or ()):
        print(f"{parser.prog}: note: without effect here: {note}", file=sys.stderr)
    positional, named = found.pop("model"), found["model_path"]
    if positional is not None and named not in (None, positional):
        parser.error(f"two models are named: {positional} and --model-path {named}")
    found["model_path"] = positional or named
    if found["model_path"] is None:
        several = any(isinstance(value, list) for value in found.values())
        hint = "; a flag that takes several words takes all that follow it" if several else ""
        parser.error(f"no model is named: give its folder as MODEL or --model-path, or `tiny`{no_model}{hint}")
    return found


def _plain(parser: _Parser, arguments: Sequence[str]) -> list[str]:
    """As argparse is to read them: with dashes, and without objects."""
    try:
        return list(expanded([_with_dashes(each) for each in arguments]))
    except ObjectFlagError as error:
        parser.error(str(error))


def _with_dashes(argument: str) -> str:
    """vLLM takes --max_model_len for --max-model-len."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument


def _group_of(config: type, name: str) -> str:
    titles = [(title, names.split()) for title, owner, names in _GROUPS if owner is config]
    named = [title for title, names in titles if name in names]
    return named[0] if named else next(title for title, names in titles if not names)


def _fields(config: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Fields that become flags, with their types."""
    kinds = typing.get_type_hints(config)
    return [(field, kinds[field.name]) for field in dataclasses.fields(config) if "help" in field.metadata]


def _of(config: type, found: dict[str, Any]) -> dict[str, Any]:
    values = {field.name: found[field.name] for field, _ in _fields(config)}
    return {
        name: tuple(typing.cast("list[str]", value)) if isinstance(value, list) else value
        for name, value in values.items()
    }


def _add(add: Callable[..., object], field: dataclasses.Field[Any], kind: Any) -> None:
    name = field.name.replace("_", "-")
    spellings = [f"--{name}", *field.metadata["also"]]
    default = None if field.default is dataclasses.MISSING else field.default
    said = " ".join(typing.cast("tuple[str, ...]", default)) if isinstance(default, tuple) else default
    shown = "" if said in (None, "") or kind is bool else f" (default: {said})"
    text = field.metadata["help"].replace("%", "%%") + shown
    if kind is bool:
        if default:
            spellings = [f"--no-{name}", f"--disable-{name}", *field.metadata["also"]]
            text = f"do not {text}"
        action = "store_false" if default else "store_true"
        add(*spellings, dest=field.name, help=text, default=default, action=action)
        return
    kind = limits.without_none(kind)
    if typing.get_origin(kind) is tuple:
        add(*spellings, dest=field.name, help=text, default=default, nargs="+", metavar="TEXT")
        return
    if typing.get_origin(kind) is typing.Literal:
        add(
            *spellings,
            dest=field.name,
            help=text,
            default=default,
            choices=typing.get_args(kind),
            type=_value_of(_SAME_VALUES.get(field.name, {})),
        )
        return
    add(
        *spellings,
        dest=field.name,
        help=text,
        default=default,
        type=str if kind is str else _number(kind, field.name),
        metavar="TEXT" if kind is str else "N",
    )


def _value_of(same: Mapping[str, str]) -> Callable[[str], str]:
    return lambda said: same.get(said, said)


def _add_foreign(parser: _Parser) -> None:
    """Flags of others that no setting of ours has taken."""
    taken = set(parser.spellings())
    for flag in FOREIGN:
        names = [name for name in flag.names if name not in taken]
        if names:
            parser.add_argument(
                *names,
                action=_ForeignAction,
                dest="foreign",
                nargs=None if flag.takes_value else 0,
                help=argparse.SUPPRESS,
                const=flag,
            )


class _ForeignAction(argparse.Action):
    """Says that a flag has no effect, or refuses it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flag: Foreign = self.const
        if flag.takes_value and values in flag.switches:
            setattr(namespace, flag.switches[values], True)
            return
        value = f" {values}"[:60] if flag.takes_value else ""
        if flag.allowed is not None and values not in flag.allowed:
            only = f"; only {', '.join(flag.allowed)} can be" if flag.allowed else ""
            parser.error(f"{option_string}{value} is not possible here{only}: {flag.says}")
        noted: set[str] = getattr(namespace, self.dest, None) or set()
        setattr(namespace, self.dest, {*noted, f"{option_string}: {flag.says}"})


# values that others call by another name
_SAME_VALUES = {
    "dtype": {"half": "float16", "float": "float32"},
    "kv_cache_dtype": {"fp8": "fp8_e4m3"},
    "grammar_backend": {"xgrammar": "auto", "native": "auto", "guidance": "llguidance"},
    "speculative_algorithm": {"NGRAM": "ngram"},
    "schedule_policy": {"priority": "fcfs"},  # priority comes before every policy
}
# values that leave a number open, as vLLM has them
_OPEN = {"context_length": ("auto", "-1")}
# as vLLM reads --max-model-len 32k and 25.6k
_UNITS = {letter: 1000**power for power, letter in enumerate("kmgt", 1)}
_BINARY_UNITS = {letter: 1024**power for power, letter in enumerate("KMGT", 1)}


def _number(kind: type[int] | type[float], name: str) -> Callable[[str], int | float | None]:
    bounds = limits.FLAGS.get(name, limits.ANY_FLAG)

    def read(text: str) -> int | float | None:
        if text in _OPEN.get(name, ()):
            return None
        try:
            value = _whole(text) if kind is int else kind(text)
        except (ValueError, ArithmeticError):
            word = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {word}, {bounds}, got {text[:40]!r}") from None
        if not bounds.holds(value):
            raise argparse.ArgumentTypeError(f"must be {bounds}, got {text[:40]}")
        return value

    return read


def _whole(text: str) -> int:
    """Raises ValueError or ArithmeticError for what is no whole number, perhaps with a unit."""
    if text[-1:] in _BINARY_UNITS:
        return int(text[:-1]) * _BINARY_UNITS[text[-1]]
    if text[-1:] in _UNITS:
        value = Decimal(text[:-1]) * _UNITS[text[-1]]
        if value != int(value):
            raise ValueError(text)
        return int(value)
    return int(text)


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """All spellings but those of an object's settings, and the value once."""
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = ", ".join(name for name in action.option_strings if "." not in name)
        if action.nargs == 0:
            return names
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line. origin: where the flags being read come from, for that line"""

    origin = ""

    def spellings(self) -> dict[str, argparse.Action]:
        """Every flag."""
        return {spelling: action for action in self._actions for spelling in action.option_strings}

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            wrong = message.removeprefix("unrecognized arguments: ").split()[0]
            close = difflib.get_close_matches(wrong.split("=")[0], list(self.spellings()), n=1)
            hint = f"; did you mean {close[0]}?" if close else "; --help lists all flags"
            message = f"unknown flag {wrong[:60]}{hint}"
        self.exit(2, f"{self.prog}: error: {self.origin}{' '.join(message.split())}\n")
