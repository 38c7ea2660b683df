"""The OpenAI-compatible door: what it adds to a call over gRPC, and many streams for a minute.

    python -m benchmarks.door [--rounds 7] [--requests 200] [--concurrency 16] [--streams 64] [--seconds 60] [--json]

Engine, door and client are processes of their own. The engine is the fake, of as many threads as there are streams, and for the minute it takes
5 ms a token, so that all streams are open at once. Ways alternate, and each figure is a median over the rounds:

    whole     requests/s of short answers, by gRPC and through the door (httpx, HTTP/1.1, connections kept)
    streams   tokens/s of streams of 64 tokens, likewise
    minute    streams at once for so many seconds through the door: errors, tokens/s, the door's memory after a tenth of the time and at the end

The client's own work is in every figure: the door's process also tells its CPU seconds a request. Bars: no error, and memory that grows by at most 5 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from semievol.algorithm.types import Message
from semievol.client.asynchronous import AsyncGenerationClient
from semievol.generation.backends.fake import FakeEngine
from semievol.ports import NEVER, Cancel, ChatDelta, Prompt, Sampling

from tests.servers import free_port

GROWTH_BAR = 1.05
WORDS = 64
TEXT = " ".join(f"w{number}" for number in range(WORDS))
QUESTION = "What is it?"
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Engine(FakeEngine):
    """Takes `pause_s` a streamed token. It has a `check` and a `close` as what works elsewhere, so that calls run side by side."""

    def __init__(self, pause_s: float) -> None:
        super().__init__(lambda model, messages, seed: TEXT)
        self._pause_s = pause_s

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        for delta in super().chat(model, prompt, sampling, cancel=cancel):
            if self._pause_s:
                time.sleep(self._pause_s)
            yield delta

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass


def serve_engine(address: str, pause_s: float, threads: int) -> None:
    """What the engine's process runs."""
    from semievol.common.serving import serve
    from semievol.generation.server import service
    from semievol.generation.settings import GenerationSettings

    settings = GenerationSettings(parallel_calls=threads, max_waiting_count=1024)
    serve(lambda: service(settings, Engine(pause_s)), address)


@contextmanager
def running(pause_s: float, threads: int) -> Iterator[tuple[str, str, int]]:
    """(the engine's address, the door's URL, the door's process)."""
    engine, door = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    environment = os.environ | {
        "SEMIEVOL_DOOR_ADDRESS": door,
        "SEMIEVOL_DOOR_GENERATION": engine,
        "SEMIEVOL_DOOR_API_KEYS": "key",
    }
    commands = [
        ["-m", "benchmarks.door", "--engine", engine, "--pause", str(pause_s), "--threads", str(threads)],
        ["-m", "semievol.door.server"],
    ]
    started = [subprocess.Popen([sys.executable, *one], env=environment, stderr=subprocess.DEVNULL) for one in commands]
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://{door}/health").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        yield engine, f"http://{door}/v1", started[1].pid
    finally:
        for process in started:
            process.terminate()
            process.wait(30)


def memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Ways:
    """One request at a time, whatever its number; each returns how many tokens it brought."""

    def __init__(self, engine: str, door: str, connections: int) -> None:
        self._grpc = AsyncGenerationClient(engine)
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http = httpx.AsyncClient(
            base_url=door, headers={"Authorization": "Bearer key"}, timeout=120, limits=limits, trust_env=False
        )
        self._prompt = Prompt("bench", (Message("user", QUESTION),))
        self._sampling = Sampling(max_tokens=2 * WORDS)
        messages = [{"role": "user", "content": QUESTION}]
        self._body = {"model": "base", "messages": messages, "temperature": 0, "max_tokens": 2 * WORDS}

    async def whole_grpc(self, number: int) -> int:
        (generation,), _ = await self._grpc.generate("base", [self._prompt], self._sampling)
        return len(generation.completions[0].tokens)

    async def whole_door(self, number: int) -> int:
        answer = (await self._http.post("/chat/completions", json=self._body)).raise_for_status().json()
        return int(answer["usage"]["completion_tokens"])

    async def stream_grpc(self, number: int) -> int:
        return sum([len(delta.tokens) async for delta, _ in self._grpc.chat("base", self._prompt, self._sampling)])

    async def stream_door(self, number: int) -> int:
        """Every chunk is read as JSON, as a client must."""
        tokens, ended = 0, False
        async with self._http.stream("POST", "/chat/completions", json=self._body | {"stream": True}) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    tokens += bool(json.loads(line[6:])["choices"][0]["delta"].get("content"))
        if not ended:
            raise RuntimeError("a stream ended before its end")
        return tokens

    async def close(self) -> None:
        await self._http.aclose()
        await self._grpc.close()


Way = Callable[[int], Awaitable[int]]  # number of a request -> its tokens


async def rate(way: Way, requests: int, concurrency: int) -> tuple[float, float]:
    """(requests/s, tokens/s) of so many requests, `concurrency` at a time."""
    numbers = iter(range(requests))
    started = time.perf_counter()

    async def worker() -> int:
        return sum([await way(number) for number in numbers])

    tokens = sum(await asyncio.gather(*(worker() for _ in range(concurrency))))
    took = time.perf_counter() - started
    return requests / took, tokens / took


async def compare(requests: int, concurrency: int, rounds: int) -> dict[str, Any]:
    with running(0.0, concurrency) as (engine, url, pid):
        ways = Ways(engine, url, concurrency)
        named = {name: getattr(ways, name) for name in ("whole_grpc", "whole_door", "stream_grpc", "stream_door")}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
        cpu: dict[str, float] = dict.fromkeys(named, 0.0)
        for number in range(rounds + 1):  # the first warms up
            for name in list(named)[:: -1 if number % 2 else 1]:
                before = cpu_seconds(pid)
                figures = await rate(named[name], requests, concurrency)
                if number:
                    found[name].append(figures)
                    cpu[name] += (cpu_seconds(pid) - before) / rounds / requests
        await ways.close()
    median = {name: [statistics.median(one[k] for one in figures) for k in (0, 1)] for name, figures in found.items()}
    return {
        "whole_grpc_requests_per_s": round(median["whole_grpc"][0]),
        "whole_door_requests_per_s": round(median["whole_door"][0]),
        "whole_ratio": round(median["whole_door"][0] / median["whole_grpc"][0], 3),
        "whole_door_cpu_ms_per_request": round(1000 * cpu["whole_door"], 2),
        "stream_grpc_tokens_per_s": round(median["stream_grpc"][1]),
        "stream_door_tokens_per_s": round(median["stream_door"][1]),
        "stream_ratio": round(median["stream_door"][1] / median["stream_grpc"][1], 3),
        "stream_door_cpu_us_per_token": round(1e6 * cpu["stream_door"] / WORDS),
    }


async def hold(stream: Way, memory_bytes: Callable[[], int], streams: int, seconds: float) -> dict[str, Any]:
    """So many streams at once for so long, each request with a number of its own; memory after a tenth of the time and near the end."""
    end, failures, memory, replies = time.monotonic() + seconds, list[str](), list[int](), 0

    async def worker(number: int) -> int:
        nonlocal replies
        tokens = 0
        while time.monotonic() < end:
            try:
                tokens += await stream(number)
                replies += 1
            except (httpx.HTTPError, RuntimeError, ValueError) as error:
                failures.append(repr(error))
            number += streams
        return tokens

    async def watch() -> None:
        for share in (0.1, 0.85):
            await asyncio.sleep(seconds * share)
            memory.append(memory_bytes())

    watching = asyncio.create_task(watch())
    tokens = sum(await asyncio.gather(*(worker(number) for number in range(streams))))
    await watching
    return {
        "streams": streams,
        "seconds": seconds,
        "errors": len(failures),
        "first_error": failures[0] if failures else "",
        "replies": replies,
        "tokens_per_s": round(tokens / seconds, 1),
        "memory_mib": [round(one / 2**20, 1) for one in memory],
        "memory_growth": round(memory[1] / memory[0], 3),
        "growth_bar": GROWTH_BAR,
    }


async def minute(streams: int, seconds: float) -> dict[str, Any]:
    with running(0.005, streams) as (engine, url, pid):
        ways = Ways(engine, url, streams)
        try:
            return await hold(ways.stream_door, lambda: memory_bytes(pid), streams, seconds)
        finally:
            await ways.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    parser.add_argument("--pause", type=float, default=0.0, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.engine:
        serve_engine(args.engine, args.pause, args.threads)
        return 0
    found = {
        "compared": asyncio.run(compare(args.requests, args.concurrency, args.rounds)),
        "minute": asyncio.run(minute(args.streams, args.seconds)),
    }
    if args.json:
        print(json.dumps(found))
    else:
        for part, figures in found.items():
            print(part, *(f"  {name:32} {value}" for name, value in figures.items()), sep="\n")
    minute_found = found["minute"]
    return int(minute_found["errors"] > 0 or minute_found["memory_growth"] > GROWTH_BAR)


if __name__ == "__main__":
    sys.exit(main())
