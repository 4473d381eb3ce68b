"""`/generate`, `/score` and their neighbours: the native routes of SGLang's server and of stolon's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ..lang.backend import GenerateRequest
from ..lang.errors import BackendProtocolError, UnsupportedError
from ..lang.prompt import Prompt
from ..lang.types import Delta, Score
from .deadline import Deadline
from .dialects import NATIVE, copied_params, unsupported
from .exchange import Exchange
from .foreign_scores import score_by_generate
from .jsonvalue import Json, as_list, as_object
from .native_answers import NativeReader
from .turns import turns_of
from .wire_forms import native_fields


class NativeProtocol:
    """is_stolon: the server also takes messages, sends increments, holds stop strings back and has `/score`"""

    def __init__(self, exchange: Exchange, *, is_stolon: bool) -> None:
        self.exchange = exchange
        self._is_stolon = is_stolon

    def body(self, request: GenerateRequest) -> Json:
        """Raises UnsupportedError for what `/generate` cannot say."""
        params = request.params
        refused = unsupported(params, NATIVE.params)
        if refused:
            raise UnsupportedError(f"/generate has no {', '.join(refused)}; leave it out", param=refused[0])
        sampling = copied_params(params, NATIVE.names, NATIVE.always) | {"max_new_tokens": params.max_tokens}
        if params.logit_bias:
            sampling["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
        if request.constraint is not None:
            sampling |= native_fields(request.constraint)
        body: Json = {**self.prompt_fields(request.prompt), "sampling_params": sampling, "stream": True}
        if self._is_stolon:
            body["incremental"] = True
        if request.priority:
            body["priority"] = request.priority
        if params.logprobs is not None or params.prompt_logprobs is not None:
            body |= {"return_logprob": True, "return_text_in_logprobs": True}
            body["top_logprobs_num"] = max(params.logprobs or 0, params.prompt_logprobs or 0)
            body["logprob_start_len"] = -1 if params.prompt_logprobs is None else params.logprob_start
            if params.logprob_token_ids:
                body["token_ids_logprob"] = list(params.logprob_token_ids)
        return body

    def prompt_fields(self, prompt: Prompt) -> Json:
        if not prompt.has_roles():
            return {"text": prompt.text()}
        if not self._is_stolon:
            raise UnsupportedError("this server's native routes know no roles; write plain text")
        turns = turns_of(prompt, continues=True)
        continued: Json = {"continue_final_message": True} if turns.continued else {}
        return {"messages": turns.messages, **continued}

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        body = self.body(request)
        params = request.params
        held_stops = () if self._is_stolon or params.include_stop else params.stop

        async def attempt(deadline: Deadline) -> AsyncGenerator[Delta, None]:
            events = self.exchange.events("/generate", body, deadline)
            async with aclosing(events), aclosing(NativeReader(params.n, held_stops).read(events)) as deltas:
                async for delta in deltas:
                    yield delta

        async with aclosing(self.exchange.answer(attempt, request.timeout_s)) as deltas:
            async for delta in deltas:
                yield delta

    async def prefill(self, prompt: Prompt) -> None:
        sampling = {"max_new_tokens": 0, "temperature": 0}
        await self.exchange.request("POST", "/generate", {**self.prompt_fields(prompt), "sampling_params": sampling})

    async def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool) -> list[Score]:
        if not self._is_stolon:
            return await score_by_generate(self.exchange, prompt.text(), options, unconditional=unconditional)
        body: Json = {**self.prompt_fields(prompt), "options": list(options), "unconditional": unconditional}
        answer = await self.exchange.request("POST", "/score", body)
        rows = as_list((as_object(answer) or {}).get("scores"))
        if rows is None or len(rows) != len(options):
            raise BackendProtocolError(f"{len(options)} scores were asked for, got {str(answer)[:200]}")
        return [_score(row) for row in rows]


def _score(row: object) -> Score:
    fields = as_object(row) or {}
    try:
        tokens = tuple(int(token) for token in fields["tokens"])
        logprobs = tuple(float(value) for value in fields["logprobs"])
        alone = fields.get("unconditional")
        unconditional = None if alone is None else tuple(float(value) for value in alone)
    except (KeyError, TypeError, ValueError) as error:
        raise BackendProtocolError(f"a score makes no sense: {str(row)[:200]}") from error
    if len(tokens) != len(logprobs):
        raise BackendProtocolError(f"a score has {len(tokens)} tokens and {len(logprobs)} log-probabilities")
    return Score(tokens, logprobs, unconditional)
