"""How long the controller thinks: a plan of 10 iterations of 9 and more steps with 1,000 shards each, everything done but the last step.

    python -m benchmarks.planning [--iterations 10] [--shards 1000] [--rounds 20] [--json]

`first`: a controller that was just started, its manifests in memory; `next`: every later look at the same run (what it does all the time), of which
the median counts (bar: 100 ms). `memory`: what the process grew by over the looks, after the first (bar: 1 MiB).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import psutil
from semievol.controller.plan import Done, StepState, plan

from tests.planning import RESOLVED, World, spec

BARS = {"next_ms": 100.0, "memory_mib": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    run = spec(iterations=asked.iterations)
    world = World(parts=asked.shards, remaining=asked.shards)
    last = world.run_to_end(run, Done())[-1].work
    assert last is not None
    del world.manifests[last.key, None]
    done = Done()
    times, sizes = [], []
    for _ in range(asked.rounds + 1):
        began = time.perf_counter()
        steps = plan(run, RESOLVED, world.manifest_of, done=done)
        times.append(1000 * (time.perf_counter() - began))
        sizes.append(psutil.Process().memory_info().rss)
    assert [step.state for step in steps].count(StepState.READY) == 1
    result: dict[str, Any] = {
        "steps": len(steps),
        "manifests": len(world.manifests),
        "first_ms": round(times[0], 1),
        "next_ms": round(statistics.median(times[1:]), 1),
        "memory_mib": round((sizes[-1] - sizes[1]) / 2**20, 2),
        "bars": BARS,
    }
    print(json.dumps(result) if asked.json else "\n".join(f"{name}: {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
