"""A whole run through the launcher for clusters: an API server in memory, and pods that are processes of this machine."""

from __future__ import annotations

import threading
from pathlib import Path

from semievol.common.kube import CONFIG_MAP, JOB
from semievol.ports import RunOwner

from tests.cluster import launcher
from tests.fake_suite import fake_suite, wait_for
from tests.manifests import manifests
from tests.servers.kubelet import ProcessCluster


def test_a_run_whose_job_is_deleted_midway_gives_the_artifacts_of_an_undisturbed_one(tmp_path: Path) -> None:
    with fake_suite(tmp_path / "calm") as suite:
        suite.run(suite.spec())
        calm = manifests(suite.home)
    with ProcessCluster() as cluster:
        jobs = launcher(cluster, tmp_path, poll_s=0.1)
        with fake_suite(tmp_path / "pods", jobs=jobs, parallelism=4, backoff_s=0.1) as suite:
            deleted: list[str] = []

            def delete() -> None:
                """The first Job that answers, as soon as it is there."""
                wait_for(lambda: any("-infer-" in name for name in cluster.names(JOB)), 120)
                deleted.append(next(name for name in cluster.names(JOB) if "-infer-" in name))
                cluster.kube().delete(JOB, deleted[0])

            disturber = threading.Thread(target=delete)
            disturber.start()
            result = suite.run(suite.spec())
            disturber.join()
            assert result["error"] == ""
            assert manifests(suite.home) == calm
            failed = [event.step_failed for event in suite.client.watch(result["run"]) if event.HasField("step_failed")]
            assert [one.will_retry for one in failed] == [True]
            owned = [job["metadata"]["ownerReferences"][0]["name"] for job in cluster.kube().list(JOB)]
            assert set(owned) == set(cluster.names(CONFIG_MAP))
            assert isinstance(jobs, RunOwner)
            jobs.forget_run(result["run"])
            assert cluster.names(JOB) == []
