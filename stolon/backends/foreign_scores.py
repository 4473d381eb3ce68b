"""Log-probabilities of options from servers that have no route for it: SGLang's `/generate`, vLLM's completions.

The scored tokens are those after the longest token prefix that the prompt and all prompts with an option share, so
a token that spans the border counts to the option. Without the prompt, an option's first token counts 0, because
nothing stands before it that these servers could condition on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..lang.errors import BackendProtocolError, UnsupportedError
from ..lang.types import Score
from .exchange import Exchange
from .jsonvalue import Json, as_list, as_object

# (log-probability, None where nothing stands before it; token: its id, or its text where the server tells no ids)
Row = tuple[float | None, int | str]
Asked = tuple[str, Json]  # path and body

# how far before the end of the prompt the tokens of two prompts with the same text may begin to differ
_MERGE_SLACK = 8


async def score_by_generate(
    exchange: Exchange, prompt: str, options: Sequence[str], *, unconditional: bool
) -> list[Score]:
    """Over SGLang's `/generate`. The first request computes the prompt once for all."""
    head = await _generate(exchange, {"text": [prompt], "logprob_start_len": -1})
    length = _meta(head[0]).get("prompt_tokens")
    if not isinstance(length, int):
        raise BackendProtocolError(f"the server does not count the prompt's tokens: {str(head[0])[:200]}")
    texts = [prompt, *(prompt + option for option in options)]
    start = max(length - _MERGE_SLACK, 0)
    rows = await _input_rows(exchange, {"text": texts, "logprob_start_len": start})
    if start and shared_length(rows) == 0:
        rows = await _input_rows(exchange, {"text": texts, "logprob_start_len": 0})
    scores = scores_of(rows)
    if not unconditional:
        return scores
    filled = [score for score in scores if score.tokens]
    alone: dict[tuple[int, ...], list[Row]] = {}
    if filled:
        ids = [list(score.tokens) for score in filled]
        found = await _input_rows(exchange, {"input_ids": ids, "logprob_start_len": 0})
        alone = {score.tokens: row for score, row in zip(filled, found, strict=True)}
    return [
        Score(score.tokens, score.logprobs, tuple(logprob or 0.0 for logprob, _ in alone.get(score.tokens, ())))
        for score in scores
    ]


async def _generate(exchange: Exchange, fields: Json) -> list[Any]:
    sampling = {"max_new_tokens": 0, "temperature": 0}
    answers = as_list(await exchange.request("POST", "/generate", {**fields, "sampling_params": sampling}))
    if not answers:
        raise BackendProtocolError("the server does not answer a list of prompts with a list")
    return answers


async def _input_rows(exchange: Exchange, fields: Json) -> list[list[Row]]:
    asked = len(fields.get("text") or fields["input_ids"])
    answers = await _generate(exchange, {**fields, "return_logprob": True})
    if len(answers) != asked:
        raise BackendProtocolError(f"{asked} prompts were sent, {len(answers)} answers came")
    try:
        return [[(row[0], int(row[1])) for row in _meta(answer)["input_token_logprobs"]] for answer in answers]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BackendProtocolError(f"the server's log-probabilities make no sense: {str(answers)[:200]}") from error


def _meta(answer: object) -> Json:
    return as_object((as_object(answer) or {}).get("meta_info")) or {}


async def score_by_prompt_logprobs(exchange: Exchange, asked: Sequence[Asked], *, unconditional: bool) -> list[Score]:
    """Over vLLM's `prompt_logprobs`; `asked` are the prompt and the prompts with each option, as requests."""
    fields = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    return scores_of([_prompt_rows(answer) for answer in await _all(exchange, asked, fields, unconditional)])


async def score_by_echo(exchange: Exchange, asked: Sequence[Asked], *, unconditional: bool) -> list[Score]:
    """Over the completion route of other servers, which can echo a prompt with its log-probabilities."""
    fields = {"max_tokens": 0, "temperature": 0, "echo": True, "logprobs": 1}
    return scores_of([_echoed_rows(answer) for answer in await _all(exchange, asked, fields, unconditional)])


async def _all(exchange: Exchange, asked: Sequence[Asked], fields: Json, unconditional: bool) -> list[object]:
    if unconditional:
        raise UnsupportedError(
            "this server cannot score options without their prompt; use another choices_method", param="choices_method"
        )
    return await asyncio.gather(*(exchange.request("POST", path, {**body, **fields}) for path, body in asked))


def _echoed_rows(answer: object) -> list[Row]:
    logprobs = as_object(_first_choice(answer).get("logprobs")) or {}
    tokens, values = as_list(logprobs.get("tokens")), as_list(logprobs.get("token_logprobs"))
    if not tokens or not values or len(tokens) != len(values):
        raise BackendProtocolError("the server does not echo the prompt's log-probabilities; name its dialect")
    return list(zip(values, tokens, strict=True))


def _first_choice(answer: object) -> Json:
    choices = as_list((as_object(answer) or {}).get("choices")) or [None]
    return as_object(choices[0]) or {}


def _prompt_rows(answer: object) -> list[Row]:
    # chats have it beside the choices, completions inside them
    beside = as_list((as_object(answer) or {}).get("prompt_logprobs"))
    positions = beside or as_list(_first_choice(answer).get("prompt_logprobs"))
    if positions is None:
        raise BackendProtocolError("the server's answer has no prompt_logprobs; does it speak vLLM's dialect?")
    try:
        # the first position has no entry, hence no id; as every prompt begins with it, any id will do
        return [(None, -1) if position is None else _only(position) for position in positions]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BackendProtocolError(f"the prompt_logprobs make no sense: {str(positions)[:200]}") from error


def _only(position: Json) -> Row:
    ((token, entry),) = position.items()
    return float(entry["logprob"]), int(token)


def shared_length(rows: Sequence[Sequence[Row]]) -> int:
    """How many leading tokens all rows share."""
    shared = 0
    for column in zip(*rows, strict=False):
        if len({token for _, token in column}) > 1:
            break
        shared += 1
    return shared


def scores_of(rows: Sequence[Sequence[Row]]) -> list[Score]:
    """`rows`: of the prompt itself first, then of the prompt with each option."""
    shared = shared_length(rows)
    scored = [row[shared:] for row in rows[1:]]
    known = [[(logprob, token) for logprob, token in row if logprob is not None] for row in scored]
    if any(len(found) < len(row) for found, row in zip(known, scored, strict=True)):
        raise UnsupportedError(
            "this server cannot score the very first token of a prompt; begin the prompt with some text",
            param="choices",
        )
    return [
        Score(tuple(token if isinstance(token, int) else -1 for _, token in row), tuple(logprob for logprob, _ in row))
        for row in known
    ]
