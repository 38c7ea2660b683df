"""vLLM's own OpenAI-compatible server, real, on a free port of loopback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.servers import free_port, start_server

_START_S = 300.0  # three processes import vLLM


@contextmanager
def vllm_serve(model: Path, name: str, log: Path, *, max_model_tokens: int = 0, kv_cache_bytes: int = 2**28) -> Iterator[str]:
    """Base URL of a server of the model in this directory, in float32. `max_model_tokens`: 0 leaves the model's own. Its log has what goes wrong."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
        "--generation-config",
        "vllm",
    ]
    # as in our own engine on a CPU: a seeded request ends it under chunked prefill
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192", "--kv-cache-memory-bytes", str(kv_cache_bytes)]
    command += ["--max-model-len", str(max_model_tokens)] if max_model_tokens else []
    environment = {
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "2",
    }

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    with start_server(command, ready, log=log, timeout_s=_START_S, environment=environment):
        yield f"http://127.0.0.1:{port}/v1"
