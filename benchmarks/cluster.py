"""What a release on the development cluster costs and how fast it is: installing it, going from step to step, and doing nothing.

    make cluster-ready && python -m benchmarks.cluster [--namespace bench] [--json]

Installs the chart as the story test does (values-cpu-trial.yaml, MinIO, Milvus), runs a small part of the demo, counts the API server's requests of a
minute in which nothing happens, and uninstalls. The bars: all Ready within 180 s; at most 3 s from the end of a step's Job to the next Job, by the
cluster's own times, which are whole seconds; at most 10 requests a minute by the release's service accounts.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.release import Release, small_run

READY_BAR_S, GAP_BAR_S, REQUESTS_BAR = 180, 3, 10
IDLE_S = 120
_REQUESTS = re.compile(
    r'^apiserver_flowcontrol_dispatched_requests_total\{flow_schema="service-accounts".*\} (\S+)$', re.MULTILINE
)


def requests(release: Release) -> float:
    """That pods outside kube-system have made so far; on this cluster they are the release's."""
    return sum(float(count) for count in _REQUESTS.findall(release.kubectl("get", "--raw=/metrics")))


def gaps(jobs: list[dict[str, Any]]) -> list[float]:
    """Seconds from the end of each Job to the creation of the next one: the controller's share of a run, whose Jobs are at work one at a time in
    the trial. Below zero where the controller saw what a Job published before the cluster called the Job complete."""
    times = sorted((job["metadata"]["creationTimestamp"], job["status"]["completionTime"]) for job in jobs)
    return [
        (datetime.fromisoformat(begun) - datetime.fromisoformat(ended)).total_seconds()
        for (_, ended), (begun, _) in pairwise(times)
    ]


def measure(release: Release, directory: Path) -> dict[str, Any]:
    began = time.monotonic()
    release.install()
    ready_s = time.monotonic() - began
    release.semievol("submit", "-f", str(small_run(directory)))
    ended = release.end_of("townhall")
    if ended["state"] != "succeeded":
        raise SystemExit(f"the run ended as {ended['state']}: {ended}")
    time.sleep(30)  # the last of the run is over: a Job is complete a little later than what it published is there
    found = gaps(release.found("jobs"))
    before, began = requests(release), time.monotonic()
    time.sleep(IDLE_S)
    per_minute = (requests(release) - before) * 60 / (time.monotonic() - began)
    return {"ready_s": ready_s, "gaps_s": found, "requests_per_minute": per_minute}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--namespace", default="bench", help="made, and removed with all that is in it")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    release = Release(arguments.namespace)
    with tempfile.TemporaryDirectory(prefix="semievol-cluster-") as directory:
        try:
            release.make_namespace()
            found = measure(release, Path(directory))
        finally:
            release.remove()
    median, worst = statistics.median(found["gaps_s"]), max(found["gaps_s"])
    bars = {
        f"ready after {found['ready_s']:.0f} s": found["ready_s"] <= READY_BAR_S,
        f"from Job to Job {median:.0f} s, at most {worst:.0f} s ({len(found['gaps_s'])} times)": worst <= GAP_BAR_S,
        f"{found['requests_per_minute']:.1f} requests a minute when idle": found["requests_per_minute"] <= REQUESTS_BAR,
    }
    print(
        json.dumps(found)
        if arguments.json
        else "\n".join(f"{what}: bar {'met' if met else 'MISSED'}" for what, met in bars.items())
    )


if __name__ == "__main__":
    main()
