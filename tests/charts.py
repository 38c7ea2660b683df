"""The chart as `helm template` renders it, for tests of what comes out."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.servers import BINARIES

CHART = Path(__file__).parents[1] / "helm" / "semievol"
VALUES = tuple(sorted(path.name for path in CHART.glob("values-*.yaml")))
RELEASE, NAMESPACE = "semievol", "evolving"
KUBERNETES = "1.34.4"  # what a client without a cluster takes to be there; one built from a module knows none by itself

Object = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Raises RuntimeError where it is not there."""
    binary = BINARIES / "helm"
    if not binary.exists():
        raise RuntimeError(f"There is no {binary}: run deploy/devcluster/build.sh helm (make test does).")
    return subprocess.run([str(binary), *arguments], capture_output=True, text=True, timeout=120, check=False)


@functools.cache
def render(values: str = "", *sets: str) -> tuple[Object, ...]:
    """All objects of a release with this values file and these `key=value`s. Raises AssertionError with what helm says."""
    ended = helm(
        "template", RELEASE, str(CHART), "--kube-version", KUBERNETES, "--namespace", NAMESPACE, *_arguments(values, sets)
    )
    assert ended.returncode == 0, ended.stderr
    return tuple(one for one in yaml.safe_load_all(ended.stdout) if one)


def refusal(*sets: str) -> str:
    """What helm says of values that it does not take."""
    ended = helm("template", RELEASE, str(CHART), "--kube-version", KUBERNETES, "--namespace", NAMESPACE, *_arguments("", sets))
    assert ended.returncode != 0, f"{sets} were taken"
    return ended.stderr


def _arguments(values: str, sets: tuple[str, ...]) -> list[str]:
    files = ["--values", str(CHART / values)] if values else []
    return files + [part for one in sets for part in ("--set-json" if _is_json(one) else "--set", one)]


def _is_json(one: str) -> bool:
    return one.partition("=")[2][:1] in "[{"


def of_kind(objects: tuple[Object, ...], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def named(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    return next(one for one in of_kind(objects, kind) if one["metadata"]["name"] == name)


@dataclass(frozen=True)
class Pod:
    """A pod template of the release. `owner`: kind and name of what makes pods of it."""

    owner: str
    labels: dict[str, str]
    spec: Object

    @property
    def component(self) -> str:
        """As the table of flows calls it."""
        job = self.labels["semievol.dev/role"] == "job" and self.labels["app.kubernetes.io/component"] == "training"
        return self.labels["app.kubernetes.io/component"] + ("-job" if job else "")

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def arguments(self) -> list[str]:
        return [argument for container in self.containers for argument in container.get("args", [])]

    def environment(self) -> dict[str, str]:
        """Of the container that does the work; a value from a Secret or a field is empty."""
        return {one["name"]: one.get("value", "") for one in self.spec["containers"][0].get("env", [])}


def templates(objects: tuple[Object, ...]) -> Object:
    """What the launchers read."""
    found: Object = yaml.safe_load(named(objects, "ConfigMap", "semievol-jobs")["data"]["templates.yaml"])
    return found


def pods(objects: tuple[Object, ...]) -> Iterator[Pod]:
    for one in of_kind(objects, "Deployment", "StatefulSet"):
        template = one["spec"]["template"]
        yield Pod(f"{one['kind']} {one['metadata']['name']}", template["metadata"]["labels"], template["spec"])
    for one in of_kind(objects, "Pod"):
        yield Pod(f"Pod {one['metadata']['name']}", one["metadata"]["labels"], one["spec"])
    for kind, entry in templates(objects).items():
        yield Pod(f"template {kind}", entry["template"]["metadata"]["labels"], entry["template"]["spec"])


def main() -> None:
    """Prints what the launchers make of the templates in a rendered release, as objects that the API server would be given."""
    objects = tuple(one for one in yaml.safe_load_all(Path(sys.argv[1]).read_text()) if one)
    made = [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": kind, "labels": entry["job"]["labels"]},
            "spec": {"template": entry["template"]},
        }
        if "job" in entry
        else {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": kind}, "spec": entry["template"]["spec"]}
        for kind, entry in templates(objects).items()
    ]
    print(yaml.safe_dump_all(made))


if __name__ == "__main__":
    main()
