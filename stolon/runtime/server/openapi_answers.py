"""What the routes answer, as JSON schema. A test holds what the server really says against it."""

from __future__ import annotations

from dataclasses import dataclass

from .body import JsonObject

_TEXT: JsonObject = {"type": "string"}
_COUNT: JsonObject = {"type": "integer", "minimum": 0}
_NUMBER: JsonObject = {"type": "number"}
_BOOLEAN: JsonObject = {"type": "boolean"}
_ANY: JsonObject = {}
_OBJECT: JsonObject = {"type": "object"}


def _list(each: JsonObject) -> JsonObject:
    return {"type": "array", "items": each}


def _maybe(schema: JsonObject) -> JsonObject:
    return {"anyOf": [schema, {"type": "null"}]}


def _closed(optional: str = "", **fields: JsonObject) -> JsonObject:
    """An object with these fields and no others; all are there but the optional ones."""
    left_out = optional.split()
    required = [name for name in fields if name not in left_out]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def _one(value: str) -> JsonObject:
    return {"type": "string", "const": value}


ERROR = _closed(error=_closed(message=_TEXT, type=_TEXT, param=_maybe(_TEXT), code=_maybe(_TEXT)))

_USAGE: JsonObject = {"type": "object", "required": ["prompt_tokens", "total_tokens"]}
_FINISH = _maybe({"type": "string", "enum": ["stop", "length", "tool_calls", "function_call", "abort", "error"]})
_MATCHED = _maybe({"type": ["string", "integer"]})
_CALL = _closed(id=_TEXT, type=_one("function"), function=_closed(name=_TEXT, arguments=_TEXT))
_MESSAGE = _closed(
    "reasoning_content tool_calls function_call refusal",
    role=_one("assistant"),
    content=_maybe(_TEXT),
    refusal=_maybe(_TEXT),
    reasoning_content=_TEXT,
    tool_calls=_list(_CALL),
    function_call=_closed(name=_TEXT, arguments=_TEXT),
)
_IDS = _list(_COUNT)
_CHAT_CHOICE = _closed(
    "token_ids",
    token_ids=_IDS,
    index=_COUNT,
    message=_MESSAGE,
    logprobs=_maybe(_OBJECT),
    finish_reason=_FINISH,
    matched_stop=_MATCHED,
)
_OF_PROMPT = {"prompt_token_ids": _IDS, "prompt_logprobs": _list(_maybe(_OBJECT))}
_TEXT_CHOICE = _closed(
    "token_ids prompt_token_ids prompt_logprobs",
    token_ids=_IDS,
    **_OF_PROMPT,
    index=_COUNT,
    text=_TEXT,
    logprobs=_maybe(_OBJECT),
    finish_reason=_FINISH,
    matched_stop=_MATCHED,
)


def _completion(kind: str, choice: JsonObject, **optional: JsonObject) -> JsonObject:
    return _closed(
        " ".join(optional),
        **optional,
        id=_TEXT,
        object=_one(kind),
        created=_COUNT,
        model=_TEXT,
        choices=_list(choice),
        usage=_USAGE,
    )


_GENERATED: JsonObject = {"type": "object", "required": ["text", "output_ids", "meta_info"]}
_MODEL = _closed(
    id=_TEXT,
    object=_one("model"),
    created=_COUNT,
    owned_by=_TEXT,
    root=_TEXT,
    parent=_maybe(_TEXT),
    max_model_len=_COUNT,
)
_EMBEDDING = _closed(object=_one("embedding"), index=_COUNT, embedding={"anyOf": [_list(_NUMBER), {"type": "string"}]})
_RANKED = _closed("document", index=_COUNT, relevance_score=_NUMBER, document=_closed(text=_TEXT))
_SCORE = _closed(index=_COUNT, object=_one("score"), score=_NUMBER)
_OPTION = _closed(tokens=_list(_COUNT), logprobs=_list(_NUMBER), unconditional=_maybe(_list(_NUMBER)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """summary: one line; answer: of status 200; kind: its content type; streams: it may come as events instead"""

    summary: str
    answer: JsonObject
    kind: str = "application/json"
    streams: bool = False


_TOKENIZED: JsonObject = {
    "anyOf": [
        _closed("token_strs", tokens=tokens, count=count, max_model_len=_COUNT, token_strs=texts)
        for tokens, count, texts in (
            (_list(_COUNT), _COUNT, _list(_TEXT)),
            (_list(_list(_COUNT)), _list(_COUNT), _list(_list(_TEXT))),
        )
    ]
}
_DETOKENIZED: JsonObject = {"anyOf": [_closed(text=text, prompt=text) for text in (_TEXT, _list(_TEXT))]}
_RERANKED = _closed(id=_TEXT, model=_TEXT, results=_list(_RANKED), usage=_USAGE)
_RERANK = Operation(summary="Which of several documents fit a query best", answer=_RERANKED)
_TOKENIZE = Operation(summary="Tokens of a text or a conversation", answer=_TOKENIZED)
_DETOKENIZE = Operation(summary="The text of tokens", answer=_DETOKENIZED)
_MODEL_INFO = Operation(summary="Facts about the model", answer=_OBJECT)
_SERVER_INFO = Operation(summary="Facts and counters of the server", answer=_OBJECT)
_STATUS = _closed(status=_TEXT)

OPERATIONS: dict[str, Operation] = {
    "/v1/chat/completions": Operation(
        summary="The next message of a conversation",
        answer=_completion("chat.completion", _CHAT_CHOICE, **_OF_PROMPT),
        streams=True,
    ),
    "/v1/completions": Operation(
        summary="How a text goes on", answer=_completion("text_completion", _TEXT_CHOICE), streams=True
    ),
    "/v1/responses": Operation(summary="The next message, in the shape of responses", answer=_OBJECT, streams=True),
    "/v1/messages": Operation(summary="The next message, in Anthropic's shape", answer=_OBJECT, streams=True),
    "/v1/messages/count_tokens": Operation(
        summary="How many tokens a conversation has", answer=_closed(input_tokens=_COUNT)
    ),
    "/v1/embeddings": Operation(
        summary="Vectors of texts",
        answer=_closed(object=_one("list"), data=_list(_EMBEDDING), model=_TEXT, usage=_USAGE),
    ),
    "/v1/score": Operation(
        summary="How likely labels come next, or how well pairs of texts fit",
        answer={
            "anyOf": [
                _closed(object=_one("scoring"), scores=_list(_list(_NUMBER)), usage=_USAGE, model=_TEXT),
                _closed(id=_TEXT, object=_one("list"), data=_list(_SCORE), usage=_USAGE, model=_TEXT),
            ]
        },
    ),
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/rerank": _RERANK,
    "/generate": Operation(
        summary="How a text or a conversation goes on, in SGLang's shape",
        answer={"anyOf": [_GENERATED, _list(_GENERATED)]},
        streams=True,
    ),
    "/score": Operation(
        summary="How likely each of several options goes on a prompt",
        answer=_closed(scores=_list(_OPTION), usage=_USAGE),
    ),
    "/tokenize": _TOKENIZE,
    "/v1/tokenize": _TOKENIZE,
    "/detokenize": _DETOKENIZE,
    "/v1/detokenize": _DETOKENIZE,
    "/v1/models": Operation(
        summary="The model that is served", answer=_closed(object=_one("list"), data=_list(_MODEL))
    ),
    "/v1/models/{model}": Operation(summary="One model by name", answer=_MODEL),
    "/": Operation(summary="A page that shows load, cache and requests", answer=_TEXT, kind="text/html"),
    "/dashboard/state": Operation(summary="What the page shows", answer=_OBJECT),
    "/health": Operation(summary="The engine gives signs of life", answer=_STATUS),
    "/health_generate": Operation(summary="The engine answers a request of one token", answer=_STATUS),
    "/ping": Operation(summary="The same as /health", answer=_STATUS),
    "/version": Operation(summary="The server's version", answer=_closed(version=_TEXT)),
    "/ready": Operation(summary="A request would be taken now", answer=_STATUS),
    "/get_model_info": _MODEL_INFO,
    "/model_info": _MODEL_INFO,
    "/get_server_info": _SERVER_INFO,
    "/server_info": _SERVER_INFO,
    "/flush_cache": Operation(summary="Forget all cached prefixes", answer=_TEXT, kind="text/plain"),
    "/reset_prefix_cache": Operation(summary="Forget all cached prefixes", answer=_closed(success=_BOOLEAN)),
    "/load": Operation(summary="How many requests are in flight", answer=_closed(server_load=_COUNT)),
    "/abort_request": Operation(summary="End requests by the id of their answer", answer=_closed(aborted=_COUNT)),
    "/metrics": Operation(summary="Counters for Prometheus", answer=_TEXT, kind="text/plain"),
    "/openapi.json": Operation(summary="This document", answer=_OBJECT),
}
