"""The S3 store against the `minio` client that it is built on: writing a file and reading it back, on a real MinIO on this machine.

    python -m benchmarks.s3_store [--mebibytes 1024] [--rounds 5] [--json]

The client is called as its documentation says (`fput_object`, `get_object`), and once more with the store's part size and number of
parallel parts. All take turns, the order changes from round to round, and each figure is a median. The bar is 0.80 of the faster client.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semievol.common.stores import open_store, s3_upload

from tests.servers.s3 import OWNER, S3Server, minio_in

BAR = 0.80
CHUNK = 1 << 20


def measure(server: S3Server, file: Path, rounds: int) -> dict[str, Any]:
    store, client, bucket = open_store(server.uri(server.bucket)), server.client(), server.bucket
    size = file.stat().st_size

    def client_put() -> None:
        client.fput_object(bucket, "client", str(file))

    def tuned_put() -> None:
        client.fput_object(bucket, "tuned", str(file), part_size=s3_upload.PART_BYTES, num_parallel_uploads=4)

    def client_get() -> None:
        response = client.get_object(bucket, "client")
        assert sum(len(chunk) for chunk in response.stream(CHUNK)) == size
        response.release_conn()

    def store_get() -> None:
        with store.open("store") as stream:
            assert sum(map(len, iter(lambda: stream.read(CHUNK), b""))) == size

    work: dict[str, Callable[[], None]] = {
        "put client": client_put,
        "put client, 16 MiB x 4": tuned_put,
        "put store": lambda: store.put("store", file),
        "get client": client_get,
        "get store": store_get,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(rounds + 1):  # the first one warms up
        for kind in ("put", "get"):
            names = [name for name in work if name.startswith(kind)]
            for name in names[round_number % len(names) :] + names[: round_number % len(names)]:
                start = time.perf_counter()
                work[name]()
                if round_number:
                    seconds[name].append(time.perf_counter() - start)
    rates = {name: round(size / statistics.median(times) / 1e6, 1) for name, times in seconds.items()}
    ratios = {
        kind: round(rates[f"{kind} store"] / max(rate for name, rate in rates.items() if name.startswith(f"{kind} client")), 3)
        for kind in ("put", "get")
    }
    return {"bytes": size, "rounds": rounds, "megabytes_per_s": rates, "ratio": ratios, "bar": BAR}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID=OWNER[0], AWS_SECRET_ACCESS_KEY=OWNER[1])
    with tempfile.TemporaryDirectory() as scratch, minio_in(Path(scratch)) as server:
        file = Path(scratch, "file")
        with file.open("wb") as target:
            for _ in range(arguments.mebibytes):
                target.write(os.urandom(1 << 20))
        result = measure(server, file, arguments.rounds)
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{arguments.mebibytes} MiB, median of {arguments.rounds} rounds")
    for name, rate in result["megabytes_per_s"].items():
        print(f"  {name:24} {rate:8.1f} MB/s")
    for kind, ratio in result["ratio"].items():
        print(f"  ratio of {kind} {ratio:8.3f}   (bar {BAR}: {'met' if ratio >= BAR else 'missed'})")


if __name__ == "__main__":
    main()
