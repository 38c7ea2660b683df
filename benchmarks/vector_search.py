"""Exact and approximate search through our backends and services against a flat scan by numpy.

    python -m benchmarks.vector_search [--rows 100000] [--queries 1000] [--rounds 5] [--only lite-flat,...] [--json]

Milvus Lite and a real Milvus server (2.3.5), called through our backend in this process and through the retrieval service over
gRPC; numpy multiplies the matrices and takes the best k by argpartition. Same vectors, same k; the contenders alternate, and each
figure is a median. The bar is 0.8 of numpy's speed for exact search.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from semievol.client.retrieval import RetrievalClient
from semievol.ports import CollectionSpec, FloatMatrix, IndexType, VectorIndex, VectorQuery, VectorRecord
from semievol.retrieval.backends.milvus import MilvusIndex
from semievol.retrieval.backends.milvus_connection import connect
from semievol.retrieval.server import service
from semievol.retrieval.settings import RetrievalSettings

from tests.running import running
from tests.servers.milvus import MilvusServer

BAR = 0.8
K = 3
INDEXED_S = 600.0  # how long the server may take to build an HNSW index
_CLUSTERS, _SPREAD = 1000, 0.7  # sentences lie in clusters; in uniform noise every neighbour is as far as the next


def make_vectors(rows: int, queries: int, dimension: int, seed: int = 0) -> tuple[FloatMatrix, FloatMatrix]:
    """[rows, d] and [queries, d] unit vectors around the same random centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(_CLUSTERS, dimension)).astype(np.float32)

    def draw(count: int) -> FloatMatrix:
        matrix = centres[rng.integers(_CLUSTERS, size=count)] + _SPREAD * rng.normal(size=(count, dimension)).astype(np.float32)
        unit: FloatMatrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        return unit

    return draw(rows), draw(queries)


def numpy_scan(library: FloatMatrix, queries: FloatMatrix, ids: list[str]) -> list[list[str]]:
    scores = queries @ library.T
    best = np.argpartition(scores, -K, axis=1)[:, -K:]
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return [[ids[i] for i in row] for row in np.take_along_axis(best, order, axis=1)]


@dataclass
class Contender:
    index: VectorIndex
    collection: str
    server: MilvusServer | None = None


@contextmanager
def contenders(library: FloatMatrix, ids: list[str], only: set[str]) -> Iterator[dict[str, Contender]]:
    """Name -> a filled collection behind an index, in process and over gRPC."""
    found: dict[str, Contender] = {}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="semievol-vectors-")))
        for store in ("lite", "server"):
            wanted = [kind for kind in IndexType if not only or any(name.startswith(f"{store}-{kind}") for name in only)]
            if not wanted:
                continue
            server, uri = None, str(home / "vectors.db")
            if store == "server":
                server = MilvusServer(home / "server")
                stack.callback(server.kill)
                server.start()
                uri = server.uri
            index = MilvusIndex(connect(uri, call_timeout_s=120))
            stack.callback(index.close)
            client = RetrievalClient(stack.enter_context(running(service(RetrievalSettings(), index))))
            stack.callback(client.close)
            for kind in wanted:
                name = f"{store}-{kind}"
                started = time.perf_counter()
                fill(index, CollectionSpec(name.replace("-", "_"), library.shape[1], kind), library, ids)
                print(f"{name}: {len(ids)} rows written in {time.perf_counter() - started:.1f} s", flush=True)
                found[name] = Contender(index, name.replace("-", "_"), server)
                found[f"{name}-grpc"] = Contender(client, name.replace("-", "_"), server)
        yield {name: one for name, one in found.items() if not only or name in only}


def fill(index: MilvusIndex, spec: CollectionSpec, library: FloatMatrix, ids: list[str]) -> None:
    """Writes the rows, and waits until the server has indexed them all."""
    index.create(spec)
    index.upsert(spec.name, [VectorRecord(row_id, vector) for row_id, vector in zip(ids, library, strict=True)])
    client = index._connection.client
    client.flush(spec.name)
    end = time.monotonic() + INDEXED_S
    while client.describe_index(spec.name, index_name="vector").get("pending_index_rows", 0) and time.monotonic() < end:
        time.sleep(1)
    assert index.describe(spec.name).row_count == len(ids)


def cpu_s(server: MilvusServer | None) -> float:
    """CPU seconds of this process, and of the server's processes; they say more than the clock on a machine that others use too."""
    ticks = 0
    for pid in server.processes() if server else []:
        ticks += sum(int(part) for part in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(server: MilvusServer | None = None) -> float:
    """Resident memory of this process, or of the server's processes."""
    own = [os.getpid()] if server is None else server.processes()
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in own)
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def peak_mb(work: Callable[[], Any]) -> float:
    """By how much this process grew at most while it worked."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident_mb()
    work()
    status = Path("/proc/self/status").read_text()
    peak_kb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return round(peak_kb * 1024 / 1e6 - before, 1)


def share(found: list[list[str]], exact: list[list[str]]) -> float:
    """Of the exact neighbours, how many were found (recall at k)."""
    return sum(len(set(one) & set(right)) for one, right in zip(found, exact, strict=True)) / sum(map(len, exact))


def measure(rows: int, query_count: int, dimension: int, rounds: int, only: set[str]) -> dict[str, Any]:
    library, matrix = make_vectors(rows, query_count, dimension)
    ids = [f"row-{i:07d}" for i in range(rows)]
    exact = numpy_scan(library, matrix, ids)
    result: dict[str, Any] = {}
    with contenders(library, ids, only) as found:

        def search(one: Contender) -> list[list[str]]:
            queries = [VectorQuery(vector=vector) for vector in matrix]
            return [[hit.id for hit in hits] for hits in one.index.search(one.collection, queries, K)]

        work: dict[str, Callable[[], list[list[str]]]] = {"numpy": lambda: numpy_scan(library, matrix, ids)}
        work |= {name: (lambda one=one: search(one)) for name, one in found.items()}  # type: ignore[misc]
        for name, act in work.items():
            result[name] = {"recall": share(act(), exact), "peak_mb": peak_mb(act)}  # the first call also warms
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
        for i in range(rounds):
            for name in list(work) if i % 2 else list(work)[::-1]:
                server = found[name].server if name in found else None
                wall, cpu = time.perf_counter(), cpu_s(server)
                work[name]()
                times[name].append((time.perf_counter() - wall, cpu_s(server) - cpu))
        for name, seconds in times.items():
            ratios = [plain[0] / one[0] for plain, one in zip(times["numpy"], seconds, strict=True)]
            cpu_ratios = [plain[1] / max(one[1], 1e-3) for plain, one in zip(times["numpy"], seconds, strict=True)]
            result[name] |= {"queries_per_s": query_count / statistics.median(wall for wall, _ in seconds)}
            result[name] |= {"ratio": statistics.median(ratios), "cpu_ratio": statistics.median(cpu_ratios)}
            result[name]["ratio_of_each_round"] = [round(ratio, 3) for ratio in ratios]
        result["memory_mb"] = {"this process": resident_mb()}
        if server := next((one.server for one in found.values() if one.server), None):
            result["memory_mb"]["server"] = resident_mb(server)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names, comma-separated: lite-flat, server-hnsw-grpc, ...")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    only = {name for name in arguments.only.split(",") if name}
    result = measure(arguments.rows, arguments.queries, arguments.dimension, arguments.rounds, only)
    if arguments.json:
        print(json.dumps(result))
        return
    memory = result.pop("memory_mb")
    print(
        f"{arguments.rows} x {arguments.dimension}, {arguments.queries} queries a call, k={K}, median of {arguments.rounds} rounds"
    )
    for name, one in result.items():
        print(
            f"  {name:17} {one['queries_per_s']:8.0f} queries/s   ratio {one['ratio']:6.3f} {one['ratio_of_each_round']}   "
            f"of CPU seconds {one['cpu_ratio']:6.3f}   "
            f"recall {one['recall']:.4f}   peak +{one['peak_mb']:.0f} MB"
        )
    print(f"  bar {BAR} for exact search; resident at the end: {memory}")


if __name__ == "__main__":
    main()
