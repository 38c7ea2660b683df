"""The launcher for clusters with the real API server, Job controller and garbage collector; pods live and end as the test says."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from semievol.common import errors
from semievol.common.kube import CONFIG_MAP, DEPLOYMENT, JOB, LEASE, POD, Kind, Kube, KubernetesSettings, Object, Request, connect
from semievol.controller.lease import Elector
from semievol.launchers import kubernetes_objects as objects
from semievol.launchers.kubernetes import KubernetesLauncher
from semievol.ports import JobSpec, JobState, JobStatus

from tests.cluster import TEMPLATES, UNSCHEDULABLE, terminated
from tests.servers.control_plane import cluster_without_nodes  # noqa: F401 - a fixture
from tests.waiting import wait_until as until

pytestmark = pytest.mark.cluster

QUOTA = Kind("api/v1", "resourcequotas")
DEPLOYED: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "controller"},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "x"}]}},
    },
}


@pytest.fixture
def launcher(cluster_without_nodes: Path, tmp_path: Path) -> Iterator[KubernetesLauncher]:  # noqa: F811
    templates = copy.deepcopy(TEMPLATES)
    templates["step"]["job"]["suspend"] = False
    for name in ("runtimeClassName", "priorityClassName"):  # of which the cluster has none
        del templates["step"]["template"]["spec"][name]
    (tmp_path / "templates.yaml").write_text(yaml.safe_dump(templates))
    settings = KubernetesSettings(
        kubeconfig=str(cluster_without_nodes), templates=tmp_path / "templates.yaml", owner="controller", poll_s=0.1
    )
    kube = connect(settings)
    kube.create(DEPLOYMENT, DEPLOYED)
    yield KubernetesLauncher(kube, settings, "step")
    kube.delete(DEPLOYMENT, "controller")  # and with it everything
    until(lambda: not kube.list(JOB) and not kube.list(CONFIG_MAP, objects.OURS) and not kube.list(POD))


@pytest.fixture
def kube(launcher: KubernetesLauncher) -> Kube:
    return launcher._kube


def spec(name: str = "demo-1-judge-1", shards: tuple[int, ...] = (), parallelism: int = 1) -> JobSpec:
    return JobSpec(name, "a.b:c", ("{shard}",), {"run": "demo"}, shards, parallelism)


def pods(kube: Kube, job: str = "demo-1-judge-1", count: int = 1) -> list[Object]:
    """Those of a job, by index, when there are so many."""

    def found() -> list[Object]:
        return kube.list(POD, {objects.JOB_OF_POD: job})

    until(lambda: len(found()) >= count)
    return sorted(found(), key=lambda pod: str(pod["metadata"].get("annotations", {}).get(objects.INDEX, "")))


def say(kube: Kube, pod: Object, status: Object) -> None:
    """What the kubelet says of a pod."""
    for container in status.get("containerStatuses", ()):
        container |= {"image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    path = kube._path(POD, pod["metadata"]["name"]) + "/status"
    kube._json(Request("PATCH", path, body={"status": status}, content_type="application/merge-patch+json"), "say")


def test_a_pod_that_ends_well_is_a_job_that_has_succeeded(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec())
    say(kube, pods(kube)[0], terminated(0))
    until(lambda: launcher.state("demo-1-judge-1") == JobStatus(JobState.SUCCEEDED, 0))


@pytest.mark.parametrize("code", [64, 69])
def test_a_failed_pod_is_a_failed_job_and_no_other_pod_comes(launcher: KubernetesLauncher, kube: Kube, code: int) -> None:
    launcher.submit(spec())
    say(kube, pods(kube)[0], terminated(code, "It went wrong."))
    until(lambda: launcher.state("demo-1-judge-1") == JobStatus(JobState.FAILED, code, "It went wrong."))
    assert len(pods(kube)) == 1


def test_a_shard_that_fails_leaves_the_others_their_turn(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec(shards=(3, 5, 8), parallelism=2))
    first, second = pods(kube, count=2)
    say(kube, first, terminated(0))
    say(kube, second, terminated(69, "Shard 5 has no luck."))
    say(kube, pods(kube, count=3)[2], terminated(0))
    until(lambda: launcher.state("demo-1-judge-1") == JobStatus(JobState.FAILED, 69, "Shard 5 has no luck."))
    assert kube.get(JOB, "demo-1-judge-1")["status"]["completedIndexes"] == "0,2"


def test_a_pod_that_was_evicted_is_replaced_within_its_job(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec())
    (pod,) = pods(kube)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # a condition without its time is taken for a stale one, and withdrawn
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": now}
    say(kube, pod, terminated(143) | {"conditions": [evicted]})
    assert len(pods(kube, count=2)) == 2
    assert launcher.state("demo-1-judge-1").state is JobState.RUNNING


def test_a_pod_that_waits_and_a_quota_that_forbids_one_are_told(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec())
    say(kube, pods(kube)[0], UNSCHEDULABLE)
    until(lambda: "Insufficient nvidia.com/gpu" in launcher.state("demo-1-judge-1").reason)
    kube.create(
        QUOTA, {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    try:
        until(lambda: "used" in kube.get(QUOTA, "none").get("status", {}))
        launcher.submit(spec("demo-1-score-1"))
        until(lambda: "exceeded quota" in launcher.state("demo-1-score-1").reason)
    finally:
        kube.delete(QUOTA, "none")


def test_when_cancel_returns_neither_the_job_nor_a_pod_is_there(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec(shards=(3, 5, 8), parallelism=3))
    pods(kube, count=3)
    launcher.cancel("demo-1-judge-1")
    assert kube.list(JOB) == kube.list(POD) == []
    assert launcher.state("demo-1-judge-1").exit_code == 130


def test_deleting_a_run_collects_what_it_made_and_nothing_else(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec())
    launcher.submit(JobSpec("other-1-judge-1", "a.b:c", (), {"run": "other"}))
    pods(kube), pods(kube, "other-1-judge-1")
    launcher.forget_run("demo")
    until(lambda: [job["metadata"]["name"] for job in kube.list(JOB)] == ["other-1-judge-1"] and len(kube.list(POD)) == 1)
    assert launcher.state("demo-1-judge-1").state is JobState.UNKNOWN


def test_the_same_job_is_adopted_and_another_under_its_name_refused(launcher: KubernetesLauncher, kube: Kube) -> None:
    launcher.submit(spec())
    launcher.submit(spec())
    with pytest.raises(errors.AlreadyExists):
        launcher.submit(spec(shards=(1,)))
    assert len(kube.list(JOB)) == 1


def test_replicas_hand_the_lease_over_and_it_goes_with_the_release(launcher: KubernetesLauncher, kube: Kube) -> None:
    one, two = (
        Elector(kube, "controller", name, duration_s=5, owner=lambda: kube.get(DEPLOYMENT, "controller"))
        for name in ("one", "two")
    )
    one.start()
    two.start()
    assert (one.leader(), two.leader()) == ("", "one")
    one.stop()
    until(lambda: two.leader() == "")
    two.stop()
    assert kube.get(LEASE, "controller")["metadata"]["ownerReferences"][0]["name"] == "controller"
