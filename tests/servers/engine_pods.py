"""Engine pods without a cluster: the API server in memory, and a kubelet for which a pod is a process of this machine with a loopback address of
its own. What it starts is the real generation server; a pod is ready when that says SERVING."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semievol.common.kube import POD, Object

from tests.engine_cluster import Cluster

_PORT = 50053
_SYNC_S = 0.1


class EngineKubelet(Cluster):
    """`processes`: by pod. Their addresses count up from 127.77.0.1, one for each start."""

    def __init__(self, directory: Path, environment: dict[str, str], gpus: int = 1) -> None:
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.started: list[str] = []  # pods, in order
        self.killed = False
        self._ips: dict[str, str] = {}
        self._environment, self._stop = environment, threading.Event()
        super().__init__(directory, gpus=gpus, boot=False)

    def sync(self) -> None:
        """One round of scheduler and kubelet: pods that have room run, those that are gone are ended, the others' states are told."""
        self.schedule_new()
        there = {pod["metadata"]["name"]: pod for pod in self.pods()}
        for name in set(self.processes) - set(there):
            self.end(name)
        for name, pod in there.items():
            if pod.get("status", {}).get("phase") in ("Pending", "Running") and self._has_room(pod):
                self._sync_pod(name, pod)

    def schedule_new(self) -> None:
        if any("status" not in pod or not self._has_room(pod) for pod in self.pods()):
            self.schedule()

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        process.wait()

    def kill(self) -> None:
        """Whatever runs, as a node's memory killer does it."""
        self.killed = True
        for process in self.processes.values():
            process.kill()

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        while not self._stop.wait(_SYNC_S):
            self.sync()
        for name in list(self.processes):
            self.end(name)

    def _has_room(self, pod: Object) -> bool:
        scheduled = [one for one in pod.get("status", {}).get("conditions", ()) if one["type"] == "PodScheduled"]
        return any(one["status"] == "True" for one in scheduled)

    def _sync_pod(self, name: str, pod: Object) -> None:
        if name not in self.processes:
            self.started.append(name)
            self._ips[name] = f"127.77.0.{len(self.started)}"
            address = {"SEMIEVOL_GENERATION_ADDRESS": f"{self._ips[name]}:{_PORT}"}
            command = [sys.executable, "-m", "semievol.generation.server"]
            self.processes[name] = subprocess.Popen(command, env={**os.environ, **self._environment, **address})
        code = self.processes[name].poll()
        scheduled = ("PodScheduled", "True", "", "")
        if code is not None:
            ended = {"exitCode": 128 - code if code < 0 else code, "message": ""}
            self._tell(pod, "Failed", [scheduled], containerStatuses=[{"name": "main", "state": {"terminated": ended}}])
            return
        ready = [("Ready", "True", "", "")] if self._serves(f"{self._ips[name]}:{_PORT}") else []
        self._tell(pod, "Running", [scheduled, *ready], podIP=self._ips[name])

    def _tell(self, pod: Object, phase: str, conditions: list[tuple[str, str, str, str]], **more: object) -> None:
        if pod["metadata"]["name"] in self.server.names(POD):  # it may have been deleted meanwhile
            self.status(pod, phase, conditions, **more)

    def _serves(self, address: str) -> bool:
        with grpc.insecure_channel(address) as channel, suppress(grpc.RpcError):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)  # type: ignore[no-untyped-call]
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False


@contextmanager
def engine_kubelet(directory: Path, environment: dict[str, str], gpus: int = 1) -> Iterator[EngineKubelet]:
    """At work until left; then nothing that it started runs."""
    kubelet = EngineKubelet(directory, environment, gpus)
    thread = threading.Thread(target=kubelet.run, name="kubelet")
    thread.start()
    try:
        yield kubelet
    finally:
        kubelet.stop()
        thread.join()
