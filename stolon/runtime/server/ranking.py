"""POST /v1/score and /v1/rerank: how well texts fit a text, by a classifier, by embeddings or by a model that talks."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from ...lang.types import SamplingParams, Usage
from ..limits import LENGTHS, NUMBERS
from . import wire
from .answers import Question, collect
from .body import JsonObject, read_object
from .embeddings import EMBEDDING_UNSUPPORTED, longest, off_loop, usage
from .errors import HttpError, invalid
from .fields import (
    Check,
    Field,
    Values,
    boolean,
    finite,
    ignored,
    list_of,
    mapping,
    missing,
    number,
    object_of,
    string,
    token_ids,
    wrong_type,
)
from .prompts import check_model, encode_chat, encode_text, fit, token_list
from .request import Request
from .service import Embedder, Engine, Service
from .settings import ServerConfig
from .truncation import TRUNCATE

if TYPE_CHECKING:
    from ..packed import Tokens

_DOCUMENT = object_of({"text": string()}, required=("text",))


def _document(path: str, value: object) -> str:
    return value if isinstance(value, str) else _DOCUMENT(path, mapping(path, value))["text"]


_DOCUMENTS = list_of(
    Field({"anyOf": [{"type": "string"}, _DOCUMENT.schema]}, _document),
    LENGTHS["documents"],
)


def _texts(path: str, value: object) -> list[str]:
    return [value] if isinstance(value, str) else _TEXTS(path, value)


_TEXTS = list_of(string(), LENGTHS["documents"])
_ONE_OR_MORE = Field({"anyOf": [{"type": "string"}, _TEXTS.schema]}, _texts)

# of /v1/score: vLLM's older name and its later one
_PAIR = {"text_1": "queries", "text_2": "documents"}

RERANK_BODY = object_of(
    {
        "model": string(LENGTHS["name"]),
        "query": string(),
        "documents": _DOCUMENTS,
        "instruct": string(),
        "top_n": number(NUMBERS["top_n"]),
        "return_documents": boolean,
        "truncate_prompt_tokens": TRUNCATE,
        "user": ignored,
    },
    required=("query", "documents"),
    unsupported=EMBEDDING_UNSUPPORTED,
)


@functools.lru_cache(maxsize=4)
def score_body(vocab_size: int) -> Field[dict[str, Any]]:
    tokens = token_list(vocab_size)

    def query(path: str, value: object) -> str | list[int]:
        return value if isinstance(value, str) else tokens(path, value)

    def items(path: str, value: object) -> list[str] | list[list[int]]:
        if isinstance(value, list) and value and isinstance(value[0], list):
            return list_of(tokens, LENGTHS["documents"])(path, cast(object, value))
        return _texts(path, cast(object, value))

    items_schema: JsonObject = {"anyOf": [_ONE_OR_MORE.schema, list_of(tokens, LENGTHS["documents"]).schema]}
    table: dict[str, Check] = {
        "model": string(LENGTHS["name"]),
        "text_1": _ONE_OR_MORE,
        "text_2": _ONE_OR_MORE,
        "queries": _ONE_OR_MORE,
        "documents": _ONE_OR_MORE,
        "truncate_prompt_tokens": TRUNCATE,
        "query": Field({"anyOf": [{"type": "string"}, tokens.schema]}, query),
        "items": Field(items_schema, items),
        "label_token_ids": token_ids(vocab_size, LENGTHS["labels"]),
        "apply_softmax": boolean,
        "item_first": boolean,
        "user": ignored,
    }
    return object_of(table, unsupported=EMBEDDING_UNSUPPORTED)


async def rerank(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted_any() as served:
        found = await read_object(request, settings)
        if "model" in found:
            check_model(found, served)
        values = RERANK_BODY("", found)
        query, documents = values["query"], values["documents"]
        if service.generates:
            scores, counted = await _judged(service.engine, values, settings.request_timeout_s)
        else:
            scores, counted = await _compared(service.embedder, [query] * len(documents), documents, values, settings)
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[: values.get("top_n")]
        with_text = values.get("return_documents", True)
        results: list[JsonObject] = [
            {
                "index": place,
                "relevance_score": scores[place],
                **({"document": {"text": documents[place]}} if with_text else {}),
            }
            for place in best
        ]
        whole = {"id": wire.new_id("rerank"), "model": served.model_name, "results": results, "usage": counted}
        return web.Response(body=wire.dumps(whole), content_type="application/json")


async def score(service: Service, request: Request) -> web.StreamResponse:
    settings = service.settings
    with service.admitted_any() as served:
        found = await read_object(request, settings)
        if "model" in found:
            check_model(found, served)
        values = score_body(served.vocab_size)("", found)
        if service.generates:
            whole = await _label_scores(service.engine, values, settings.request_timeout_s)
        else:
            whole = await _pair_scores(service.embedder, values, settings)
        return web.Response(body=wire.dumps({**whole, "model": served.model_name}), content_type="application/json")


async def _label_scores(engine: Engine, values: Values, timeout_s: float) -> JsonObject:
    """SGLang's shape: of each item, the probabilities that the labels come next."""
    _refuse(values, (*_PAIR, *_PAIR.values(), "truncate_prompt_tokens"), "is for embedding models and classifiers")
    for name in ("query", "items", "label_token_ids"):
        if name not in values:
            raise missing(name)
    query: str | list[int] = values["query"]
    items: list[str] | list[list[int]] = values["items"]
    first = values.get("item_first", False)
    prompts: list[list[int]] = []
    for place, item in enumerate(items):
        before, after = (item, query) if first else (query, item)
        if isinstance(before, str) and isinstance(after, str):
            prompts.append(await encode_text(engine, before + after, f"items[{place}]"))
        elif isinstance(before, list) and isinstance(after, list):
            prompts.append(before + after)
        else:
            raise wrong_type("items", "of the same kind as query, texts or token ids", item)
    found, counted = await _next_tokens(engine, prompts, values["label_token_ids"], "items", timeout_s)
    shares = values.get("apply_softmax", False)
    scores = [_softmax(row) if shares else [math.exp(value) for value in row] for row in found]
    return {"object": "scoring", "scores": scores, "usage": counted}


async def _next_tokens(
    engine: Engine, prompts: Sequence[list[int]], labels: Sequence[int], path: str, timeout_s: float
) -> tuple[list[list[float]], JsonObject]:
    """Of each prompt, the log-probabilities that each of `labels` comes next; and the usage."""
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=0, logprob_token_ids=tuple(labels))
    questions = [
        Question(prompt=prompt, params=params, timeout_s=timeout_s)
        for prompt in prompts
        if fit(engine, prompt, 1, None, path)
    ]
    replies = await collect(engine, questions)
    rows: list[list[float]] = []
    for reply in replies:
        by_id = dict(reply.answers[0].logprobs[0].extra)
        rows.append([finite(by_id[label]) for label in labels])
    total = sum((reply.usage for reply in replies), Usage())
    return rows, {"prompt_tokens": total.prompt_tokens, "total_tokens": total.prompt_tokens}


async def _judged(engine: Engine, values: Values, timeout_s: float) -> tuple[list[float], JsonObject]:
    """What a generating model holds of each document: how likely its answer is yes, not no."""
    _refuse(values, ("truncate_prompt_tokens",), "is for embedding models and classifiers")
    task = values.get("instruct") or "Find documents that answer the query."
    yes, no = (engine.tokenizer.encode(word, bos=False)[0] for word in ("yes", "no"))
    if yes == no:
        raise HttpError(400, "unsupported_route", "this model has one token for the start of both yes and no")
    system = {"role": "system", "content": 'Does the document fit the task and the query? Answer only "yes" or "no".'}
    prompts: list[list[int]] = []
    for document in values["documents"]:
        asked = f"<Instruct>: {task}\n<Query>: {values['query']}\n<Document>: {document}"
        conversation = [system, {"role": "user", "content": asked}]
        prompts.append(await encode_chat(engine, conversation))
    rows, counted = await _next_tokens(engine, prompts, (yes, no), "documents", timeout_s)
    return [_softmax(row)[0] for row in rows], counted


async def _pair_scores(engine: Embedder, values: Values, settings: ServerConfig) -> JsonObject:
    """vLLM's shape: a score for each pair of `text_1` (or `queries`), which may be one for all, and `text_2`."""
    _refuse(values, ("query", "items", "label_token_ids", "apply_softmax", "item_first"), "is for models that generate")
    first, second = (_named(values, name) for name in _PAIR)
    left: list[str] = values[first]
    right: list[str] = values[second]
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise invalid(f"{first} has {len(left)} texts and {second} {len(right)}; give one, or as many", first)
    scores, counted = await _compared(engine, left, right, values, settings)
    data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
    return {"id": wire.new_id("score"), "object": "list", "data": data, "usage": counted}


def _named(values: Values, name: str) -> str:
    """The one of both names of a field that was given."""
    other = _PAIR[name]
    if name in values and other in values:
        raise invalid(f"{name} and {other} are the same; give one", other)
    if other not in values and name not in values:
        raise missing(name)
    return other if other in values else name


async def _compared(
    engine: Embedder, left: Sequence[str], right: Sequence[str], values: Values, settings: ServerConfig
) -> tuple[list[float], JsonObject]:
    """A score for each pair: a classifier reads both texts together, embeddings are compared by their angle."""
    most = longest(engine, values, settings)
    pairs = list(zip(left, right, strict=True))
    characters = sum(len(a) + len(b) for a, b in pairs)
    if engine.is_classifier:
        texts = await off_loop(characters, lambda: [engine.frame(a, b, longest=most) for a, b in pairs])
        logits = await engine.embed(texts, timeout_s=settings.request_timeout_s)
        return [_positive(row) for row in logits.tolist()], usage(texts)
    places = {text: place for place, text in enumerate(dict.fromkeys([*left, *right]))}
    texts: list[Tokens] = await off_loop(characters, lambda: [engine.frame(text, longest=most) for text in places])
    vectors = await engine.embed(texts, timeout_s=settings.request_timeout_s)
    return [float(vectors[places[a]] @ vectors[places[b]]) for a, b in pairs], usage(texts)


def _positive(logits: Sequence[float]) -> float:
    """Of one label, by the logistic function; of several, the share of the last, which is the positive one."""
    return 1 / (1 + math.exp(-logits[0])) if len(logits) == 1 else _softmax(logits)[-1]


def _softmax(values: Sequence[float]) -> list[float]:
    largest = max(values)
    weights = [math.exp(value - largest) for value in values]
    return [weight / sum(weights) for weight in weights]


def _refuse(values: Values, names: Sequence[str], why: str) -> None:
    for name in names:
        if name in values:
            raise invalid(f"{name} {why}", name, "unsupported_parameter")
