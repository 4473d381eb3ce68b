"""Counters for Prometheus, under the names that vLLM and SGLang use behind their own prefixes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
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
    ("guessed", "spec_decode_num_draft_tokens", "tokens that were guessed, to compute them in the same step"),
    ("confirmed", "spec_decode_num_accepted_tokens", "guesses that came true"),
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


class _Histogram:
    """How often values were seen, by the first of `bounds` that they do not pass.

    Plain numbers of one thread: the library's own take a lock and a walk over the bounds for every token.
    """

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def write(self, family: HistogramMetricFamily, *labels: str) -> None:
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class Meters(Collector):
    """What the server has counted since its start. The engine's own counters are read when somebody asks."""

    def __init__(self, statistics: Callable[[], Mapping[str, object]], in_flight: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Engine(statistics, in_flight))
        self._registry.register(self)
        self._first = _Histogram()
        self._between = _Histogram()
        self._whole = _Histogram()
        self._prompt = _Histogram(_TOKENS)
        self._answer = _Histogram(_TOKENS)
        self._http: defaultdict[str, _Histogram] = defaultdict(_Histogram)  # by route
        self._finished = Counter[str]()  # by reason
        self._statuses = Counter[tuple[str, int]]()  # by route and status

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        self._between.observe(seconds)

    def finished(self, reason: str) -> None:
        self._finished[reason] += 1

    def ended(self, seconds: float, usage: Usage) -> None:
        self._whole.observe(seconds)
        self._prompt.observe(usage.prompt_tokens)
        self._answer.observe(usage.completion_tokens)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._statuses[route, status] += 1
        self._http[route].observe(seconds)

    def written(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        for name, text, seen in (
            ("time_to_first_token_seconds", "from the request to its first token", self._first),
            ("inter_token_latency_seconds", "between two increments of one answer", self._between),
            ("e2e_request_latency_seconds", "from the request to its last token", self._whole),
            ("request_prompt_tokens", "tokens of one prompt", self._prompt),
            ("request_generation_tokens", "tokens of all answers to one prompt", self._answer),
        ):
            family = HistogramMetricFamily(f"stolon:{name}", text)
            seen.write(family)
            yield family
        routes = HistogramMetricFamily(
            "stolon:http_request_duration_seconds", "until an answer has ended", labels=["route"]
        )
        for route, seen in self._http.items():
            seen.write(routes, route)
        yield routes
        reasons = CounterMetricFamily("stolon:request_success", "answers that ended well", labels=["finished_reason"])
        for reason, count in self._finished.items():
            reasons.add_metric([reason], count)
        yield reasons
        statuses = CounterMetricFamily("stolon:http_requests", "answers of the server", labels=["route", "status"])
        for (route, status), count in self._statuses.items():
            statuses.add_metric([route, str(status)], count)
        yield statuses


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
