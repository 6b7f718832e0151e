"""Numbers for Prometheus, under vLLM's names where they mean the same."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)

from guard.config import Config

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which no dashboard reads

STATES = ("starting", "loading", "warming", "ready", "draining", "failed")
# vLLM's own buckets (vllm/v1/metrics/loggers.py), so that histograms of both add up.
FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip


class Metrics:
    """vLLM labels each of its metrics with ``model_name`` and ``engine``; so do we."""

    def __init__(self, config: Config) -> None:
        self.registry = registry = CollectorRegistry()
        names, values = ("model_name", "engine"), (config.served_name, "0")

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, names, registry=registry).labels(*values)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, names, registry=registry).labels(*values)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, names, registry=registry, buckets=buckets).labels(*values)

        self.running = gauge("vllm:num_requests_running", "Sequences in the engine.")
        self.waiting = gauge("vllm:num_requests_waiting", "Requests waiting for a place.")
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self.generated_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.prefix_queries = counter("vllm:prefix_cache_queries", "Prompt tokens looked up.")
        self.prefix_hits = counter("vllm:prefix_cache_hits", "Prompt tokens found kept.")
        self._success = Counter(
            "vllm:request_success",
            "Sequences that ended well, by reason.",
            (*names, "finished_reason"),
            registry=registry,
        )
        self.first_token = histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token.",
            FIRST_TOKEN_S,
        )  # fmt: skip
        self.between_tokens = histogram(
            "vllm:inter_token_latency_seconds", "Between two events of one stream.", TOKEN_S
        )
        self.whole = histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its end.", REQUEST_S
        )
        self.queued = histogram(
            "vllm:request_queue_time_seconds", "Waiting for a place.", REQUEST_S
        )
        self._values = values

        self.requests = Counter(
            "mlx_guard_requests", "Requests by outcome.", ("outcome",), registry=registry
        )
        self._state = Gauge(
            "mlx_guard_state", "1 for the state it is in.", ("state",), registry=registry
        )
        self.starts = Gauge(
            "mlx_guard_starts", "Starts since the instance was last stopped.", registry=registry
        )
        self._memory = Gauge(
            "mlx_guard_engine_memory_bytes",
            "MLX's own count: active, peak, cache; kept prefixes within active.",
            ("kind",),
            registry=registry,
        )
        self.pace = Gauge(
            "mlx_guard_prefill_tokens_per_second", "What hangs are judged by.", registry=registry
        )
        self.miscounted = Counter(
            "mlx_guard_prompts_miscounted",
            "Prompts of which the engine counted other tokens than the guard.",
            registry=registry,
        )
        planned = Gauge("mlx_guard_planned_bytes", "The plan's figure.", registry=registry)
        if config.planned_bytes is not None:
            planned.set(config.planned_bytes)
        self._build = Info("mlx_guard_build", "What runs here.", registry=registry)
        self.identify(config, {})

    def identify(self, config: Config, facts: dict[str, object]) -> None:
        self._build.info(
            {
                "instance": config.instance,
                "model": config.model,
                "inputs": config.inputs,
                "fingerprint": str(facts.get("fingerprint", "")),
            }
        )

    def state(self, now: str) -> None:
        for state in STATES:
            self._state.labels(state).set(state == now)

    def success(self, reason: str) -> None:
        self._success.labels(*self._values, reason).inc()

    def memory(self, facts: dict[str, object]) -> None:
        for kind in ("active", "peak", "cache", "prompt_cache"):
            if isinstance(value := facts.get(f"{kind}_bytes"), int):
                self._memory.labels(kind).set(value)

    def render(self) -> bytes:
        return generate_latest(self.registry)
