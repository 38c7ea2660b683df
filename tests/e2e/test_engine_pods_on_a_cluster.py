"""Engines of runs on a real cluster: made, asked, released; with one GPU the second one waits in the scheduler's words.

Where SEMIEVOL_E2E_KUBECONFIG names a kubeconfig (`make cluster-up` writes one) whose nodes have the image SEMIEVOL_E2E_ENGINE_IMAGE. No node needs a
GPU: the tests tell the API server of one, which the scheduler then counts."""

from __future__ import annotations

import functools
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from semievol.algorithm.types import Message
from semievol.client.generation import GenerationClient
from semievol.common import errors
from semievol.common.kube import POD, ClientTransport, Kube, KubernetesSettings, Object, Request, api_client
from semievol.controller.pods import base_at
from semievol.launchers.kubernetes_engines import EngineSettings, PodEngines
from semievol.ports import BASE_MODEL, EngineState, Prompt, Sampling

from tests.servers.devcluster import kubeconfig_of_the_one_that_is_up
from tests.waiting import wait_until

_IMAGE = os.environ.get("SEMIEVOL_E2E_ENGINE_IMAGE", "localhost/semievol-training:dev")
_GPU = "example.com/gpu"  # a name of our own: nobody else on the cluster waits for it
_START_S = 400.0
_RUN = "e2e-1a2b3c4d"

pytestmark = pytest.mark.cluster

until = functools.partial(wait_until, timeout_s=_START_S, poll_s=0.5)


def template(gpus: int) -> Object:
    limits = {"memory": "3Gi", **({_GPU: str(gpus)} if gpus else {})}
    main = {
        "name": "main",
        "image": _IMAGE,
        "args": ["semievol.generation.server"],
        "env": [
            {"name": "SEMIEVOL_GENERATION_ADDRESS", "value": "0.0.0.0:50053"},
            {"name": "SEMIEVOL_GENERATION_BACKEND", "value": "transformers"},
            {"name": "SEMIEVOL_GENERATION_STORE", "value": "file:///tmp/artifacts"},
            {"name": "SEMIEVOL_GENERATION_CACHE", "value": "/var/lib/semievol/cache"},
        ],
        "resources": {"limits": limits, "requests": {"cpu": "50m", "memory": "500Mi"}},
        "readinessProbe": {"grpc": {"port": 50053}, "periodSeconds": 2, "timeoutSeconds": 5},
        "volumeMounts": [{"name": "state", "mountPath": "/var/lib/semievol"}, {"name": "tmp", "mountPath": "/tmp"}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    who = {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    volumes = [{"name": name, "emptyDir": {}} for name in ("state", "tmp")]
    spec = {"containers": [main], "securityContext": who, "volumes": volumes, "terminationGracePeriodSeconds": 10}
    return {"metadata": {"labels": {"app.kubernetes.io/instance": "e2e"}}, "spec": spec}


class Cluster:
    """A namespace of its own on a real one."""

    def __init__(self, directory: Path) -> None:
        client, _ = api_client(os.environ.get("SEMIEVOL_E2E_KUBECONFIG") or str(kubeconfig_of_the_one_that_is_up()))
        self.transport, self.namespace = ClientTransport(client), f"engines-{uuid.uuid4().hex[:8]}"
        self.kube = Kube(self.transport, self.namespace)
        self.templates = directory / "templates.yaml"
        strict = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": strict}})

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Object:
        answer = self.transport.send(Request(method, path, body=body, content_type=content_type), timeout_s=30)
        assert answer.status < 300, answer.body
        found: Object = json.loads(answer.body)
        return found

    def engines(self, gpus: int) -> PodEngines:
        self.templates.write_text(yaml.safe_dump({"engine": {"template": template(gpus)}}))
        return PodEngines(self.kube, KubernetesSettings(templates=self.templates), EngineSettings(), base_at)

    def gpus(self, count: int) -> None:
        """Each node has so many."""
        name = _GPU.replace("/", "~1")
        for node in self.kube.cluster_list("/api/v1/nodes"):
            patch = [{"op": "add", "path": f"/status/capacity/{name}", "value": str(count)}]
            path = f"/api/v1/nodes/{node['metadata']['name']}/status"
            self.call("PATCH", path, patch, "application/json-patch+json")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    one = Cluster(tmp_path)
    try:
        yield one
    finally:
        one.gpus(0)
        with suppress(errors.SemiEvolError):
            one.call("DELETE", f"/api/v1/namespaces/{one.namespace}")


def answering(engines: PodEngines, slot: str) -> EngineState:
    state = EngineState()

    def ready() -> bool:
        nonlocal state
        state = engines.acquire(_RUN, slot)
        assert not state.failed, state.reason
        return bool(state.address)

    until(ready, what=f"{slot} does not come up")
    return state


@pytest.mark.timeout(1200)
def test_an_engine_is_made_asked_found_again_and_released(cluster: Cluster) -> None:
    engines = cluster.engines(0)
    state = answering(engines, "shared")
    assert state.base is not None
    assert state.base.engine.startswith("transformers/")
    client = GenerationClient(state.address)
    (answer,) = client.generate(BASE_MODEL, [Prompt("a", (Message("user", "What is 2 + 2?"),))], Sampling(max_tokens=4))
    client.close()
    assert answer.completions[0].tokens
    other = cluster.engines(0)  # as a controller that starts now
    assert other.held(_RUN) == ["shared"]
    assert other.acquire(_RUN, "shared").address == state.address
    until(lambda: other.release(_RUN), what="the pod does not end")
    assert cluster.kube.list(POD) == []
    assert other.used(_RUN) == (1, 0)


@pytest.mark.timeout(1200)
def test_with_one_gpu_the_second_engine_waits_in_the_schedulers_words(cluster: Cluster) -> None:
    cluster.gpus(1)
    engines = cluster.engines(1)
    until(lambda: engines.capacity() == 1, what="the node does not show its GPU")
    answering(engines, "base-0")
    waiting = until(lambda: (state := engines.acquire(_RUN, "warm-2")).crowded and state, what="nobody says why it waits")
    assert f"Insufficient {_GPU}" in waiting.reason
    until(lambda: engines.release(_RUN, "base-0"), what="the pod does not end")
    answering(engines, "warm-2")
    until(lambda: engines.release(_RUN), what="the pod does not end")


@pytest.mark.timeout(1200)
def test_with_four_gpus_engines_come_up_side_by_side(cluster: Cluster) -> None:
    cluster.gpus(4)
    engines = cluster.engines(1)
    until(lambda: engines.capacity() == 4, what="the node does not show its GPUs")
    for slot in ("base-0", "warm-2"):
        engines.acquire(_RUN, slot)
    addresses = {answering(engines, slot).address for slot in ("base-0", "warm-2")}
    assert len(addresses) == 2
    until(lambda: engines.release(_RUN), what="the pods do not end")


@pytest.mark.timeout(1200)
def test_an_engine_that_is_deleted_is_replaced(cluster: Cluster) -> None:
    engines = cluster.engines(0)
    first = answering(engines, "shared")
    (pod,) = cluster.kube.list(POD)
    cluster.kube.delete(POD, pod["metadata"]["name"])
    until(lambda: pod["metadata"]["uid"] not in [one["metadata"]["uid"] for one in cluster.kube.list(POD)], what="it stays")
    assert answering(engines, "shared").address != first.address
    until(lambda: engines.release(_RUN), what="the pod does not end")
    assert engines.used(_RUN)[0] == 2
