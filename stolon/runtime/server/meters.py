"""Counters for Prometheus, under the names that vLLM and SGLang use behind their own prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ...lang.types import Usage

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)

# of the engine's own statistics: name there, name here, what it counts
_COUNTERS = (
    ("prompt", "prompt_tokens", "tokens of prompts"),
    ("generated", "generation_tokens", "tokens of answers"),
    ("prompt", "prefix_cache_queries", "tokens of prompts that were looked for in the cache"),
    ("cached", "prefix_cache_hits", "tokens of prompts that were found in the cache"),
    ("computed", "computed_tokens", "tokens in forward passes, also those computed again"),
    ("forced", "forced_tokens", "tokens of answers that a constraint gave without drawing"),
    ("preemptions", "num_preemptions", "answers that made room for others"),
    ("failed", "request_failures", "answers that ended in an error of the engine"),
    ("steps", "engine_steps", "steps of the engine"),
    ("kv_evicted", "evicted_tokens", "cached tokens that were dropped"),
)
_GAUGES = (
    ("running", "num_requests_running", "answers that are being computed"),
    ("waiting", "num_requests_waiting", "answers that wait"),
    ("kv_total", "kv_cache_tokens", "size of the cache"),
    ("kv_cached", "kv_cache_cached_tokens", "cached prefixes"),
    ("kv_pinned", "kv_cache_pinned_tokens", "cached prefixes that live programs keep"),
)


class Meters:
    """What the server has counted since its start. The engine's own counters are read when somebody asks."""

    def __init__(self, statistics: Callable[[], Mapping[str, object]], in_flight: Callable[[], int]) -> None:
        disable_created_metrics()  # a second sample for each counter that nobody reads
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(statistics, in_flight))

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"stolon:{name}", text, labels, buckets=buckets, registry=self._registry)

        self._first = histogram("time_to_first_token_seconds", "from the request to its first token", _SECONDS)
        self._between = histogram("inter_token_latency_seconds", "between two increments of one answer", _SECONDS)
        self._whole = histogram("e2e_request_latency_seconds", "from the request to its last token", _SECONDS)
        self._prompt = histogram("request_prompt_tokens", "tokens of one prompt", _TOKENS)
        self._answer = histogram("request_generation_tokens", "tokens of all answers to one prompt", _TOKENS)
        self._http = histogram("http_request_duration_seconds", "until an answer has ended", _SECONDS, "route")
        self._finished = Counter(
            "stolon:request_success", "answers that ended well", ["finished_reason"], registry=self._registry
        )
        self._statuses = Counter(
            "stolon:http_requests", "answers of the server", ["route", "status"], registry=self._registry
        )

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        self._between.observe(seconds)

    def finished(self, reason: str) -> None:
        self._finished.labels(reason).inc()

    def ended(self, seconds: float, usage: Usage) -> None:
        self._whole.observe(seconds)
        self._prompt.observe(usage.prompt_tokens)
        self._answer.observe(usage.completion_tokens)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._statuses.labels(route, str(status)).inc()
        self._http.labels(route).observe(seconds)

    def written(self) -> bytes:
        return generate_latest(self._registry)


class _Engine(Collector):
    def __init__(self, statistics: Callable[[], Mapping[str, object]], in_flight: Callable[[], int]) -> None:
        self._statistics = statistics
        self._in_flight = in_flight

    def collect(self) -> Iterable[Metric]:
        now = {name: float(value) for name, value in self._statistics().items() if isinstance(value, (int, float))}
        for source, name, text in _COUNTERS:
            if source in now:
                yield CounterMetricFamily(f"stolon:{name}", text, now[source])
        for source, name, text in _GAUGES:
            if source in now:
                yield GaugeMetricFamily(f"stolon:{name}", text, now[source])
        if now.get("kv_total"):
            used = 1 - (now["kv_free"] + now["kv_evictable"]) / now["kv_total"]
            yield GaugeMetricFamily("stolon:kv_cache_usage_perc", "share of the cache that running answers use", used)
        if "prompt" in now:
            # arXiv:2312.07104, section 3
            rate = now["cached"] / max(now["prompt"], 1)
            yield GaugeMetricFamily("stolon:cache_hit_rate", "cached tokens of prompts / tokens of prompts", rate)
        yield GaugeMetricFamily("stolon:http_requests_in_flight", "requests being answered", self._in_flight())
        yield GaugeMetricFamily("stolon:engine_up", "1 while the engine gives signs of life", now.get("alive", 0))
