"""Templates as the chart writes them, and Jobs and pods in the shapes in which a cluster shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from semievol.common.kube import JOB, POD, KubernetesSettings, Object
from semievol.common.kube_fake import FakeApiServer
from semievol.launchers.kubernetes import KubernetesLauncher

_POD: Object = {
    "metadata": {"labels": {"app.kubernetes.io/instance": "release"}, "annotations": {"team": "a"}},
    "spec": {
        "terminationGracePeriodSeconds": 5,
        "priorityClassName": "low",
        "runtimeClassName": "nvidia",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "securityContext": {"runAsNonRoot": True},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [
            {
                "name": "main",
                "image": "localhost/semievol-core:dev",
                "env": [{"name": "AWS_REGION", "value": "here"}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
    },
}
TEMPLATES: dict[str, Object] = {
    "step": {
        "job": {
            "labels": {"app.kubernetes.io/instance": "release", "kueue.x-k8s.io/queue-name": "gpus"},
            "annotations": {},
            "suspend": True,
            "ttlSecondsAfterFinished": 600,
            "activeDeadlineSeconds": None,
        },
        "template": _POD,
    },
    "training": {"job": {"labels": {"app.kubernetes.io/instance": "release"}}, "template": _POD},
}


def template_file(directory: Path) -> Path:
    file = directory / "templates.yaml"
    file.write_text(yaml.safe_dump(TEMPLATES))
    return file


def launcher(
    server: FakeApiServer, directory: Path, *, owner: str = "", poll_s: float = 1e-9, kind: str = "step"
) -> KubernetesLauncher:
    settings = KubernetesSettings(templates=template_file(directory), owner=owner, poll_s=poll_s)
    return KubernetesLauncher(server.kube(), settings, kind)


def at_work(server: FakeApiServer, job: str, *, active: int = 1, ready: int = 1) -> None:
    server.put(JOB, {"metadata": {"name": job}, "spec": {"suspend": False}, "status": {"active": active, "ready": ready}})


def ended(server: FakeApiServer, job: str, *, failed: str = "", message: str = "") -> None:
    """The Job's last condition: Complete, or Failed for this reason."""
    kind = (
        {"type": "Failed", "reason": failed, "message": message}
        if failed
        else {"type": "Complete", "reason": "CompletionsReached"}
    )
    server.put(JOB, {"metadata": {"name": job}, "status": {"conditions": [kind | {"status": "True"}]}})


def pod(server: FakeApiServer, job: str, name: str = "", *, index: int | None = None, **status: Any) -> str:
    """A pod of a Job, with this status; its name."""
    name = name or f"{job}-x1y2z"
    annotations = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
    meta = {"name": name, "labels": {"batch.kubernetes.io/job-name": job}, "annotations": annotations}
    server.put(POD, {"metadata": meta, "status": {"phase": "Running"} | status})
    return name


def terminated(code: int, message: str = "", reason: str = "Error") -> Object:
    """Status fields of a pod whose container has ended."""
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"name": "main", "state": state}]}


UNSCHEDULABLE: Object = {
    "phase": "Pending",
    "conditions": [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
        }
    ],
}


def held(reason: str, message: str = "") -> Object:
    """Status fields of a pod whose container cannot begin."""
    waiting = {"reason": reason, "message": message}
    return {"phase": "Pending", "containerStatuses": [{"name": "main", "state": {"waiting": waiting}}]}
