"""The development cluster is a real one: it comes up, does what the chart and the launcher rely on, survives its node's death, and goes.

The tests build on one another, in this order. Each works in a namespace that enforces the restricted Pod Security standard."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import BINARIES
from tests.servers.devcluster import Devcluster, machine, processes_of, still_running

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SPACE = "trial"
IMAGE = "localhost/busybox:devcluster"
PATIENCE_S = 120


@pytest.fixture(scope="module")
def machine_before() -> dict[str, list[str]]:
    return machine()


@pytest.fixture(scope="module")
def cluster(machine_before: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devcluster]:
    if os.geteuid() != 0:
        pytest.fail("A cluster needs root, and the tests do not run as root.")
    if not shutil.which("kubelet", path=str(BINARIES)):
        pytest.fail("Kubernetes is not built, which takes some minutes, once: run deploy/devcluster/build.sh.")
    cluster = Devcluster(tmp_path_factory.mktemp("devcluster"))
    try:
        cluster.script("up.sh", GPUS="2")
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": labels}})
        eventually(lambda: cluster.get("--namespace", SPACE, "serviceaccount", "default"))
        yield cluster
    finally:
        cluster.script("down.sh")


def test_up_again_changes_nothing(cluster: Devcluster) -> None:
    node = cluster.node_pid()
    cluster.script("up.sh")
    assert cluster.node_pid() == node


def test_the_machine_keeps_its_kernel_settings(cluster: Devcluster, machine_before: dict[str, list[str]]) -> None:
    assert machine()["sysctls"] == machine_before["sysctls"]


def test_a_restricted_pod_runs_with_a_root_that_it_cannot_write(cluster: Devcluster) -> None:
    cluster.apply(pod("careful", "id -u; touch /tmp/own && echo wrote; touch /etc/not-own || echo refused"))
    assert finished(cluster, "careful") == "Succeeded"
    assert [line for line in logs(cluster, "careful") if not line.startswith("touch:")] == ["65532", "wrote", "refused"]


def test_a_pod_that_wants_more_is_refused(cluster: Devcluster) -> None:
    greedy = pod("greedy", "true")
    greedy["spec"]["hostNetwork"] = True
    with pytest.raises(RuntimeError, match='violates PodSecurity "restricted'):
        cluster.apply(greedy)


def test_a_service_is_found_by_its_name_also_by_the_pod_behind_it(cluster: Devcluster) -> None:
    web = pod("web", "echo hello >/tmp/index.html; httpd -f -p 8080 -h /tmp")
    probe = {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1}
    web["spec"]["containers"][0]["readinessProbe"] = probe
    cluster.apply(deployment("web", web), service("web", 80, 8080))
    cluster.kubectl("--namespace", SPACE, "rollout", "status", "deployment/web", f"--timeout={PATIENCE_S}s")
    address = f"http://web.{SPACE}.svc.cluster.local/index.html"
    cluster.apply(pod("visitor", f"for i in 1 2 3 4 5 6 7 8 9 10; do wget -qO- {address} && exit 0; sleep 1; done; exit 1"))
    assert finished(cluster, "visitor") == "Succeeded"
    assert logs(cluster, "visitor")[-1] == "hello"
    assert cluster.kubectl("--namespace", SPACE, "exec", "deployment/web", "--", "wget", "-qO-", address) == "hello\n"


def test_a_name_outside_the_cluster_does_not_exist(cluster: Devcluster) -> None:
    cluster.apply(pod("curious", "nslookup models.example.org || echo no such name"))
    assert finished(cluster, "curious") == "Succeeded"
    assert any("NXDOMAIN" in line for line in logs(cluster, "curious"))


def test_a_volume_is_made_written_by_its_group_read_by_the_next_pod_and_removed(cluster: Devcluster) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": SPACE}}
    claim["spec"] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}  # type: ignore[assignment]
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    cluster.apply(
        claim, pod("writer", "echo kept >/data/file", volume=volume), pod("reader", "sleep 3; cat /data/file", volume=volume)
    )
    assert finished(cluster, "writer") == "Succeeded"
    assert finished(cluster, "reader") == "Succeeded"
    assert logs(cluster, "reader") == ["kept"]
    directories = cluster.state / "var/lib/devcluster/volumes"
    assert len(list(directories.iterdir())) == 1
    cluster.kubectl("--namespace", SPACE, "delete", "pod/writer", "pod/reader", "pvc/data", "--now")
    eventually(lambda: not cluster.get("persistentvolumes")["items"] and not list(directories.iterdir()))


def test_an_indexed_job_runs_each_index_once(cluster: Devcluster) -> None:
    template = {"spec": pod("shard", "echo index $JOB_COMPLETION_INDEX")["spec"]}
    spec = {
        "completions": 3,
        "parallelism": 2,
        "completionMode": "Indexed",
        "podReplacementPolicy": "Failed",
        "template": template,
    }
    cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "shards", "namespace": SPACE}, "spec": spec})
    cluster.kubectl("--namespace", SPACE, "wait", "--for=condition=Complete", "job/shards", f"--timeout={PATIENCE_S}s")
    said = cluster.kubectl("--namespace", SPACE, "logs", "--selector=job-name=shards")
    assert sorted(said.splitlines()) == ["index 0", "index 1", "index 2"]


def test_gpus_are_counted(cluster: Devcluster) -> None:
    cluster.apply(*(pod(f"gpu-{i}", "sleep 600", limits={"nvidia.com/gpu": "1"}) for i in range(3)))
    eventually(lambda: sorted(phases(cluster, "gpu-")) == ["Pending", "Running", "Running"])
    eventually(lambda: "Insufficient nvidia.com/gpu" in cluster.kubectl("--namespace", SPACE, "get", "events"))
    cluster.kubectl("--namespace", SPACE, "delete", "pod/gpu-0", "pod/gpu-1", "pod/gpu-2", "--now")


def test_an_image_is_loaded_once(cluster: Devcluster, tmp_path: Path) -> None:
    archive = write_image(tmp_path / "image.tar", "localhost/greeting:1", "hello from an image\n")
    assert "loaded" in cluster.script("load.sh", str(archive))
    assert "is there" in cluster.script("load.sh", str(archive))
    cluster.apply(pod("greeter", "cat /greeting", image="localhost/greeting:1"))
    assert finished(cluster, "greeter") == "Succeeded"
    write_image(archive, "localhost/greeting:1", "another hello\n")
    assert "loaded" in cluster.script("load.sh", str(archive))
    cluster.apply(pod("greeter-2", "cat /greeting", image="localhost/greeting:1"))
    assert finished(cluster, "greeter-2") == "Succeeded"
    assert [*logs(cluster, "greeter"), *logs(cluster, "greeter-2")] == ["hello from an image", "another hello"]


def test_a_node_that_was_killed_comes_back_with_all_that_it_had(cluster: Devcluster) -> None:
    node = cluster.node_pid()
    gone = processes_of(node)
    os.kill(node, 9)
    eventually(lambda: not still_running(gone))
    cluster.script("up.sh")
    assert cluster.get("node", "node1")["status"]["capacity"]["nvidia.com/gpu"] == "2"
    cluster.kubectl("--namespace", SPACE, "rollout", "status", "deployment/web", f"--timeout={PATIENCE_S}s")
    cluster.apply(pod("visitor-2", f"wget -qO- http://web.{SPACE}/index.html"))
    assert finished(cluster, "visitor-2") == "Succeeded"


def test_down_leaves_no_trace(cluster: Devcluster, machine_before: dict[str, list[str]]) -> None:
    processes = processes_of(cluster.node_pid())
    assert len(processes) > 20, "the cluster's own programs, their pods' and their keepers"
    cluster.script("down.sh")
    assert still_running(processes) == set()
    assert machine() == machine_before
    assert list(cluster.states.iterdir()) == []
    assert "not there" in cluster.script("down.sh"), "a second time is fine"


def pod(
    name: str,
    script: str,
    *,
    image: str = IMAGE,
    volume: dict[str, Any] | None = None,
    limits: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A pod as the restricted standard wants it, that runs the script; it can write to /tmp and, where there is a volume, to /data."""
    container: dict[str, Any] = {"name": "main", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    container["securityContext"] = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    container["volumeMounts"] = [
        {"name": "tmp", "mountPath": "/tmp"},
        *([{"name": "data", "mountPath": "/data"}] if volume else []),
    ]
    container["resources"] = {"limits": limits or {}}
    spec = {
        "containers": [container],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "tmp", "emptyDir": {}}, *([volume] if volume else [])],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SPACE, "labels": {"app": name}},
        "spec": spec,
    }


def deployment(name: str, template: dict[str, Any]) -> dict[str, Any]:
    labels = template["metadata"]["labels"]
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": dict(template["spec"])}}
    del spec["template"]["spec"]["restartPolicy"]  # a Deployment's pods are always restarted
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


def service(name: str, port: int, target: int) -> dict[str, Any]:
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


def finished(cluster: Devcluster, name: str) -> str:
    """The phase in which a pod ended."""
    phase = ""

    def ended() -> bool:
        nonlocal phase
        phase = cluster.get("--namespace", SPACE, "pod", name)["status"]["phase"]
        return phase in {"Succeeded", "Failed"}

    eventually(ended)
    return phase


def phases(cluster: Devcluster, prefix: str) -> list[str]:
    pods = cluster.get("--namespace", SPACE, "pods")["items"]
    return [found["status"]["phase"] for found in pods if found["metadata"]["name"].startswith(prefix)]


def logs(cluster: Devcluster, name: str) -> list[str]:
    return cluster.kubectl("--namespace", SPACE, "logs", name).splitlines()


def eventually(holds: Callable[[], object]) -> None:
    """Returns once the condition holds; a refusal of kubectl's counts as "not yet"."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            if holds():
                return
        except RuntimeError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.3)


def write_image(path: Path, name: str, greeting: str) -> Path:
    """An archive as `docker save` writes it: busybox and a file."""
    layer = _tar(
        {
            "bin/busybox": (BINARIES / "busybox").read_bytes(),
            "bin/sh": "busybox",
            "bin/cat": "busybox",
            "greeting": greeting.encode(),
        }
    )
    layers = {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]}, "rootfs": layers}).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    path.write_bytes(_tar({"manifest.json": manifest, config_name: config, "layer.tar": layer}))
    return path


def _tar(files: dict[str, bytes | str]) -> bytes:
    """Bytes become files that anyone may run, text becomes symbolic links."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()
