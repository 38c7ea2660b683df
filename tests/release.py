"""A release of the chart on the development cluster, by the commands that its users have: helm, kubectl and semievol."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.servers import BINARIES
from tests.servers.devcluster import kubeconfig_of_the_one_that_is_up
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "semievol"
NAME = "semievol"
_VALUES = [CHART / "values-cpu-trial.yaml", ROOT / "deploy" / "devcluster" / "servers.yaml"]
_SETTINGS = ("image.tag=dev", "tls.mode=self-signed")
_READY_S, _UPGRADED_S, _RUN_S = 600, 300, 2400
_KINDS = (
    "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,persistentvolumeclaims,leases,poddisruptionbudgets"
)
_ENDED = ("succeeded", "failed", "cancelled")
_MANIFESTS = """
import hashlib, json, os
from semievol.common.stores import open_store
store = open_store(os.environ["SEMIEVOL_CONTROLLER_STORE"])
paths = [one.path for one in store.list("steps/") if one.path.endswith("/MANIFEST.json")]
print(json.dumps({path: hashlib.sha256(store.open(path).read()).hexdigest() for path in paths}))
"""

until = functools.partial(wait_until, poll_s=1.0)


class Release:
    """Called `semievol`, alone in a namespace that enforces the restricted Pod Security standard. Fails the test where no cluster is up."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.kubeconfig = str(kubeconfig_of_the_one_that_is_up())

    def run(self, command: list[str], *, timeout_s: float = 120, fails: bool = False) -> str:
        """What it prints; it has to succeed, unless it may have failed."""
        environment = os.environ | {"KUBECONFIG": self.kubeconfig}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert fails or ended.returncode == 0, f"{command} ended with {ended.returncode}: {ended.stderr}{ended.stdout}"
        return ended.stdout

    def kubectl(self, *arguments: str, timeout_s: float = 120, fails: bool = False) -> str:
        return self.run([str(BINARIES / "kubectl"), "--namespace", self.namespace, *arguments], timeout_s=timeout_s, fails=fails)

    def helm(self, *arguments: str, timeout_s: float = 120, fails: bool = False) -> str:
        return self.run([str(BINARIES / "helm"), "--namespace", self.namespace, *arguments], timeout_s=timeout_s, fails=fails)

    def semievol(self, *arguments: str, timeout_s: float = 300) -> str:
        command = [sys.executable, "-m", "semievol.cli.main", *arguments, "--namespace", self.namespace]
        return self.run(command, timeout_s=timeout_s)

    # -------------------------------------------------------------- its life

    def make_namespace(self) -> None:
        """Anew: volumes of one that was left would bring its runs along."""
        self.remove()
        self.kubectl("create", "namespace", self.namespace)
        self.kubectl("label", "--overwrite", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        until(lambda: "serviceaccount/default" in self.objects(), 60, "the namespace has no service account")

    def install(self, *settings: str) -> None:
        """Until all is ready. `settings`: values as `helm --set` takes them, beside those of the trial."""
        values = [argument for file in _VALUES for argument in ("--values", str(file))]
        self._apply("install", values, (*_SETTINGS, *settings), _READY_S)

    def upgrade(self, *settings: str) -> None:
        """With these values changed; until all is ready again."""
        self._apply("upgrade", ["--reuse-values"], settings, _UPGRADED_S)

    def _apply(self, verb: str, values: list[str], settings: Sequence[str], ready_s: int) -> None:
        set_ = [argument for one in settings for argument in ("--set", one)]
        wait = ["--wait", "--timeout", f"{ready_s}s"]
        self.helm(verb, NAME, str(CHART), *values, *set_, *wait, timeout_s=ready_s + 30)

    def remove(self) -> None:
        """With its volumes and the namespace, whatever is still there."""
        self.helm("uninstall", NAME, "--wait", fails=True, timeout_s=300)
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", timeout_s=300)

    # -------------------------------------------------------------- what is there

    def found(self, *arguments: str) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.kubectl("get", *arguments, "--output=json"))["items"]
        return listed

    def objects(self) -> set[str]:
        """Every object of the namespace and every volume, by kind and name."""
        volumes = self.kubectl("get", "persistentvolumes", "--output=name")
        return {*self.kubectl("get", _KINDS, "--output=name").split(), *volumes.split()}

    def jobs_of(self, run: str) -> list[str]:
        return [name for job in self.found("jobs") if (name := str(job["metadata"]["name"])).startswith(f"{run}-")]

    def working(self, component: str) -> list[dict[str, Any]]:
        """Pods of Jobs of this component that are at work."""
        jobs = self.found("pods", "-l", f"semievol.dev/role=job,app.kubernetes.io/component={component}")
        return [pod for pod in jobs if pod["status"]["phase"] in ("Pending", "Running")]

    def leaves_no_pod_at_work(self) -> bool:
        """Of a run. A run has succeeded when its last artifact is committed, so the pod that wrote it may still be on its way out."""
        return not any(self.working(component) for component in ("step", "training", "run-engine"))

    def status(self, run: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.semievol("status", run, "--json"))
        return told

    def acting(self) -> str:
        """The pod of the controller that drives runs; empty while there is none."""
        lease = json.loads(self.kubectl("get", "lease", f"{NAME}-controller", "--output=json"))
        return str(lease["spec"].get("holderIdentity") or "")

    def end_of(self, run: str) -> dict[str, Any]:
        """Its status when it has ended, however it ended."""
        return until(lambda: (told := self.status(run))["state"] in _ENDED and told, _RUN_S, f"{run} did not end", poll_s=3.0)

    def manifests(self) -> dict[str, str]:
        """Path of each manifest in the object store -> sha256 of its bytes, which hold those of the artifact's files."""
        command = ["exec", f"deployment/{NAME}-controller", "--container=main", "--", "python", "-c", _MANIFESTS]
        told: dict[str, str] = json.loads(self.kubectl(*command))
        return told


def small_run(directory: Path, engine: str = "transformers") -> Path:
    """A run file, `townhall`: a part of the demo that two cores evolve in some minutes. 32 labeled, 24 unlabeled and 24 test rows, two answers
    each, one epoch."""
    demo = ROOT / "examples" / "townhall"
    spec = yaml.safe_load((demo / "run.yaml").read_text())
    for role, rows in {"labeled": 32, "unlabeled": 24, "test": 24}.items():
        lines = (demo / f"{role}.csv").read_text().splitlines(keepends=True)
        (directory / f"{role}.csv").write_text("".join(lines[: rows + 1]))
    spec |= {"collaborators": [{"model": "warm", "references": 0}, {"model": "warm", "references": 1}], "shard_rows": 12}
    spec["engine"] = engine
    spec["train"] |= {"epochs": 1}
    (directory / "run.yaml").write_text(yaml.safe_dump(spec))
    return directory / "run.yaml"
