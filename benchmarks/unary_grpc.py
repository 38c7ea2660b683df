"""Unary calls through our server, interceptors included, against a bare grpc.aio echo.

    python -m benchmarks.unary_grpc [--calls 2000] [--rounds 9] [--concurrency 8] [--json]

Both servers are in one process of their own and the client in another; the two alternate, and each figure is a median over the rounds. The
bar is 0.80 of the echo's calls per second, for the lightest method of every server: its health check. `GetInfo` of the embedding service is
shown beside it: it goes through a worker thread, as every call does that may block.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.embedding.server import service
from semievol.embedding.settings import EmbeddingSettings
from semievol.embedding.v1 import embedding_service_pb2 as embedding

BAR = 0.80
ECHO, HEALTH, INFO = "bare echo", "health check", "GetInfo"
_PATHS = {
    ECHO: "/bare.v1.Echo/Say",
    HEALTH: "/grpc.health.v1.Health/Check",
    INFO: "/semievol.embedding.v1.EmbeddingService/GetInfo",
}
_REQUESTS = {
    ECHO: health_pb2.HealthCheckRequest().SerializeToString(),
    HEALTH: health_pb2.HealthCheckRequest().SerializeToString(),
    INFO: embedding.GetInfoRequest().SerializeToString(),
}


async def echo_server() -> tuple[grpc.aio.Server, str]:
    async def say(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.v1.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"


async def serve() -> None:
    """What the servers' process runs: prints both addresses, and ends when its input does."""
    from semievol.common.grpc_server import Server

    ours = Server([service(EmbeddingSettings(), FakeEmbedder())])
    await ours.start()
    bare, address = await echo_server()
    print(json.dumps({ECHO: address, HEALTH: ours.address, INFO: ours.address}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await bare.stop(0)
    await ours.stop(0)


async def calls_per_s(channel: grpc.aio.Channel, name: str, calls: int, concurrency: int) -> float:
    call = channel.unary_unary(_PATHS[name])

    async def client() -> None:
        for _ in range(calls // concurrency):
            await call(_REQUESTS[name])

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return calls / (time.perf_counter() - started)


async def measure(addresses: dict[str, str], calls: int, rounds: int, concurrency: int) -> dict[str, list[float]]:
    speeds: dict[str, list[float]] = {name: [] for name in addresses}
    channels = {name: grpc.aio.insecure_channel(address) for name, address in addresses.items()}
    for number in range(rounds + 1):
        for name in list(addresses) if number % 2 else list(addresses)[::-1]:
            speed = await calls_per_s(channels[name], name, calls, concurrency)
            if number:  # the first round warms up
                speeds[name].append(speed)
    for channel in channels.values():
        await channel.close()
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
        return
    command = [sys.executable, "-m", "benchmarks.unary_grpc", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
        assert servers.stdout is not None
        addresses = json.loads(servers.stdout.readline())
        speeds = asyncio.run(measure(addresses, arguments.calls, arguments.rounds, arguments.concurrency))
        servers.communicate("", timeout=30)
    result = {name: {"calls_per_s": round(statistics.median(each), 1)} for name, each in speeds.items()}
    for name, one in result.items():
        one["ratio"] = round(statistics.median(own / bare for own, bare in zip(speeds[name], speeds[ECHO], strict=True)), 3)
    if arguments.json:
        print(json.dumps({"bar": BAR, "rounds": arguments.rounds, **result}))
        return
    print(f"{arguments.calls} calls, {arguments.concurrency} at a time, median of {arguments.rounds} interleaved rounds")
    for name, one in result.items():
        verdict = f"  (bar {BAR}: {'met' if one['ratio'] >= BAR else 'missed'})" if name == HEALTH else ""
        print(f"  {name:14} {one['calls_per_s']:8.0f} calls/s  {one['ratio']:6.3f} of the echo{verdict}")


if __name__ == "__main__":
    main()
