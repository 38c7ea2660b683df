"""A million unlabeled rows through check, run (intake, infer, judge, score, select, report), status and plan: is time linear, is memory bounded?

    python -m benchmarks.million_rows [--rows 100000 300000 1000000] [--shard-rows 0] [--s3] [--json]

Models are fakes, so what is measured is everything around them. Each command is a process of its own, and its peak memory is that process's
(kernel's high-water mark). Time is judged by CPU seconds. One collaborator answers without references; one row in a hundred is an exact
duplicate, and `data check` has to count them. With `--s3`, artifacts go to a MinIO that is started for it, which is not counted. The bars: CPU
seconds a row at the largest size at most 1.3 times those at the smallest, and 1 GiB a process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.faults.bench import FAKES
from tests.servers.s3 import OWNER, minio_in

LINEAR, MOST_MIB = 1.3, 1024
SHARDS = 128  # of a run: enough to resume well, few enough to plan and to list quickly
DUPLICATE_EVERY = 100
COLOURS = ("red", "green", "blue")
RUN_FILE = """\
name: million
model: fake
embedding: fake
data: {{labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}}
task: {{type: choice, options: [red, green, blue]}}
references: 0
collaborators: [{{model: base, references: 0}}]
in_weight: false
shard_rows: {shard_rows}
max_no_answer: 1.0
"""


def write_data(directory: Path, rows: int) -> int:
    """Writes the three files; returns how many exact duplicates the unlabeled one has."""
    duplicates = 0
    for role, count in {"labeled": 100, "test": 100, "unlabeled": rows}.items():
        with (directory / f"{role}.csv").open("w") as file:
            file.write("question,answer\n" if role != "unlabeled" else "question\n")
            for number in range(count):
                twice = role == "unlabeled" and number % DUPLICATE_EVERY == DUPLICATE_EVERY - 1
                duplicates += twice
                name = number - twice
                colour = COLOURS[name % 3]
                what = f"What is the colour of {colour} {role} thing number {name} as seen from far away?"
                file.write(what + (f",{colour}\n" if role != "unlabeled" else "\n"))
    return duplicates


def command(*arguments: object) -> tuple[dict[str, float], str]:
    """(CPU seconds, seconds, peak MiB), stdout of one command with fake services. The first says more on a machine that others use too."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "semievol.cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **FAKES},
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    complaints: list[str] = []
    reader = threading.Thread(target=lambda stream: complaints.append(stream.read()), args=(process.stderr,))
    reader.start()
    shown = process.stdout.read()
    reader.join()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"semievol {arguments[0]} ended with {process.returncode}: {complaints[0][-1500:]}")
    spent = {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "seconds": time.perf_counter() - started,
        "peak_mib": usage.ru_maxrss / 1024,
    }
    return spent, shown


def measure(directory: Path, rows: int, shard_rows: int, store: list[str]) -> dict[str, dict[str, float]]:
    """Phase -> seconds and, for a whole process, its CPU seconds and peak MiB."""
    directory.mkdir()
    duplicates = write_data(directory, rows)
    run_file = directory / "run.yaml"
    run_file.write_text(RUN_FILE.format(shard_rows=shard_rows or max(64, -(-rows // SHARDS))))
    home = ["-f", run_file, "--home", directory / "home", *store]
    found: dict[str, dict[str, float]] = {}
    found["data check"], shown = command("data", "check", "-f", run_file, "--json")
    counted = {file["role"]: file["duplicates"] for file in json.loads(shown)["files"]}
    if counted["unlabeled"] != duplicates:
        raise SystemExit(f"data check found {counted['unlabeled']} duplicates, there are {duplicates}")
    found["run"], shown = command("run", *home, "--json")
    result = json.loads(shown)
    if result["iterations"][0]["unlabeled"] != rows:
        raise SystemExit(f"the run has seen {result['iterations'][0]['unlabeled']} of {rows} rows")
    found |= {f"  {label}": {"seconds": spent} for label, spent in result["seconds"].items() if spent > 0.5}
    for name, arguments in {"run again": ["run", *home, "--json"], "plan": ["plan", *home]}.items():
        found[name], _ = command(*arguments)
    found["status"], _ = command("status", "million", "--home", directory / "home", *store)
    return found


def verdicts(results: dict[int, dict[str, dict[str, float]]]) -> list[str]:
    """What misses its bar."""
    least, most = min(results), max(results)
    missed = [
        f"{phase}: {one['peak_mib']:.0f} MiB at {rows} rows"
        for rows, phases in results.items()
        for phase, one in phases.items()
        if one.get("peak_mib", 0) > MOST_MIB
    ]
    for phase in ("data check", "run", "run again", "plan", "status"):
        growth = results[most][phase]["cpu_s"] / results[least][phase]["cpu_s"] / (most / least)
        if growth > LINEAR:
            missed.append(f"{phase}: {growth:.2f} times the CPU seconds a row at {most} rows")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--shard-rows", type=int, default=0, help=f"0: a {SHARDS}th of the rows, at least 64")
    parser.add_argument("--s3", action="store_true", help="artifacts in a MinIO of its own; else in the home's own directory")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    results: dict[int, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="semievol-million-") as scratch, ExitStack() as stack:
        server = stack.enter_context(minio_in(Path(scratch))) if arguments.s3 else None
        if server:
            os.environ |= {"AWS_ACCESS_KEY_ID": OWNER[0], "AWS_SECRET_ACCESS_KEY": OWNER[1]}
        for rows in arguments.rows:
            store = ["--store", server.uri(server.bucket, str(rows))] if server else []
            results[rows] = measure(Path(scratch, str(rows)), rows, arguments.shard_rows, store)
            if not arguments.json:
                show(rows, results[rows])
    missed: list[Any] = verdicts(results)
    if arguments.json:
        print(json.dumps({"rows": results, "missed": missed}))
    else:
        print("bars: met" if not missed else "bars missed:\n  " + "\n  ".join(missed))


def show(rows: int, phases: dict[str, dict[str, float]]) -> None:
    print(f"{rows} rows")
    for phase, one in phases.items():
        process = (
            f"{one['cpu_s']:9.1f} CPU s {1e6 * one['cpu_s'] / rows:9.1f} us/row {one['peak_mib']:8.0f} MiB"
            if "cpu_s" in one
            else ""
        )
        print(f"  {phase:24} {one['seconds']:9.1f} s {process}", flush=True)


if __name__ == "__main__":
    main()
