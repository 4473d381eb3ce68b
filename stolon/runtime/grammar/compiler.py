"""From constraints to compiled grammars, for one model: in children, with limits, once for each different constraint.

What a client wrote is taken apart and compiled by a child (child.py), which is killed when it passes a limit; here the
vocabulary is added to what came of it. Lists of choices that are short, and json_object, cost a known little and are
compiled without a child. Threads and children begin with the first constraint that needs them, or with `prepare`.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from threading import Lock

from ...lang.constraint import Constraint
from ...lang.errors import EngineClosedError, EngineError, InvalidRequest, OverloadedError
from ..tokenizer import Tokenizer
from .children import MAX_CHILDREN, ChildPool
from .compiled import CompiledGrammars
from .linter import MAX_BYTES
from .matcher import Grammar
from .prepare import Backend, prepare
from .vocabularies import Vocabularies

CACHE_BYTES = 256_000_000
LIMIT_S = 5.0  # of compiling one constraint, on the clock; child.py limits the CPU time, which ends most sooner
MAX_TEXT_BYTES = 4_000_000  # of one constraint; each kind has its own limit below this
MAX_WAITING = 256
_QUICK_BYTES = 16_384  # of choices that are compiled without a child

_Key = tuple[str, str, tuple[str, ...]]


@dataclass(slots=True)
class _Job:
    """A constraint that is being compiled, and all who wait for it."""

    constraint: Constraint
    waiting: list[Future[Grammar]] = field(default_factory=list[Future[Grammar]])


class GrammarCompiler:
    """Compiles the constraints of one model. Safe to use from several threads; `close` it.

    vocab_size: width of the model's logits; eos_ids: tokens that end an answer
    compact: whether JSON is written without white space
    cache_bytes: of compiled grammars, and refusals, that are kept
    limit_s: seconds on the clock that compiling one constraint may take
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_ids: frozenset[int],
        *,
        backend: Backend = "auto",
        compact: bool = False,
        cache_bytes: int = CACHE_BYTES,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._vocabularies = Vocabularies(tokenizer, vocab_size, eos_ids)
        self._backend: Backend = backend
        self._is_compact = compact
        self._limit_s = limit_s
        self._compiled = CompiledGrammars(cache_bytes)
        self._jobs: dict[_Key, _Job] = {}
        self._lock = Lock()
        self._is_closed = False
        self._children = ChildPool()
        self._slow = ThreadPoolExecutor(MAX_CHILDREN, "stolon-grammar")
        self._quick = ThreadPoolExecutor(1, "stolon-grammar-quick")

    def compile(self, constraint: Constraint) -> Future[Grammar]:
        """The grammar, in a future of its own: cancelling it harms no other caller.

        The future raises InvalidRequest for a constraint that cannot be had, and EngineClosedError after `close`.
        """
        future: Future[Grammar] = Future()
        try:
            key = _key(constraint)
        except InvalidRequest as error:
            return _settle(future, error)
        known = self._compiled.get(key)
        if known is not None:
            return _settle(future, known)
        with self._lock:
            if self._is_closed:
                return _settle(future, _closed())
            if (running := self._jobs.get(key)) is not None:
                running.waiting.append(future)
                return future
            if len(self._jobs) >= MAX_WAITING:
                return _settle(
                    future, OverloadedError(f"{MAX_WAITING} constraints are being compiled; send this one later")
                )
            self._jobs[key] = _Job(constraint, [future])
            threads = self._quick if _is_quick(constraint, self._backend) else self._slow
            threads.submit(self._run, key)
        return future

    def prepare(self) -> None:
        """Start what the first constraint would start, and do not wait for it."""
        with self._lock:
            if not self._is_closed:
                self._slow.submit(self._children.start_early)
                self._slow.submit(self._vocabularies.make)

    def close(self) -> None:
        """Kill the children and end the threads; what is not compiled yet fails with EngineClosedError."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._children.interrupt()
        self._slow.shutdown()
        self._quick.shutdown()
        self._children.close()

    def _run(self, key: _Key) -> None:
        """Compile what `key` stands for, unless nobody waits any more, and tell all who do."""
        with self._lock:
            job = self._jobs[key]
            if all(future.cancelled() for future in job.waiting):
                del self._jobs[key]
                return
        result = self._result(job.constraint)
        if not isinstance(result, Exception) or isinstance(result, InvalidRequest):
            self._compiled.put(key, sum(map(len, (key[1], *key[2]))), result)
        with self._lock:
            del self._jobs[key]
        for future in job.waiting:
            if future.set_running_or_notify_cancel():
                _settle(future, result)

    def _result(self, constraint: Constraint) -> Grammar | Exception:
        if self._is_closed:
            return _closed()
        try:
            if _is_quick(constraint, self._backend):
                prepared = prepare(constraint, self._backend, compact=self._is_compact)
            else:
                texts = self._vocabularies.texts() if self._backend == "outlines" else ()
                prepared = self._children.ask(constraint, self._backend, self._limit_s, texts, compact=self._is_compact)
            return self._vocabularies.grammar(prepared)
        except Exception as error:  # whatever it is, those who wait get it
            return _closed() if self._is_closed else error
        except BaseException as error:  # a panic of Rust is no Exception, and must not leave them waiting
            return EngineError(f"the grammar could not be compiled: {error}", code="grammar_compiler")


def _settle(future: Future[Grammar], result: Grammar | Exception) -> Future[Grammar]:
    if isinstance(result, Exception):
        # each caller gets an error of its own: a raised one collects the traceback of who raised it
        future.set_exception(copy(result))
    else:
        future.set_result(result)
    return future


def _closed() -> EngineClosedError:
    return EngineClosedError("the engine was shut down before the constraint was compiled")


def _is_quick(constraint: Constraint, backend: Backend) -> bool:
    """Whether compiling costs little, whatever the constraint says."""
    if backend != "auto":
        return False
    short = constraint.kind == "choices" and sum(map(len, constraint.choices)) <= _QUICK_BYTES
    return short or constraint.kind == "json_object"


def _key(constraint: Constraint) -> _Key:
    """Equal for constraints that say the same. Raises InvalidRequest for a text beyond all limits."""
    size = len(constraint.text) + sum(map(len, constraint.choices))
    if size > MAX_TEXT_BYTES:
        raise InvalidRequest(
            f"a constraint may have {MAX_TEXT_BYTES:,} characters, got {size:,}; shorten it",
            param=constraint.kind,
            code="grammar_too_complex",
        )
    return constraint.kind, _normalised(constraint), constraint.choices


def _normalised(constraint: Constraint) -> str:
    """The text without what means nothing: a schema's space. The order of its keys is the answer's, and stays."""
    if constraint.kind != "json_schema" or len(constraint.text) > MAX_BYTES:
        return constraint.text
    try:
        return json.dumps(json.loads(constraint.text), separators=(",", ":"))
    except (ValueError, RecursionError):  # the child says what is wrong with it
        return constraint.text
