"""What /metrics tells, for one door: each has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From a tiny model's first token to a long reply of a large one on a CPU, seconds.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
KNOWN = ("/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class Metrics:
    """Labels are bounded: the paths that are served, and `other`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "semievol_door_requests", "Requests by path and HTTP status.", ["path", "status"], registry=self.registry
        )
        self.duration = Histogram(
            "semievol_door_request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "semievol_door_first_token_seconds",
            "From a streamed request's head to the first piece of its reply.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter(
            "semievol_door_tokens", "Tokens of prompts (in) and replies (out).", ["direction"], registry=self.registry
        )
        self.open_requests = Gauge("semievol_door_open_requests", "Requests at work.", registry=self.registry)
        self.open_streams = Gauge("semievol_door_open_streams", "Streams that are being written.", registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def used(self, prompt_tokens: int, reply_tokens: int) -> None:
        self.tokens.labels("in").inc(prompt_tokens)
        self.tokens.labels("out").inc(reply_tokens)


def label(path: str) -> str:
    """The label of a request's path."""
    if path in KNOWN:
        return path
    return "/v1/models/{model}" if path.startswith("/v1/models/") else "other"
