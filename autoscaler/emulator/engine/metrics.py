"""The metrics pages, in the real servers' names, labels and bucket edges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from autoscaler.emulator.engine.batch import Batch
from autoscaler.emulator.engine.figures import Histogram

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True, eq=False)
class MetricsPage(Collector):
    """One engine's page.

    Attributes:
        generation: of vLLM's names: "v1" as today, "v0" as before 0.9.
    """

    batch: Batch
    dialect: str
    model: str
    generation: str = "v1"

    def render(self) -> bytes:
        """The page as text."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the dialect."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every family of the dialect."""
        match self.dialect:
            case "vllm":
                yield from self._vllm()
            case "sglang":
                yield from self._sglang()
            case "llama.cpp":
                yield from self._llama_cpp()
            case "tei":
                yield from self._tei()
            case _:
                yield from self._http()

    @property
    def _kv_usage(self) -> float:
        return min(self.batch.kv_used / self.batch.speed.kv_tokens, 1.0)

    def _vllm(self) -> Iterator[Metric]:
        figures = self.batch.figures
        old = self.generation == "v0"
        labels = {"model_name": self.model} if old else {"engine": "0", "model_name": self.model}
        yield _gauge("vllm:num_requests_running", len(self.batch.running), labels)
        yield _gauge("vllm:num_requests_waiting", len(self.batch.waiting), labels)
        usage = "vllm:gpu_cache_usage_perc" if old else "vllm:kv_cache_usage_perc"
        yield _gauge(usage, self._kv_usage, labels)
        if old:
            yield _gauge("vllm:num_requests_swapped", 0, labels)
        else:
            yield _counter("vllm:prefix_cache_queries", figures.prefix_queried, labels)
            yield _counter("vllm:prefix_cache_hits", figures.prefix_hit, labels)
        yield _counter("vllm:num_preemptions", figures.preemptions, labels)
        yield _counter("vllm:prompt_tokens", figures.prompt_tokens, labels)
        yield _counter("vllm:generation_tokens", figures.generation_tokens, labels)
        success = CounterMetricFamily(
            "vllm:request_success", _help("request_success"), labels=[*labels, "finished_reason"]
        )
        for reason in ("stop", "length", "abort"):
            success.add_metric([*labels.values(), reason], figures.finished[reason])
        yield success
        per_token = "time_per_output_token" if old else "inter_token_latency"
        for name, histogram in (
            ("time_to_first_token_seconds", figures.first_token_s),
            (f"{per_token}_seconds", figures.inter_token_s),
            ("e2e_request_latency_seconds", figures.end_to_end_s),
            ("request_queue_time_seconds", figures.queue_s),
            ("request_prefill_time_seconds", figures.prefill_s),
            ("request_decode_time_seconds", figures.decode_s),
            ("request_inference_time_seconds", figures.inference_s),
            ("request_prompt_tokens", figures.request_prompt_tokens),
            ("request_generation_tokens", figures.request_generation_tokens),
        ):
            yield _histogram(f"vllm:{name}", histogram, labels)
        if not old:
            name = "vllm:request_time_per_output_token_seconds"
            yield _histogram(name, figures.per_token_s, labels)
        yield self._cache_config({} if old else {"engine": "0"})

    def _cache_config(self, labels: dict[str, str]) -> Metric:
        blocks = self.batch.speed.kv_tokens // BLOCK_TOKENS
        config = {
            "block_size": str(BLOCK_TOKENS),
            "cache_dtype": "auto",
            "enable_prefix_caching": "True",
            "num_gpu_blocks": str(blocks),
        }
        return _gauge("vllm:cache_config_info", 1, config | labels)

    def _sglang(self) -> Iterator[Metric]:
        figures = self.batch.figures
        labels = {
            "engine_type": "unified",
            "model_name": self.model,
            "pp_rank": "0",
            "tp_rank": "0",
        }
        yield _gauge("sglang:num_running_reqs", len(self.batch.running), labels)
        yield _gauge("sglang:num_queue_reqs", len(self.batch.waiting), labels)
        yield _gauge("sglang:token_usage", self._kv_usage, labels)
        yield _gauge("sglang:num_used_tokens", self.batch.kv_used, labels)
        yield _gauge("sglang:max_total_num_tokens", self.batch.speed.kv_tokens, labels)
        yield _gauge("sglang:gen_throughput", self.batch.tokens_per_s, labels)
        yield _gauge("sglang:num_retracted_reqs", 0, labels)
        # these move only when a request ends, as SGLang's do
        yield _counter("sglang:prompt_tokens", figures.finished_prompt_tokens, labels)
        yield _counter("sglang:generation_tokens", figures.finished_generation_tokens, labels)
        yield _counter("sglang:cached_tokens", figures.prefix_hit, labels)
        yield _counter("sglang:num_requests", figures.completed, labels)
        yield _counter("sglang:num_aborted_requests", figures.finished["abort"], labels)
        realtime = CounterMetricFamily(
            "sglang:realtime_tokens", _help("realtime_tokens"), labels=[*labels, "mode"]
        )
        for mode, tokens in (
            ("prefill_compute", figures.prompt_tokens - figures.prefix_hit),
            ("prefill_cache", figures.prefix_hit),
            ("decode", figures.generation_tokens),
        ):
            realtime.add_metric([*labels.values(), mode], tokens)
        yield realtime
        for name, histogram in (
            ("time_to_first_token_seconds", figures.sglang_first_token_s),
            ("inter_token_latency_seconds", figures.sglang_inter_token_s),
            ("e2e_request_latency_seconds", figures.end_to_end_s),
        ):
            yield _histogram(f"sglang:{name}", histogram, labels)

    def _llama_cpp(self) -> Iterator[Metric]:
        figures = self.batch.figures
        yield _counter("llamacpp:prompt_tokens", figures.prompt_tokens, {})
        yield _counter("llamacpp:prompt_seconds", figures.prompt_seconds, {})
        yield _counter("llamacpp:tokens_predicted", figures.generation_tokens, {})
        yield _counter("llamacpp:tokens_predicted_seconds", figures.predicted_seconds, {})
        yield _gauge("llamacpp:predicted_tokens_seconds", self.batch.tokens_per_s, {})
        yield _gauge("llamacpp:requests_processing", len(self.batch.running), {})
        yield _gauge("llamacpp:requests_deferred", len(self.batch.waiting), {})

    def _tei(self) -> Iterator[Metric]:
        figures = self.batch.figures
        yield _gauge("te_queue_size", len(self.batch.waiting), {})
        # TEI's counters have no suffix: they go out as what they are called
        yield _gauge("te_request_count", figures.completed + figures.finished["abort"], {})
        yield _gauge("te_request_success", figures.completed, {})
        yield _histogram("te_request_duration", figures.end_to_end_s, {})
        yield _histogram("te_request_queue_duration", figures.queue_s, {})
        yield _histogram("te_request_inference_duration", figures.inference_s, {})

    def _http(self) -> Iterator[Metric]:
        figures = self.batch.figures
        requests = CounterMetricFamily(
            "http_requests", "Total number of requests.", labels=["handler", "method", "status"]
        )
        for (handler, method, status), count in figures.http.items():
            requests.add_metric([handler, method, status], count)
        yield requests
        labels = {"handler": "/embeddings", "method": "POST"}
        yield _histogram("http_request_duration_seconds", figures.http_s, labels)


def _help(name: str) -> str:
    return name.replace("_", " ")


def _gauge(name: str, value: float, labels: dict[str, str]) -> Metric:
    family = GaugeMetricFamily(name, _help(name), labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _counter(name: str, value: float, labels: dict[str, str]) -> Metric:
    family = CounterMetricFamily(name, _help(name), labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _histogram(name: str, histogram: Histogram, labels: dict[str, str]) -> Metric:
    family = HistogramMetricFamily(name, _help(name), labels=list(labels))
    family.add_metric(list(labels.values()), histogram.cumulative(), histogram.total)
    return family
