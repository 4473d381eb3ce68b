"""The one place where a chat template runs, in a sandbox. Nothing else in the package imports jinja2."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ..lang.errors import ChatTemplateError
from .chat_sandbox import (
    Deadline,
    bounded_filters,
    check_method,
    check_operator,
    check_size,
)

RENDER_SECONDS = 5.0
PROBE_CPU_SECONDS = 1.0
_PROBE_BYTES = 2 * 1024**3
_PROBE_START_SECONDS = 60  # for the interpreter to start, on a busy machine

_USER = {"role": "user", "content": "What is the sum of 1 and 2?"}
_PROBES: list[list[dict[str, str]]] = [
    [_USER],
    [{"role": "system", "content": "Be brief."}, _USER],
    [_USER, {"role": "assistant", "content": "3"}, {"role": "user", "content": "And of 3 and 4?"}],
    [{"role": "user", "content": "word " * 2000}],
]


class ChatRenderer:
    """A compiled chat template. Raises ChatTemplateError if `source` is no valid template."""

    def __init__(self, source: str) -> None:
        environment = _Sandbox()
        try:
            parsed = environment.parse(source)
            self.variables = frozenset(find_undeclared_variables(parsed))
            tree = _Meter().visit(parsed)
            self._template = environment.from_string(tree)
        except Exception as error:  # a template can make the compiler fail in any way, RecursionError among them
            raise ChatTemplateError(f"the chat template cannot be compiled: {_reason(error)}") from error
        self._environment = environment

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        named_tokens: Mapping[str, str],
    ) -> str:
        """The conversation as the model reads it. Raises ChatTemplateError with the template's own words."""
        variables = {
            **named_tokens,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        chunks: list[str] = []
        size = 0
        try:
            with self._environment.limited():
                for chunk in self._template.generate(variables):
                    size += len(chunk)
                    check_size(size)
                    chunks.append(chunk)
        except Exception as error:  # a template can fail in any way: TypeError, OverflowError, MemoryError, ...
            raise ChatTemplateError(f"the chat template refuses these messages: {_reason(error)}") from error
        return "".join(chunks)


def probe(source: str, named_tokens: Mapping[str, str]) -> None:
    """Render a few conversations in a child process that is killed if the template takes too long or too much.

    Raises ChatTemplateError if it was killed, or if the template refuses every one of them.
    """
    script = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve_probe; serve_probe()"
    request = json.dumps({"source": source, "named_tokens": dict(named_tokens)})
    try:
        # safe: our own interpreter and our own code; the template goes in as data
        done = subprocess.run(
            [sys.executable, "-I", "-c", script],
            input=request,
            capture_output=True,
            encoding="utf-8",
            timeout=_PROBE_START_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ChatTemplateError(f"the chat template did not render in {_PROBE_START_SECONDS} s") from error
    if done.returncode == -signal.SIGPROF:
        raise ChatTemplateError(f"the chat template takes more than {PROBE_CPU_SECONDS:g} s for a short conversation")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ChatTemplateError(f"the chat template cannot be tried out: {lines[-1][:300]}")
    if done.stdout:
        raise ChatTemplateError(done.stdout)


def serve_probe() -> None:
    """What the child does: print why the template is not usable, or nothing."""
    resource.setrlimit(resource.RLIMIT_AS, (_PROBE_BYTES, _PROBE_BYTES))
    request = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_PROF, PROBE_CPU_SECONDS)  # the signal's default action ends the process
    refusals: list[str] = []
    try:
        renderer = ChatRenderer(request["source"])
        for messages in _PROBES:
            try:
                renderer.render(messages, tools=None, add_generation_prompt=True, named_tokens=request["named_tokens"])
            except ChatTemplateError as error:
                refusals.append(str(error))
    except ChatTemplateError as error:
        refusals = [str(error)] * len(_PROBES)
    if len(refusals) == len(_PROBES):
        sys.stdout.write(refusals[0])


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with what Hugging Face's templates expect in it, and with bounds on time and size."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self._running = threading.local()
        filters: dict[str, Any] = vars(self)["filters"]
        filters["tojson"] = _tojson
        filters.update(bounded_filters(filters))
        names: dict[str, Any] = vars(self)["globals"]
        del names["lipsum"]
        names.update(raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace)

    def limited(self) -> _Limited:
        """A block in which templates may run, in this thread, until its deadline."""
        return _Limited(self._running)

    def tick(self) -> None:
        """Called at each turn of each loop."""
        deadline: Deadline | None = getattr(self._running, "deadline", None)
        if deadline is not None:
            deadline.check()

    def joined(self, *parts: Any) -> str:
        """What `~` does."""
        texts = [str(part) for part in parts]
        check_size(sum(map(len, texts)))
        return "".join(texts)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # the odd names are jinja's: a template's own named argument may be called `self`
        __self.tick()
        check_method(__obj, args)
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)


class _Limited:
    def __init__(self, running: threading.local) -> None:
        self._running = running

    def __enter__(self) -> None:
        self._running.deadline = Deadline(RENDER_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._running.deadline = None


class _Meter(NodeTransformer):
    """Puts a check into every loop, and our own joining in place of `~`, which the sandbox cannot intercept."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [], node.lineno), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes, node.lineno)


def _call(name: str, args: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name, lineno=line), args, [], None, None, lineno=line)


class _GenerationTag(Extension):
    """`{% generation %}` marks what a model wrote, for training; here it is only its content."""

    tags = {"generation"}  # noqa: RUF012  (so declared by the parent)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Namespace(Namespace):
    """Jinja's namespace, without names that could reach into Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace cannot hold {name!r}")
        super().__setitem__(name, value)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__)[:1000]
