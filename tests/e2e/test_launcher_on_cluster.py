"""The launcher's contract on a real cluster: the API server's own validation and defaults, Jobs that its controllers run, pods that its kubelet starts.

Needs the development cluster with the core image (`make cluster-up`, deploy/devcluster/load.sh localhost/semievol-core:dev).
"""

from __future__ import annotations

import functools
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from semievol.common.kube import CONFIG_MAP, JOB, POD, Kind, Kube, KubernetesSettings, connect
from semievol.controller.lease import Elector
from semievol.launchers.kubernetes import KubernetesLauncher
from semievol.ports import JobSpec, JobState, JobStatus

from tests.contract.test_launcher import *  # noqa: F403 - the suite itself
from tests.contract.test_launcher import JOBS, ended, group, job
from tests.servers.devcluster import kubeconfig_of_the_one_that_is_up
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
IMAGE = os.environ.get("SEMIEVOL_TEST_IMAGE", "localhost/semievol-core:dev")
NAMESPACES = Kind("api/v1", "namespaces")

pytestmark = pytest.mark.cluster

until = functools.partial(wait_until, timeout_s=90.0, poll_s=0.2)


class Namespaces(Kube):
    """Namespaces themselves are in none."""

    def _path(self, kind: Kind, name: str = "") -> str:
        return f"/{kind.api}/{kind.plural}" + (f"/{name}" if name else "")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Where the pods see it, too: a node's /tmp is its own."""
    directory = ROOT / ".semievol" / f"cluster-{uuid.uuid4().hex[:8]}"
    directory.mkdir(parents=True)
    directory.chmod(0o777)  # pods have another user
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    kube = connect(KubernetesSettings(kubeconfig=str(kubeconfig_of_the_one_that_is_up())))
    all_namespaces = Namespaces(kube._transport, "")
    name = f"launcher-{uuid.uuid4().hex[:8]}"
    all_namespaces.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    all_namespaces.delete(NAMESPACES, name)


def template(**pod: Any) -> dict[str, Any]:
    """Pods of the core image that see this repository."""
    here = {"name": "here", "hostPath": {"path": str(ROOT)}}
    main = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "PYTHONPATH", "value": f"{ROOT}/services:{ROOT}"}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "volumeMounts": [{"name": "here", "mountPath": str(ROOT)}],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
    }
    main |= pod.pop("main", {})
    spec = {"terminationGracePeriodSeconds": 5, "containers": [main], "volumes": [here], **pod}
    return {"job": {"labels": {"app.kubernetes.io/instance": "test"}}, "template": {"spec": spec}}


Launch = Callable[..., KubernetesLauncher]


@pytest.fixture
def launch(tmp_path: Path, namespace: str) -> Launch:
    def made(**pod: Any) -> KubernetesLauncher:
        file = tmp_path / f"templates-{uuid.uuid4().hex}.yaml"
        file.write_text(yaml.safe_dump({"step": template(**pod)}))
        settings = KubernetesSettings(
            kubeconfig=str(kubeconfig_of_the_one_that_is_up()), namespace=namespace, templates=file, poll_s=0.3
        )
        return KubernetesLauncher(connect(settings), settings, "step")

    return made


@pytest.fixture
def launcher(launch: Launch, namespace: str) -> Iterator[KubernetesLauncher]:
    """Each test has the namespace for itself: names come again."""
    made = launch()
    yield made
    sweep(made._kube)


def sweep(kube: Kube) -> None:
    for one in kube.list(JOB):
        kube.delete(JOB, one["metadata"]["name"])
    until(lambda: not kube.list(POD) and not kube.list(JOB))


NAME = "run-1-infer-0-1"


def test_an_image_that_cannot_be_had_is_named(launch: Launch) -> None:
    launcher = launch(main={"image": "localhost/no-such-image:dev"})
    launcher.submit(job("succeed"))
    until(lambda: "no-such-image" in launcher.state(NAME).reason)
    assert launcher.state(NAME).state is JobState.RUNNING
    launcher.cancel(NAME)
    sweep(launcher._kube)


def test_a_pod_that_no_node_has_room_for_has_the_schedulers_reason(launch: Launch) -> None:
    launcher = launch(main={"resources": {"limits": {"nvidia.com/gpu": "1000"}}})
    launcher.submit(job("succeed"))
    until(lambda: "Insufficient nvidia.com/gpu" in launcher.state(NAME).reason)
    launcher.cancel(NAME)
    sweep(launcher._kube)


def test_a_secret_that_is_missing_is_named(launch: Launch) -> None:
    missing = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "x"}}}]
    launcher = launch(main={"env": missing})
    launcher.submit(job("succeed"))
    until(lambda: "no-such-secret" in launcher.state(NAME).reason)
    launcher.cancel(NAME)
    sweep(launcher._kube)


def test_a_deleted_job_is_unknown_and_leaves_no_pod(launcher: KubernetesLauncher) -> None:
    launcher.submit(job("wait_until_cancelled"))
    kube = launcher._kube
    until(lambda: any(pod["status"].get("phase") == "Running" for pod in kube.list(POD)))
    kube.delete(JOB, NAME)
    until(lambda: launcher.state(NAME) == JobStatus(JobState.UNKNOWN))
    until(lambda: not kube.list(POD))


def test_a_deleted_pod_fails_the_attempt_and_is_not_replaced(launcher: KubernetesLauncher) -> None:
    launcher.submit(job("wait_until_cancelled"))
    kube = launcher._kube
    until(lambda: any(pod["status"].get("phase") == "Running" for pod in kube.list(POD)))
    (pod,) = kube.list(POD)
    kube.delete(POD, pod["metadata"]["name"])
    assert ended(launcher, timeout_s=90).state is JobState.FAILED


def test_one_that_cannot_be_helped_ends_its_whole_group(launcher: KubernetesLauncher) -> None:
    """The other shard would wait for ever."""
    launcher.submit(JobSpec("run-1-infer-1", f"{JOBS}:refuse_the_input_or_wait", ("{shard}", "5"), shards=(3, 5), parallelism=2))
    status = ended(launcher, "run-1-infer-1", timeout_s=90)
    assert (status.exit_code, status.message) == (64, "The labeled file has no rows.")


def test_deleting_a_run_collects_its_jobs_and_pods(launcher: KubernetesLauncher) -> None:
    kube = launcher._kube
    launcher.submit(JobSpec(NAME, f"{JOBS}:wait_until_cancelled", (), {"run": "demo"}))
    launcher.submit(JobSpec("run-1-judge-1", f"{JOBS}:wait_until_cancelled", (), {"run": "demo"}, shards=(0, 1)))
    until(lambda: len(kube.list(POD)) >= 2)
    launcher.forget_run("demo")
    until(lambda: not kube.list(JOB) and not kube.list(POD))
    assert "semievol-run-demo" not in [one["metadata"]["name"] for one in kube.list(CONFIG_MAP)]


def test_the_next_launcher_finds_a_group_at_work_and_reads_its_log(launcher: KubernetesLauncher, launch: Launch) -> None:
    launcher.submit(group("wait_until_cancelled"))
    other = launch()
    until(lambda: len(other.logs("run-1-infer-1")) >= 2)
    other.submit(group("wait_until_cancelled"))
    assert {line.partition(": ")[0] for line in other.logs("run-1-infer-1")} <= {"shard 3", "shard 5", "shard 8"}
    other.cancel("run-1-infer-1")
    assert other._kube.list(POD) == []


def test_of_two_replicas_one_leads_and_hands_over(launcher: KubernetesLauncher) -> None:
    one, two = (Elector(launcher._kube, "controller", name, duration_s=6) for name in ("one", "two"))
    one.start()
    two.start()
    assert (one.leader(), two.leader()) == ("", "one")
    one.stop()
    until(lambda: two.leader() == "")
    two.stop()
