"""A cluster of one machine without a cluster: the API server in memory, and Jobs whose pods are processes of this machine.

It does for Jobs what the Job controller and the kubelet do, as far as the launcher sees it: statuses, one process an index, logs behind times, exit
codes, the end of a deletion when the last process has ended. Scheduling, images and everything else that can go wrong there is the real cluster's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from semievol.common.kube import JOB, POD, Object, Request, Response
from semievol.common.kube_fake import FakeApiServer


class ProcessCluster(FakeApiServer):
    """Ended as a context: what still runs is killed."""

    def __init__(self) -> None:
        super().__init__(written=self._created)
        self._running: dict[str, list[subprocess.Popen[str]]] = {}  # by job
        self._deleted: set[str] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ProcessCluster:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._deleted |= self._running.keys()
            for processes in self._running.values():
                for process in processes:
                    process.kill()
        for thread in self._threads:
            thread.join()

    def _created(self, one: Object) -> None:
        if one["kind"] == "Job":
            thread = threading.Thread(target=self._run, args=(one,))
            self._running[one["metadata"]["name"]] = []
            self._threads.append(thread)
            thread.start()

    def _run(self, job: Object) -> None:
        """A Job from its beginning to its end."""
        name, spec = job["metadata"]["name"], job["spec"]
        self.put(JOB, {"metadata": {"name": name}, "spec": {"suspend": False}, "status": {"active": 1, "ready": 1}})
        with ThreadPoolExecutor(spec.get("parallelism", 1)) as pool:
            codes = list(pool.map(lambda index: self._run_pod(job, index), range(spec.get("completions", 1))))
        kind = "Failed" if any(codes) else "Complete"
        with self._lock:
            if name in self._deleted:
                self.remove(JOB, name)
                for pod in self.kube().list(POD, {"batch.kubernetes.io/job-name": name}):
                    self.remove(POD, pod["metadata"]["name"])
            else:
                self.put(
                    JOB, {"metadata": {"name": name}, "status": {"active": 0, "conditions": [{"type": kind, "status": "True"}]}}
                )

    def _run_pod(self, job: Object, index: int) -> int:
        name, indexed = job["metadata"]["name"], job["spec"].get("completionMode") == "Indexed"
        pod = f"{name}-{index}-p"
        meta: Object = {"name": pod, "labels": {"batch.kubernetes.io/job-name": name}, "annotations": {}}
        (main,) = job["spec"]["template"]["spec"]["containers"]
        environment = {**os.environ, **{one["name"]: _expanded(one["value"]) for one in main["env"]}}
        if indexed:
            meta["annotations"]["batch.kubernetes.io/job-completion-index"] = str(index)
            environment["JOB_COMPLETION_INDEX"] = str(index)
        with self._lock:
            if name in self._deleted:
                return 130
            process = subprocess.Popen(
                [sys.executable, "-m", *map(_expanded, main["args"])],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self._running[name].append(process)
            self.put(POD, {"metadata": meta, "status": {"phase": "Running"}})
            self.logs[pod] = ""
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            with self._lock:
                self.logs[pod] += f"{datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%S.%f')}Z {line}"
            last = line
        code = process.wait()
        code = 128 - code if code < 0 else code
        state: dict[str, Any] = {"terminated": {"exitCode": code, "message": last if code else ""}}
        status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [{"name": "main", "state": state}]}
        self.put(POD, {"metadata": meta, "status": status})
        return code

    def _delete(self, request: Request | str) -> Response:
        """Of a Job at work: its processes are told to stop, and it goes when they have."""
        name = (request if isinstance(request, str) else request.path).rpartition("/")[2]
        at_work = [process for process in self._running.get(name, ()) if process.poll() is None]
        if isinstance(request, str) or name not in self._running or name in self._deleted:
            return super()._delete(request)
        known = self._objects.get(request.path)
        if known is None or any(one["status"] == "True" for one in known.get("status", {}).get("conditions", ())):
            return super()._delete(request)
        self._deleted.add(name)
        for process in at_work:
            process.terminate()
        return Response(200, b"{}")


def _expanded(text: str) -> str:
    """As the kubelet reads an argument, where no $(NAME) is meant."""
    return text.replace("$$", "$")
