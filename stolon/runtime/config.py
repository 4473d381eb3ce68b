"""Settings of the engine and of its server; command-line flags are made from these fields."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "fp8"]
KVDType = Literal["auto", "fp8_e4m3"]
LoadFormat = Literal["auto", "safetensors", "dummy"]
GrammarBackend = Literal["auto", "automaton", "llguidance", "outlines"]
SchedulePolicy = Literal["lpm", "dfs-weight", "fcfs"]
RadixEvictionPolicy = Literal["lru", "lfu", "priority"]
Speculation = Literal["none", "ngram"]
Pooling = Literal["mean", "cls", "last"]

WHOLE_PROMPT = -1  # a token_budget


def flag(text: str, *also: str) -> dict[str, object]:
    """Metadata of a field: its help text and further spellings of its flag (which switch it off, if it is on)."""
    return {"help": text, "also": also}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """How requests share steps and memory. All sizes are in tokens."""

    token_budget: int | None = field(
        default=None,
        metadata=flag(
            "most tokens computed in one step; 512 by default, 8192 on a GPU; -1: any prompt is taken whole",
            "--chunked-prefill-size",
            "--max-num-batched-tokens",
        ),
    )
    max_running_requests: int = field(default=256, metadata=flag("most requests computed at once", "--max-num-seqs"))
    max_queued_requests: int = field(
        default=1024, metadata=flag("most requests that wait; one more is refused with 503", "--max-num-queued-reqs")
    )
    page_size: int = field(default=1, metadata=flag("tokens that are allocated together", "--block-size"))
    schedule_policy: SchedulePolicy = field(
        default="lpm",
        metadata=flag(
            "order of waiting requests, after their priority: lpm: longest cached prefix first; dfs-weight: along the "
            "tree of cached prefixes, where most wait first; fcfs or priority: first come, first served",
            "--scheduling-policy",
        ),
    )
    max_overtakes: int = field(default=64, metadata=flag("how often a waiting request may be overtaken"))
    speculative_algorithm: Speculation = field(
        default="none",
        metadata=flag(
            "guess next tokens, to compute them in the same step; no answer changes; ngram: what came behind the same "
            "tokens before",
            "--speculative-algo",
            "--speculative-config.method",
        ),
    )
    speculative_num_draft_tokens: int = field(
        default=8,
        metadata=flag("most tokens of an answer guessed in a step", "--speculative-config.num-speculative-tokens"),
    )
    speculative_rows: int | None = field(
        default=None,
        metadata=flag("most rows of a step that has guesses, where one row more costs little; 8, or 64 on a GPU"),
    )
    radix_cache: bool = field(
        default=True, metadata=flag("keep computed prefixes for later requests", "--no-enable-prefix-caching")
    )
    radix_eviction_policy: RadixEvictionPolicy = field(
        default="lru",
        metadata=flag(
            "which cached prefixes go first where memory is needed: lru: the least recently used; lfu: those that the "
            "fewest requests have found; priority: those of the lowest priority; of equals the least recently used"
        ),
    )
    pin_share: float = field(default=0.9, metadata=flag("largest share of the cache that live programs may pin"))
    pin_seconds: float = field(default=30.0, metadata=flag("how long a live program's prefix stays pinned after use"))
    check: bool = field(default=False, metadata=flag("check every invariant after every step (slow; for tests)"))

    @property
    def guess_rows(self) -> int:
        """`speculative_rows`, or what it is by default where nobody knew better."""
        return 8 if self.speculative_rows is None else self.speculative_rows

    @property
    def most_rows(self) -> int:
        """Of a step: one for each request that runs, and one for each guess."""
        return self.max_running_requests + (self.guess_rows if self.speculative_algorithm != "none" else 0)

    @property
    def step_tokens(self) -> int:
        """`token_budget`, or what it is by default where nobody knew better; after `with_whole_prompts`."""
        assert self.token_budget != WHOLE_PROMPT
        return 512 if self.token_budget is None else self.token_budget

    def with_whole_prompts(self, longest: int) -> SchedulerConfig:
        """If a step is to take any prompt whole, with a budget for that, beside all that decode. longest: its tokens"""
        if self.token_budget != WHOLE_PROMPT:
            return self
        return replace(self, token_budget=longest + self.most_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One model on one device."""

    model_path: str = field(
        metadata=flag(
            "folder of a checkpoint, name of the hub that `hf download` has fetched, or `tiny`, the built-in model",
            "--model",
        )
    )
    revision: str | None = field(default=None, metadata=flag("branch, tag or commit of the model at the hub"))
    tokenizer_path: str | None = field(
        default=None, metadata=flag("folder of the tokenizer, or its name at the hub", "--tokenizer")
    )
    tokenizer_revision: str | None = field(
        default=None, metadata=flag("branch, tag or commit of the tokenizer at the hub")
    )
    download_dir: str | None = field(
        default=None,
        metadata=flag("cache of the hub in which to look; that of `hf download` by default. Nothing is downloaded"),
    )
    skip_tokenizer_init: bool = field(
        default=False, metadata=flag("load no tokenizer: prompts are token ids, and so are answers")
    )
    chat_template: str | None = field(default=None, metadata=flag("file of a Jinja chat template"))
    served_model_name: tuple[str, ...] = field(
        default=(), metadata=flag("names under which clients ask for the model; answers carry the first")
    )
    load_format: LoadFormat = field(
        default="auto", metadata=flag("where weights come from: safetensors, or dummy: random ones, for measuring")
    )
    hf_overrides: str | None = field(
        default=None,
        metadata=flag(
            'fields that replace those of config.json, as a JSON object, such as {"rope_theta": 1000000}',
            "--json-model-override-args",
        ),
    )
    device: Device = field(default="auto", metadata=flag("where to compute"))
    dtype: DType = field(default="auto", metadata=flag("number format of weights and KV cache"))
    quantization: Quantization = field(
        default="none", metadata=flag("8-bit weights: int8, on a CPU with 8-bit arithmetic, too; or fp8, on a GPU")
    )
    kv_cache_dtype: KVDType = field(
        default="auto", metadata=flag("number format of the KV cache: that of the weights, or fp8_e4m3 on a GPU")
    )
    deterministic: bool = field(
        default=False,
        metadata=flag("the same bits whatever else is computed or cached (slower)", "--enable-deterministic-inference"),
    )
    cuda_graph: bool = field(
        default=True,
        metadata=flag(
            "record decode steps as CUDA graphs, which are launched at once",
            "--enforce-eager",
            "--disable-decode-cuda-graph",
        ),
    )
    cuda_graph_max_bs: int | None = field(
        default=None,
        metadata=flag(
            "largest number of rows to record; max_running_requests by default, at most 512",
            "--cuda-graph-max-bs-decode",
        ),
    )
    cuda_graph_seconds: float = field(
        default=30.0, metadata=flag("how long recording may take at start; larger graphs serve for what is not there")
    )
    context_length: int | None = field(
        default=None,
        metadata=flag(
            "longest prompt and answer; by default, and with auto or -1, the checkpoint's, or what the KV cache holds",
            "--max-model-len",
        ),
    )
    kv_tokens: int | None = field(
        default=None, metadata=flag("size of the KV cache; from free memory by default", "--max-total-tokens")
    )
    kv_bytes: int | None = field(
        default=None, metadata=flag("size of the KV cache in bytes, in place of kv_tokens", "--kv-cache-memory-bytes")
    )
    kv_pages: int | None = field(
        default=None, metadata=flag("size of the KV cache in pages, in place of kv_tokens", "--num-gpu-blocks-override")
    )
    memory_fraction: float | None = field(
        default=None,
        metadata=flag(
            "share of free memory that the KV cache may take; 0.6 by default, 0.95 on a GPU",
            "--mem-fraction-static",
            "--gpu-memory-utilization",
        ),
    )
    overlap: bool = field(
        default=True,
        metadata=flag(
            "begin steps on a GPU before the ones before have ended",
            "--disable-overlap-schedule",
            "--no-async-scheduling",
        ),
    )
    threads: int | None = field(default=None, metadata=flag("compute threads on CPU; all cores by default"))
    is_embedding: bool = field(
        default=False, metadata=flag("make embeddings, also of a model that generates; known from embedding models")
    )
    pooling: Literal["auto", "mean", "cls", "last"] = field(
        default="auto", metadata=flag("how embeddings are made of hidden states; by default as the checkpoint says")
    )
    grammar_backend: GrammarBackend = field(
        default="auto",
        metadata=flag(
            "engine that holds answers to their form; auto: the best for each constraint",
            "--guided-decoding-backend",
            "--structured-outputs-config.backend",
        ),
    )
    constrained_json_whitespace_pattern: str | None = field(
        default=None,
        metadata=flag(
            'regular expression for all white space in JSON answers, which are {"a": 1, "b": 2} where it matches " ", '
            'else {"a":1,"b":2}; the former by default'
        ),
    )
    jump_forward: bool = field(
        default=True, metadata=flag("append text that a constraint forces without a forward pass of its own")
    )
    decode_log_interval: int = field(
        default=40,
        metadata=flag(
            "steps after which a line with counts and rates is logged (info), at most one a second; 0: never"
        ),
    )
    random_seed: int | None = field(default=None, metadata=flag("seed of requests that bring none", "--seed"))
    scheduler: SchedulerConfig = SchedulerConfig()
