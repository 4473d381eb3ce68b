"""An engine without a model, for tests of the server alone.

Tokens are bytes; BOS starts a text, TURN a message, END ends an answer. The answer to a prompt is the prompt's text
backwards, so a test can work out what must come back.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stolon.lang.constraint import Constraint
from stolon.lang.errors import ChatTemplateError, EngineClosedError
from stolon.lang.types import Delta, SamplingParams, TokenLogprob, Usage
from stolon.runtime.endings import Endings
from stolon.runtime.view import NodeView, RequestView, View

BOS, TURN, END = 256, 257, 258
VOCAB = 259


class ByteTokenizer:
    special_ids = frozenset({BOS, TURN, END})

    def __init__(self, *, bos: bool) -> None:
        self.bos_token_id = BOS if bos else None

    def require(self, what: str) -> None: ...

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return [BOS] * (bos and self.bos_token_id is not None) + list(text.encode())

    def encode_scaffold(self, text: str) -> list[int]:
        return self.encode(text, bos=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        kept = [id for id in ids if id < BOS or not skip_special_tokens]
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < BOS else (b"<s>", b"<turn>", b"<end>")[id - BOS]

    def token_text(self, id: int) -> str:
        return self.token_bytes(id).decode(errors="replace")


class Turns:
    """`role: content` after a TURN for each message; tools, variables and calls as JSON.

    A conversation with "forbidden" in it is refused, as templates refuse what they do not like.
    """

    def __init__(self, source: str = '<tool_call>{"name"', *, takes_tools: bool = True, opening: str = "") -> None:
        """opening: what the start of an answer has after its role"""
        self.source = source
        self.takes_tools = takes_tools
        self._opening = opening

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final: bool = False,
        start_answer: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        ids = [BOS]
        for name, extra in (("tools", tools), ("variables", variables)):
            if extra:
                ids += [TURN, *f"{name}: {json.dumps(extra)}".encode()]
        for message in messages:
            text = f"{message['role']}: {message.get('content', '')}"
            if "forbidden" in text:
                raise ChatTemplateError("the template says: not here")
            more = {key: value for key, value in message.items() if key not in ("role", "content")}
            ids += [TURN, *(text + (json.dumps(more) if more else "")).encode()]
        return ids if continue_final or not start_answer else [*ids, TURN, *f"assistant: {self._opening}".encode()]


@dataclass
class Beat:
    alive: bool = True
    steps: int = 0
    at_s: float = field(default_factory=time.monotonic)
    busy: bool = False


@dataclass(frozen=True)
class Asked:
    """What a request brought to the engine."""

    prompt: list[int]
    params: SamplingParams
    salt: str
    priority: int
    timeout_s: float | None
    constraint: Constraint | None = None


class FakeEngine:
    """pace_s: time for each token

    running, aborted: requests that have begun, and that were closed before their end; asked: all that came
    script: what every answer says, in Latin letters, instead of the prompt's text backwards
    fail_at: token at which a request fails with `failure`; hold: cleared, no token comes
    """

    model_name = "fake"
    other_names: Sequence[str] = ()
    path: str | None = None
    vocab_size = VOCAB
    memory_report = "memory: none"

    def __init__(self, *, context_length: int = 4096, pace_s: float = 0.0, chat: bool = True, bos: bool = True) -> None:
        self.tokenizer = ByteTokenizer(bos=bos)
        self.chat: Turns | None = Turns() if chat else None
        self.sampling_defaults: dict[str, float] = {}
        self.context_length = context_length
        self.pace_s = pace_s
        self.heartbeat = Beat()
        self.running = 0
        self.aborted = 0
        self.asked: list[Asked] = []
        self.fail_at: int | None = None
        self.failure: Exception = ValueError("a fault at /home/someone/secret.py, object 0xdeadbeef")
        self.script: str | None = None
        self.hold = asyncio.Event()
        self.hold.set()
        self._is_closed = False
        self.endings = Endings()

    def abort(self, rid: str | None) -> int:
        return self.endings.ask(rid)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        constraint: Constraint | None = None,
        salt: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        rid: str = "",
    ) -> AsyncGenerator[Delta, None]:
        self.asked.append(Asked(list(prompt_ids), params, salt, priority, timeout_s, constraint))
        self.running += 1
        has_ended = False
        try:
            said = list(reversed(self.tokenizer.decode(prompt_ids).encode())) or [ord("?")]
            if self.script is not None:
                said = list(self.script.encode("latin-1"))
            with self.endings.under(rid) as ending:
                ends: list[bool] = []
                ending.by(lambda: ends.append(True))
                for place in range(params.max_tokens or 1):
                    for index in range(params.n):
                        await self._step(place)
                        yield self._delta(place, index, said, params, prompt_ids)
                    if self._ends(place, said, params):
                        break
                    if ends:
                        for index in range(params.n):
                            yield Delta("", [], index, finish="abort")
                        break
            has_ended = True
        finally:
            self.running -= 1
            self.aborted += not has_ended

    async def _step(self, place: int) -> None:
        self.heartbeat.steps += 1
        if place == self.fail_at:
            raise self.failure
        await self.hold.wait()
        if self.pace_s:
            await asyncio.sleep(self.pace_s)
        if self._is_closed:
            raise EngineClosedError("the engine was closed before this request ended")

    def _ends(self, place: int, said: list[int], params: SamplingParams) -> bool:
        return place == len(said) and not params.ignore_eos

    def _delta(self, place: int, index: int, said: list[int], params: SamplingParams, prompt: Sequence[int]) -> Delta:
        if params.max_tokens == 0:
            delta = Delta("", [], index, finish="length")
        elif self._ends(place, said, params):
            delta = Delta("", [END], index, finish="stop", matched=END)
        else:
            token = said[place % len(said)]
            delta = Delta(chr(token), [token], index, finish="length" if place + 1 == params.max_tokens else None)
        if params.logprobs is not None:
            delta.logprobs = [self.logprob(token, params) for token in delta.tokens]
        if params.prompt_logprobs is not None and place == index == 0:
            entries = [self.logprob(token, params) for token in prompt[params.logprob_start :]]
            delta.prompt_logprobs = [None, *entries[1:]] if params.logprob_start == 0 else [*entries]
        if delta.finish is not None and index == params.n - 1:
            made = min(place + 1, params.max_tokens) * params.n
            delta.usage = Usage(prompt_tokens=len(prompt), cached_tokens=1, completion_tokens=made, requests=1)
        return delta

    def logprob(self, token: int, params: SamplingParams) -> TokenLogprob:
        """A token is the likelier the smaller it is; of the ranked ones, the fourth is impossible."""
        count = max(params.logprobs or 0, params.prompt_logprobs or 0)
        top = [(token, -token / 100), *(((token + i) % VOCAB, -9.0 - i) for i in range(1, count))]
        if count > 3:
            top[3] = (top[3][0], float("-inf"))
        extra = tuple((id, -id / 100) for id in params.logprob_token_ids)
        return TokenLogprob(token, -token / 100, self.tokenizer.token_text(token), tuple(top[:count]), extra)

    async def score(
        self, token_lists: Sequence[Sequence[int]], start: int, *, salt: str = "", timeout_s: float | None = None
    ) -> list[tuple[float, ...]]:
        return [tuple(-token / 100 for token in tokens[start:]) for tokens in token_lists]

    def room(self, prompt_length: int) -> int:
        return self.context_length - prompt_length

    async def flush_cache(self) -> bool:
        return self.running == 0

    async def view(self, nodes: int, requests: int, first: int = 0) -> View:
        """A prefix with two continuations, and one request."""
        runs = [(1, 0, 5, b"Hello"), (2, 1, 6, b" world"), (3, 1, 6, b" there")]
        return View(
            [
                NodeView(id, up, size, 5 if up == 0 else 11, 0, 0, id, 0, (*text,)[:first])
                for id, up, size, text in runs
            ],
            [RequestView(7, "running", 11, 11, 3, 16, 5, 0, 0)],
        )

    def stats(self) -> dict[str, object]:
        counters = {"prompt": 11, "cached": 5, "generated": 3, "computed": 8}
        kv = {"kv_total": 100, "kv_free": 80, "kv_cached": 17, "kv_pinned": 0, "kv_evictable": 17, "kv_evicted": 0}
        return {"running": self.running, "waiting": 0, **counters, **kv}

    async def close(self, drain_s: float = 0) -> None:
        self._is_closed = True
        self.hold.set()
