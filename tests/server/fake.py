"""An engine without a model: it says what the prompt tells it to say, byte by byte, at once or at a pace.

Tokens are bytes; 256 starts a text, 257 starts a message, 258 ends an answer. The answer to a prompt repeats the
prompt's own text backwards, so that every test can work out what must come back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from stolon.lang.errors import ChatTemplateError, StolonError
from stolon.lang.types import Delta, SamplingParams, TokenLogprob, Usage

BOS, TURN, END = 256, 257, 258
VOCAB = 259


class ByteTokenizer:
    bos_token_id = BOS

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return [BOS] * bos + list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return b"".join(self.token_bytes(id) for id in ids if id < BOS or not skip_special_tokens).decode(
            errors="replace"
        )

    def token_bytes(self, id: int) -> bytes:
        return bytes([id]) if id < BOS else (b"<s>", b"<turn>", b"<end>")[id - BOS]

    def token_text(self, id: int) -> str:
        return self.token_bytes(id).decode(errors="replace")


class Turns:
    """role: content, each after a TURN; a role named `tool` is refused, as some templates do."""

    def encode(self, messages: Sequence[Mapping[str, str]], *, continue_final: bool = False) -> list[int]:
        ids = [BOS]
        for message in messages:
            if message["role"] == "tool":
                raise ChatTemplateError("this template knows no tools")
            ids += [TURN, *f"{message['role']}: {message['content']}".encode()]
        return ids if continue_final else [*ids, TURN, *b"assistant: "]


@dataclass
class Beat:
    alive: bool = True
    steps: int = 0
    at_s: float = field(default_factory=time.monotonic)
    busy: bool = False


class FakeEngine:
    """pace_s: time for each token; running: requests that have begun and not ended; asked: all that ever came

    fail_at: token count at which a request fails with `failure`; hold: an answer waits there until it is set
    """

    model_name = "fake"
    vocab_size = VOCAB

    def __init__(self, *, context_length: int = 4096, pace_s: float = 0.0, chat: bool = True) -> None:
        self.tokenizer = ByteTokenizer()
        self.chat = Turns() if chat else None
        self.context_length = context_length
        self.pace_s = pace_s
        self.heartbeat = Beat()
        self.running = 0
        self.aborted = 0
        self.asked: list[tuple[list[int], SamplingParams, str, int, float | None]] = []
        self.fail_at: int | None = None
        self.failure: StolonError | Exception = ValueError("a fault of ours at /home/someone/secret.py")
        self.hold = asyncio.Event()
        self.hold.set()
        self.closed: StolonError | None = None
        self.max_running: int | None = None
        self.overflow: StolonError | None = None
        self._halt = asyncio.Event()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        salt: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Delta, None]:
        self.asked.append((list(prompt_ids), params, salt, priority, timeout_s))
        if self.overflow is not None:
            raise self.overflow
        self.running += 1
        ended = False
        try:
            said = list(reversed(self.tokenizer.decode(prompt_ids).encode())) or [ord("?")]
            made = 0
            for place in range(max(params.max_tokens, 1)):
                for index in range(params.n):
                    if made == self.fail_at:
                        raise self.failure
                    if self.closed is not None:
                        raise self.closed
                    await self._wait()
                    made += 1
                    yield self._delta(place, index, said, params, prompt_ids)
                if place + 1 == params.max_tokens or (place == len(said) and not params.ignore_eos):
                    break
            ended = True
        finally:
            self.running -= 1
            self.aborted += not ended

    async def _wait(self) -> None:
        self.heartbeat.steps += 1
        await self.hold.wait()
        if self.pace_s:
            await asyncio.sleep(self.pace_s)
        if self.closed is not None:
            raise self.closed

    def _delta(self, place: int, index: int, said: list[int], params: SamplingParams, prompt: Sequence[int]) -> Delta:
        ends = place == len(said) and not params.ignore_eos
        last = ends or place + 1 >= params.max_tokens
        token = END if ends else said[place % len(said)]
        if params.max_tokens == 0:
            delta = Delta("", [], index, finish="length")
        else:
            delta = Delta(
                "" if ends else chr(token), [token], index, finish=("stop" if ends else "length") if last else None
            )
        if ends:
            delta.matched = END
        if params.logprobs is not None and delta.tokens:
            delta.logprobs = [self._logprob(token, params.logprobs)]
        if params.prompt_logprobs is not None and place == 0 and index == 0:
            entries = [self._logprob(token, params.prompt_logprobs) for token in prompt[params.logprob_start :]]
            delta.prompt_logprobs = [None, *entries[1:]] if params.logprob_start == 0 else list(entries)
        if last and index == params.n - 1:
            made = 0 if params.max_tokens == 0 else place + 1
            delta.usage = Usage(prompt_tokens=len(prompt), completion_tokens=made * params.n, requests=1)
        return delta

    def _logprob(self, token: int, top: int) -> TokenLogprob:
        """The token itself is certain to one half; the next ids follow; the last of many is impossible."""
        ranked = [(token, -0.5), *(((token + i) % VOCAB, -1.0 - i) for i in range(1, max(top, 1)))]
        if top > 3:
            ranked[-1] = (ranked[-1][0], float("-inf"))
        return TokenLogprob(token, -0.5, self.tokenizer.token_text(token), tuple(ranked[:top]))

    async def score(
        self, token_lists: Sequence[Sequence[int]], start: int, *, salt: str = "", timeout_s: float | None = None
    ) -> list[tuple[float, ...]]:
        return [tuple(-token / 100 for token in tokens[start:]) for tokens in token_lists]

    def room(self, prompt_length: int) -> int:
        return self.context_length - prompt_length

    async def flush_cache(self) -> bool:
        return self.running == 0

    def stats(self) -> dict[str, object]:
        return {"running": self.running}

    async def close(self, drain_s: float = 0) -> None:
        from stolon.lang.errors import EngineClosedError

        self.closed = EngineClosedError("the engine was closed before this request ended")
        self.hold.set()
