"""How long the controller thinks: a plan of 10 iterations of 9 and more steps with 1,000 shards each, everything done but the last step.

    python -m benchmarks.planning [--iterations 10] [--shards 1000] [--rounds 20] [--json]

`first`: a controller that was just started, its manifests in memory; `next`: every later look at the same run (what it does all the time), of which
the median counts (bar: 100 ms). `memory`: what the process grew by over the looks, after the first (bar: 1 MiB).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import time
from typing import Any

import psutil
from semievol.common.artifacts import File, Manifest
from semievol.common.runspec import parse_run_spec
from semievol.common.work import Work
from semievol.controller.plan import Done, Resolved, StepState, plan

BARS = {"next_ms": 100.0, "memory_mib": 1.0}
_RESOLVED = Resolved("b" * 64, "transformers/float32", "e" * 64)
_DATA = {"labeled": "data:1/a.csv", "unlabeled": "data:2/b.csv", "test": "data:3/c.csv"}


def files(work: Work, shard: int | None, shards: int) -> tuple[File, ...]:
    """What a step of this kind writes, by name; contents are the names' own hashes."""
    parts = [f"{number:05d}.jsonl" for number in range(shards)]
    names = {
        "intake": ["labeled.jsonl", "test.jsonl", *(f"unlabeled/{part}" for part in parts)],
        "index": ["vectors.npy"],
        "examples": ["train.jsonl"],
        "train": ["adapter_config.json", "adapter_model.safetensors"],
        "retrieve": [f"references/{part}" for part in parts],
        "infer": ["candidates.jsonl"],
        "judge": ["verdicts.jsonl"],
        "score": ["entropies.jsonl"],
        "select": [
            "labeled.jsonl",
            "evolution.jsonl",
            "selection.json",
            "fates.jsonl",
            *(f"unlabeled/{part}" for part in parts),
        ],
        "evaluate": ["answers.jsonl"],
        "report": ["report.json"],
    }[work.kind]
    return tuple(File(name, 1, hashlib.sha256(f"{work.key}{shard}{name}".encode()).hexdigest()) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    run = parse_run_spec({"name": "long", "model": "m", "embedding": "e", "data": _DATA, "iterations": asked.iterations})
    manifests: dict[tuple[str, int | None], Manifest] = {}

    def manifest_of(key: str, shard: int | None) -> Manifest | None:
        return manifests.get((key, shard))

    done = Done()
    while ready := [step for step in plan(run, _RESOLVED, manifest_of, done=done) if step.state is StepState.READY]:
        for step in ready:
            assert step.work is not None
            for shard in step.missing:
                made = files(step.work, shard, asked.shards)
                manifests[step.work.key, shard] = Manifest(step.work.key, step.work.contract, {}, {}, made, shard)
    last = next(step.work for step in reversed(plan(run, _RESOLVED, manifest_of, done=done)) if step.work)
    del manifests[last.key, None]
    done = Done()
    times, sizes = [], []
    for _ in range(asked.rounds + 1):
        began = time.perf_counter()
        steps = plan(run, _RESOLVED, manifest_of, done=done)
        times.append(1000 * (time.perf_counter() - began))
        sizes.append(psutil.Process().memory_info().rss)
    assert [step.state for step in steps].count(StepState.READY) == 1
    result: dict[str, Any] = {
        "steps": len(steps),
        "manifests": len(manifests),
        "first_ms": round(times[0], 1),
        "next_ms": round(statistics.median(times[1:]), 1),
        "memory_mib": round((sizes[-1] - sizes[1]) / 2**20, 2),
        "bars": BARS,
    }
    print(json.dumps(result) if asked.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
