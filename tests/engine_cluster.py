"""A cluster for those who make engine pods: the fake API server with a scheduler that counts GPUs, and a kubelet whose pods are ready when told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from semievol.common import errors
from semievol.common.kube import DEPLOYMENT, POD, KubernetesSettings, Object
from semievol.common.kube_fake import FakeApiServer
from semievol.launchers.kubernetes_engines import EngineSettings, PodEngines
from semievol.ports import BASE_MODEL, ModelInfo

BASE = ModelInfo(BASE_MODEL, "m", "b" * 64, engine="transformers/float32")
NO_ROOM = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available."


def template(gpus: int = 1, **spec: Any) -> Object:
    """A pod of an engine as the chart renders it."""
    limits = {"nvidia.com/gpu": str(gpus), "memory": "4Gi"} if gpus else {"memory": "4Gi"}
    main = {
        "name": "main",
        "image": "localhost/semievol-training:dev",
        "args": ["semievol.generation.server"],
        "env": [{"name": "SEMIEVOL_GENERATION_MODEL", "value": "m"}],
        "resources": {"limits": limits},
        "readinessProbe": {"grpc": {"port": 8081}},
    }
    labels = {
        "app.kubernetes.io/name": "semievol",
        "app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "run-engine",
    }
    return {
        "metadata": {"labels": labels, "annotations": {"team": "a"}},
        "spec": {"containers": [main], "nodeSelector": {"gpu": "yes"}, **spec},
    }


@dataclass
class Cluster:
    """`gpus`: that the scheduler can give away. `boot`: whether pods become ready as soon as they have room. `says`: what engines answer, by
    address; one that is not there answers BASE."""

    directory: Path
    gpus: int = 1
    boot: bool = True
    pod: Object = field(default_factory=template)
    says: dict[str, ModelInfo | errors.SemiEvolError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = FakeApiServer(written=lambda created: self.schedule() if created["kind"] == "Pod" else None)
        self.server.put(DEPLOYMENT, {"kind": "Deployment", "metadata": {"name": "demo-controller", "uid": "c-1"}, "spec": {}})
        self.templates = self.directory / "templates.yaml"
        self.render(self.pod)

    def render(self, pod: Object) -> None:
        self.templates.write_text(yaml.safe_dump({"engine": {"template": pod}}))

    def engines(self, **own: Any) -> PodEngines:
        """As a controller that starts now has them."""
        return PodEngines(self.server.kube(), self.settings(), EngineSettings(**own), self.ask, look_s=0.0)

    def settings(self) -> KubernetesSettings:
        return KubernetesSettings(templates=self.templates, owner="demo-controller")

    def ask(self, address: str) -> ModelInfo:
        self.asked.append(address)
        answer = self.says.get(address, BASE)
        if isinstance(answer, errors.SemiEvolError):
            raise answer
        return answer

    def pods(self) -> list[Object]:
        return self.server.kube().list(POD)

    def schedule(self) -> None:
        """Gives GPUs to pods in the order of their creation; tells the others that there are none."""
        taken = 0
        for number, pod in enumerate(
            sorted(self.pods(), key=lambda one: int(one["metadata"].get("annotations", {}).get("n", 1 << 30)))
        ):
            wanted = int(pod["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))
            if pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
                continue
            pod["metadata"].setdefault("annotations", {})["n"] = str(number)
            if taken + wanted > self.gpus:
                self.status(pod, "Pending", [("PodScheduled", "False", "Unschedulable", NO_ROOM)])
                continue
            taken += wanted
            if self.boot:
                self.ready(pod)
            else:
                self.status(pod, "Pending", [("PodScheduled", "True", "", "")])

    def ready(self, pod: Object) -> None:
        number = pod["metadata"]["annotations"]["n"]
        self.status(pod, "Running", [("PodScheduled", "True", "", ""), ("Ready", "True", "", "")], podIP=f"10.0.0.{number}")

    def status(self, pod: Object, phase: str, conditions: list[tuple[str, str, str, str]], **more: Any) -> None:
        told = [dict(zip(("type", "status", "reason", "message"), one, strict=True)) for one in conditions]
        self.server.put(POD, {**pod, "status": {"phase": phase, "conditions": told, **more}})

    def die(self, name: str, code: int, message: str) -> None:
        """The engine's process ends."""
        pod = self.server.kube().get(POD, name)
        ended = [{"name": "main", "state": {"terminated": {"exitCode": code, "reason": "Error", "message": message}}}]
        self.status(pod, "Failed", [("PodScheduled", "True", "", "")], containerStatuses=ended)
