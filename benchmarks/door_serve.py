"""The OpenAI-compatible door before a vLLM engine of ours, beside `vllm serve`: the same weights, requests and settings, taking turns.

    python -m benchmarks.door_serve [--rounds 5] [--requests 48] [--concurrency 16] [--streams 64] [--seconds 60] [--model NAME] [--json]

Ours are three processes, as on a cluster: door, router, engine. Both sides have the same threads, precision and limits, and are asked in turns,
so one idles while the other works.

    whole     requests/s of answers of at most 32 tokens to chats of different lengths, `concurrency` at a time (bar: 0.95 of theirs)
    streams   the same as streams, and the median time to a stream's first token
    minute    streams at once for so many seconds through our door: errors, tokens/s, memory of all our processes after a tenth of the time and
              at the end (bars: no error, growth by at most 5 %); then the same through `vllm serve`, since vLLM's own worker grows too
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from semievol.common.models import resolve_model
from semievol.generation.settings import GenerationSettings

from benchmarks.door import GROWTH_BAR, hold, rate
from benchmarks.generation_service import make_prompts
from tests.servers import free_port
from tests.servers.vllm_serve import vllm_serve

BARS = {"whole": 0.95, "growth": GROWTH_BAR}
REPLY_TOKENS = 32
_MODEL_TOKENS, _KV_GIB = 2048, 1
_START_S = 300.0


@contextmanager
def our_door(model: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """(base URL, processes) of door, router and engine."""
    engine, router, door = (f"127.0.0.1:{free_port()}" for _ in range(3))
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            "SEMIEVOL_GENERATION_ADDRESS": engine,
            "SEMIEVOL_GENERATION_BACKEND": "vllm",
            "SEMIEVOL_GENERATION_MODEL": str(model),
            "SEMIEVOL_GENERATION_PRECISION": "float32",
            "SEMIEVOL_GENERATION_STORE": f"{scratch}/artifacts",
            "SEMIEVOL_GENERATION_CACHE": f"{scratch}/cache",
            "SEMIEVOL_VLLM_MAX_MODEL_TOKENS": str(_MODEL_TOKENS),
            "SEMIEVOL_VLLM_KV_CACHE_GIB": str(_KV_GIB),
            "SEMIEVOL_ROUTER_ADDRESS": router,
            "SEMIEVOL_ROUTER_ENGINES": engine,
            "SEMIEVOL_ROUTER_STORE": f"{scratch}/artifacts",
            "SEMIEVOL_DOOR_ADDRESS": door,
            "SEMIEVOL_DOOR_GENERATION": router,
            "SEMIEVOL_DOOR_EMBEDDING": "",
        }
        started = []
        try:
            for module in ("generation", "generation.router", "door"):
                with Path(scratch, f"{module}.log").open("w") as log:
                    command = [sys.executable, "-m", f"semievol.{module}.server"]
                    started.append(subprocess.Popen(command, env=os.environ | settings, stdout=log, stderr=log))
            wait_for(f"http://{door}/health", started)
            yield f"http://{door}/v1", [psutil.Process(one.pid) for one in started]
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(60)


def wait_for(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        if any(one.poll() is not None for one in processes):
            raise RuntimeError(f"{processes} ended before {url} answered")
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"{url} does not answer")


class Side:
    """A server of the API, asked with the same requests in the same order."""

    def __init__(self, url: str, model: str, prompts: list[list[dict[str, str]]], connections: int) -> None:
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False)
        self._model, self._prompts = model, prompts
        self.first_token_s: list[float] = []
        self.texts: dict[int, str] = {}

    async def whole(self, number: int) -> int:
        answer = (await self._http.post("/chat/completions", json=self._body(number))).raise_for_status().json()
        self.texts[number] = answer["choices"][0]["message"]["content"]
        return int(answer["usage"]["completion_tokens"])

    async def stream(self, number: int) -> int:
        tokens, ended, began = 0, False, time.perf_counter()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        async with self._http.stream("POST", "/chat/completions", json=self._body(number) | options) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    piece = json.loads(line[6:])
                    if began and piece["choices"] and piece["choices"][0]["delta"].get("content"):
                        self.first_token_s.append(time.perf_counter() - began)
                        began = 0.0
                    tokens = (piece.get("usage") or {}).get("completion_tokens", tokens)
        if not ended:
            raise RuntimeError("a stream ended before its end")
        return tokens

    async def close(self) -> None:
        await self._http.aclose()

    def _body(self, number: int) -> dict[str, Any]:
        messages = self._prompts[number % len(self._prompts)]
        return {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": REPLY_TOKENS}


async def compare(ours: Side, theirs: Side, asked: argparse.Namespace) -> dict[str, Any]:
    sides, found = {"ours": ours, "theirs": theirs}, dict[tuple[str, str], list[float]]()
    for number in range(asked.rounds + 1):  # the first warms up
        for side in list(sides)[:: -1 if number % 2 else 1]:
            for way in ("whole", "stream"):
                rated, _ = await rate(getattr(sides[side], way), asked.requests, asked.concurrency)
                if number:
                    found.setdefault((side, way), []).append(rated)
                else:
                    sides[side].first_token_s.clear()
    median = {name: statistics.median(rates) for name, rates in found.items()}
    first = {name: 1000 * statistics.median(side.first_token_s) for name, side in sides.items()}
    return {
        "whole_requests_per_s": [round(median[side, "whole"], 2) for side in sides],
        "whole_ratio": round(median["ours", "whole"] / median["theirs", "whole"], 3),
        "stream_requests_per_s": [round(median[side, "stream"], 2) for side in sides],
        "stream_ratio": round(median["ours", "stream"] / median["theirs", "stream"], 3),
        "first_token_ms": [round(first[side], 1) for side in sides],
        "same_texts": f"{sum(ours.texts[n] == theirs.texts[n] for n in ours.texts)} of {len(ours.texts)}",
    }


def memory_of(processes: list[psutil.Process]) -> int:
    """Bytes, their children's included."""
    return sum(one.memory_info().rss for parent in processes for one in (parent, *parent.children(recursive=True)))


async def measure(ours: str, theirs: str, processes: list[psutil.Process], asked: argparse.Namespace) -> dict[str, Any]:
    prompts = [
        [{"role": message.role, "content": message.content} for message in prompt.messages]
        for prompt in make_prompts(asked.requests, 0)
    ]
    side = Side(ours, "base", prompts, asked.streams)
    other = Side(theirs, "model", prompts, asked.streams)
    try:
        compared = await compare(side, other, asked)
        other_processes = [one for one in psutil.Process().children() if one not in processes]
        return {
            "compared": compared,
            "minute": await hold(side.stream, lambda: memory_of(processes), asked.streams, asked.seconds),
            "their_minute": await hold(other.stream, lambda: memory_of(other_processes), asked.streams, asked.seconds),
        }
    finally:
        await side.close()
        await other.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default=GenerationSettings().model)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    asked = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory = resolve_model(asked.model, scratch).directory
        limits = {"max_model_tokens": _MODEL_TOKENS, "kv_cache_bytes": _KV_GIB * 2**30}
        ours, processes = stack.enter_context(our_door(directory))
        theirs = stack.enter_context(vllm_serve(directory, "model", scratch / "serve.log", **limits))
        result = asyncio.run(measure(ours, theirs, processes, asked)) | {"bars": BARS}
    if asked.json:
        print(json.dumps(result))
    else:
        for part in ("compared", "minute", "their_minute"):
            print(part, *(f"  {name:32} {value}" for name, value in result[part].items()), sep="\n")
    ended = result["minute"]
    good = ended["errors"] == 0 and ended["memory_growth"] <= BARS["growth"]
    return int(result["compared"]["whole_ratio"] < BARS["whole"] or not good)


if __name__ == "__main__":
    sys.exit(main())
