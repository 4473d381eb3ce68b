"""Flags of SGLang and vLLM that set nothing here: accepted where that changes nothing, else refused with what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """names: its spellings; takes_value: else it stands alone
    allowed: values that are what happens here anyway; None: whatever is said, the flag has no effect
    switches: values that switch on a setting of ours, with its name
    says: why there is nothing to set, or what to do instead
    """

    names: tuple[str, ...]
    says: str
    takes_value: bool = False
    allowed: tuple[str, ...] | None = None
    switches: Mapping[str, str] = field(default_factory=dict[str, str])


def _idle(names: str, says: str) -> Foreign:
    return Foreign(names=tuple(names.split()), says=says)


def _idle_value(names: str, says: str) -> Foreign:
    return Foreign(names=tuple(names.split()), says=says, takes_value=True)


def _only(names: str, allowed: str, says: str) -> Foreign:
    return Foreign(names=tuple(names.split()), says=says, takes_value=True, allowed=tuple(allowed.split()))


def _refused(names: str, says: str) -> Foreign:
    return Foreign(names=tuple(names.split()), says=says, allowed=())


def _refused_value(names: str, says: str) -> Foreign:
    return Foreign(names=tuple(names.split()), says=says, takes_value=True, allowed=())


_ONE_DEVICE = "one server serves one device; start one on each, and a router in front"
_WHITE_SPACE = "in JSON stand `, ` and `: `, or what --constrained-json-whitespace-pattern leaves of them, and no more"
_EMBEDS = "embedding models are known; others make embeddings with --is-embedding"
_NO_LORA = "adapters are not supported; merge them into the weights"
_NO_DRAFTS = "guesses come from the text so far, with --speculative-algorithm ngram; there are no draft models"

FOREIGN: tuple[Foreign, ...] = (
    _only("--tp-size --tp --tensor-parallel-size -tp", "1", _ONE_DEVICE),
    _only("--dp-size --dp --data-parallel-size -dp", "1", _ONE_DEVICE),
    _only("--pp-size --pp --pipeline-parallel-size -pp", "1", _ONE_DEVICE),
    _only("--nnodes --ep-size --ep --api-server-count", "1", _ONE_DEVICE),
    _only("--node-rank", "0", _ONE_DEVICE),
    _only("--base-gpu-id", "0", "choose the GPU with CUDA_VISIBLE_DEVICES"),
    _only("--cpu-offload-gb", "0", "weights are on one device whole; --quantization makes them smaller"),
    _only("--config-format --model-impl", "auto", "a checkpoint is read in the one way there is"),
    _only("--response-role", "assistant", "answers are the assistant's"),
    _only("--max-logprobs", "20", "of each token at most the 20 likeliest are told"),
    Foreign(
        names=("--runner",),
        takes_value=True,
        allowed=("auto", "generate"),
        switches={"pooling": "is_embedding"},
        says=_EMBEDS,
    ),
    Foreign(
        names=("--task",),
        takes_value=True,
        allowed=("auto", "generate"),
        switches=dict.fromkeys(("embed", "embedding"), "is_embedding"),
        says=_EMBEDS,
    ),
    _idle_value(
        "--attention-backend --prefill-attention-backend --decode-attention-backend --sampling-backend",
        "there is one set of kernels for each --device",
    ),
    _idle_value("--tokenizer-mode --tokenizer-worker-num", "there is one way to tokenize, off the loop if it is long"),
    _idle_value("--chat-template-content-format", "contents are understood as texts and as parts"),
    _idle_value("--hf-token", "nothing is downloaded"),
    _idle_value("--root-path", "no answer holds a path of this server"),
    _idle_value("--log-level-http", "there is one log, with one --log-level"),
    _idle_value("--nccl-port --dist-init-addr --distributed-executor-backend", _ONE_DEVICE),
    _idle("--disable-custom-all-reduce --enable-p2p-check", _ONE_DEVICE),
    _idle_value(
        "--num-scheduler-steps --num-continuous-decode-steps --preemption-mode --max-num-partial-prefills "
        "--long-prefill-token-threshold",
        "every step is planned anew, within --token-budget",
    ),
    _idle("--disable-async-output-proc --use-v2-block-manager", "there is one engine loop"),
    _idle_value("--prefix-caching-hash-algo", "prefixes are compared, never hashed"),
    _idle("--disable-chunked-prefix-cache --disable-hybrid-kv-cache-manager", "there is one KV cache"),
    _idle("--enable-nan-detection", "logits that are not numbers are always found"),
    _idle("--enable-request-id-headers", "every answer has its X-Request-Id"),
    _idle("--enable-server-load-tracking --enable-metrics-for-all-schedulers", "the load is in /metrics"),
    _idle(
        "--disable-uvicorn-access-log --disable-fastapi-docs",
        "there is no such log, and /openapi.json asks for the key",
    ),
    _idle("--disable-outlines-disk-cache", "compiled constraints are kept in memory"),
    _idle("--show-time-cost --sleep-on-idle --stream-output --enable-tokenizer-batch-encode", "that is always so"),
    _idle("--enable-mixed-chunk --enable-chunked-prefill", "prefill and decode always share steps"),
    _idle("--enable-prefix-caching", "prefixes are cached unless --disable-radix-cache is given"),
    _idle("--enable-priority-scheduling", "priority is always honoured"),
    _idle_value("--schedule-conservativeness --watermark", "admission counts what is free and needs no factor"),
    _idle_value("--max-prefill-tokens", "a step has one budget, --token-budget"),
    _idle("--async-scheduling", "steps overlap on a GPU unless --no-overlap is given"),
    _idle_value(
        "--cuda-graph-bs --cuda-graph-sizes --max-seq-len-to-capture",
        "the numbers of rows to record are chosen here, up to --cuda-graph-max-bs",
    ),
    _idle("--enable-torch-compile", "nothing is compiled at run time"),
    _idle_value("--compilation-config -O", "nothing is compiled at run time"),
    _idle("--constrained-json-disable-any-whitespace", _WHITE_SPACE),
    _idle_value("--structured-outputs-config.disable-any-whitespace", _WHITE_SPACE),
    _idle_value("--structured-outputs-config.disable-fallback", "an engine that was named is the only one"),
    _only(
        "--structured-outputs-config.disable-additional-properties",
        "false",
        "a schema means what JSON Schema says; write additionalProperties into it",
    ),
    _only("--structured-outputs-config.enable-in-reasoning", "false", "a form holds after the thought, never in it"),
    _idle("--enable-auto-tool-choice", "tools are understood where the chat template speaks of them"),
    _idle("--enable-reasoning", "thoughts are split off where the model has them; see --reasoning-parser"),
    _idle("--enable-metrics", "metrics are served unless --disable-metrics is given"),
    _idle("--enable-cache-report --enable-prompt-tokens-details", "cached tokens are always reported"),
    _idle(
        "--disable-log-requests --no-enable-log-requests --disable-log-stats",
        "requests are logged in one line without their text",
    ),
    _idle_value("--max-log-len", "how much of texts is logged is --log-requests-level's to say"),
    _idle("--skip-server-warmup", "there is no warm-up to skip"),
    _idle("--trust-remote-code", "no code of a checkpoint is ever run; its architecture must be one that stolon has"),
    _idle_value("--code-revision", "no code of a checkpoint is ever run"),
    _idle_value("--swap-space", "a preempted request keeps its prefix in the cache"),
    _idle("--disable-frontend-multiprocessing", "there is one process"),
    _refused_value("--completion-template", "a completion takes its prompt as it is"),
    _refused("--trust-request-chat-template", "templates come from the checkpoint or --chat-template, never a request"),
    _refused_value("--ssl-ca-certs", "clients are known by their key; put a proxy in front that asks for certificates"),
    _refused_value("--speculative-draft-model-path --speculative-config.model", _NO_DRAFTS),
    _idle_value("--speculative-num-steps --speculative-eagle-topk", _NO_DRAFTS),
    _idle_value(
        "--speculative-config.prompt-lookup-max --speculative-config.prompt-lookup-min "
        "--speculative-ngram-min-match-window-size --speculative-ngram-max-match-window-size",
        "the longest match decides, of at least two tokens",
    ),
    _refused("--no-enable-chunked-prefill", "a prompt is computed in one step with --chunked-prefill-size -1"),
    _refused("--disable-sliding-window", "a model's windows are kept; --context-length makes the context shorter"),
    _refused("--schedule-low-priority-values-first", "the larger priority goes first; send it so"),
    _refused("--enable-custom-logit-processor", "a request cannot carry code"),
    _refused("--enable-return-hidden-states", "hidden states are not sent; --is-embedding makes embeddings"),
    _refused("--enable-hierarchical-cache", "the KV cache has one level; --kv-tokens is its size"),
    _refused("--enable-dp-attention --enable-expert-parallel", _ONE_DEVICE),
    _refused("--incremental-streaming-output", "a request to /generate says so: incremental"),
    _refused("--enable-lora", _NO_LORA),
    _refused_value("--lora-paths --lora-modules --max-loras --max-lora-rank --max-cpu-loras", _NO_LORA),
    _refused_value("--limit-mm-per-prompt", "only text is understood"),
)
