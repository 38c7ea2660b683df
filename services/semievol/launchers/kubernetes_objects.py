"""What the launcher `kubernetes` writes: Jobs, and the ConfigMap of a run that owns them. Pure functions of a job and a template.

The chart renders templates.yaml whole: a mapping from a kind of pod (`step`, `training`) to

    job:       labels, annotations, suspend, ttlSecondsAfterFinished, activeDeadlineSeconds
    template:  a PodTemplateSpec, whose container `main` does the work

and the launcher adds only what differs from job to job, and what its own promises need (how a Job ends, when it is tried again).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from semievol.common import errors
from semievol.common.kube import COMPONENT, INSTANCE, NAME, Object, reference
from semievol.launchers import entrypoint
from semievol.ports import JobSpec

CONTAINER = "main"
RUN, JOB, SPEC_HASH, JOB_NAME = "semievol.dev/run", "semievol.dev/job", "semievol.dev/spec-hash", "semievol.dev/job-name"
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_OF_POD = "batch.kubernetes.io/job-name"
OURS = {NAME: "semievol", "app.kubernetes.io/managed-by": "semievol-controller"}

_MOST_NAME = 52  # a pod of an Indexed Job is named <job>-<index>, which must be a DNS label: 63 characters
_MOST_LABEL = 63
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Template:
    """One entry of templates.yaml."""

    pod: Mapping[str, Any]
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        return {str(name): str(value) for name, value in (self.job.get("labels") or {}).items()}

    def identity(self, kind: str) -> dict[str, str]:
        """By which labels its Jobs and pods are known: the chart's own where it gives them, since Services and policies go by them."""
        given = {name: value for name, value in self.labels.items() if name in (NAME, INSTANCE, COMPONENT)}
        return {**OURS, COMPONENT: kind, **given}

    @property
    def grace_s(self) -> float:
        return float(self.pod["spec"].get("terminationGracePeriodSeconds") or 30)


def load_template(path: Path, kind: str) -> Template:
    """Raises InvalidInput(field=templates) for a file that is no such mapping, or without that kind."""
    try:
        entry = (yaml.safe_load(path.read_text()) or {})[kind]
        template = Template(entry["template"], entry.get("job") or {})
        main = [one for one in template.pod["spec"]["containers"] if one["name"] == CONTAINER]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        why = errors.first_line(error)
        raise errors.InvalidInput(f"{path} holds no pod template of kind {kind!r} ({why}).", field="templates") from error
    if not main:
        raise errors.InvalidInput(f"The pod template {kind!r} in {path} has no container named {CONTAINER!r}.", field="templates")
    return template


def object_name(name: str) -> str:
    """A job's name as Kubernetes takes it: as it is where that is allowed, else what is legible of it and a hash."""
    if len(name) <= _MOST_NAME and _DNS_LABEL.fullmatch(name):
        return name
    return _abridged(name, re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), _MOST_NAME)


def label_value(text: str) -> str:
    """Any text as the value of a label, one that differs where the text does."""
    if len(text) <= _MOST_LABEL and _LABEL_VALUE.fullmatch(text):
        return text
    return _abridged(text, re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._"), _MOST_LABEL)


def _abridged(name: str, legible: str, length: int) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{legible[: length - 9].rstrip('-._')}-{digest}".lstrip("-")


def run_object_name(run: str) -> str:
    return object_name(f"semievol-run-{run}")


def spec_hash(job: JobSpec) -> str:
    return entrypoint.content(job)[:12]


def run_object(run: str, template: Template, owner: Object | None) -> Object:
    """The ConfigMap that owns what is made for a run; `owner` is the Deployment that owns it in turn."""
    labels = {**template.identity("run"), COMPONENT: "run", RUN: label_value(run)}
    meta: Object = {"name": run_object_name(run), "labels": labels}
    if owner is not None:
        meta["ownerReferences"] = [reference("apps/v1", "Deployment", owner)]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"run": run}}


def job_object(job: JobSpec, template: Template, component: str, owner: Object | None) -> Object:
    """The Job of one attempt; `owner` is its run's ConfigMap."""
    run = job.labels.get("run", "")
    ours = {**template.identity(component), JOB: object_name(job.name), SPEC_HASH: spec_hash(job)}
    ours |= {RUN: label_value(run)} if run else {}
    meta: Object = {
        "name": object_name(job.name),
        "labels": {**template.labels, **ours},
        "annotations": {**(template.job.get("annotations") or {}), JOB_NAME: job.name},
    }
    if owner is not None:
        meta["ownerReferences"] = [reference("v1", "ConfigMap", owner)]
    spec: Object = {
        "podReplacementPolicy": "Failed",  # never two pods of one job at a time, if it can be helped (R3)
        "podFailurePolicy": {"rules": _failure_rules()},
        "template": _pod(job, template, ours),
        **_tries(job),
    }
    for name in ("suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds"):
        if template.job.get(name) is not None:
            spec[name] = template.job[name]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def _tries(job: JobSpec) -> Object:
    """An attempt is tried once: the next one is another Job, by the controller's own account."""
    if not job.shards:
        return {"backoffLimit": 0}
    parallelism = min(max(job.parallelism, 1), len(job.shards))
    return {
        "completionMode": "Indexed",
        "completions": len(job.shards),
        "parallelism": parallelism,
        "backoffLimitPerIndex": 0,
    }


def _failure_rules() -> list[Object]:
    """Where trying again cannot help the rest of the shards is not tried either; a pod that the cluster took away is no failure of the job."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(errors.FINAL_EXIT_CODES)},
        },
    ]


def filled(template: Template, labels: Mapping[str, str], annotations: Mapping[str, str]) -> Object:
    """The template's pod with more labels and annotations: it is tried once, says how it ended, and may ask the API for nothing."""
    pod: Object = copy.deepcopy(dict(template.pod))
    meta = pod.setdefault("metadata", {})
    meta["labels"] = {**(meta.get("labels") or {}), **labels}
    meta["annotations"] = {**(meta.get("annotations") or {}), **annotations}
    pod["spec"]["restartPolicy"] = "Never"
    pod["spec"]["automountServiceAccountToken"] = False
    main_container(pod)["terminationMessagePolicy"] = "FallbackToLogsOnError"
    return pod


def main_container(pod: Mapping[str, Any]) -> Object:
    """The one that does the work."""
    found: Object = next(one for one in pod["spec"]["containers"] if one["name"] == CONTAINER)
    return found


def _pod(job: JobSpec, template: Template, ours: Mapping[str, str]) -> Object:
    pod = filled(template, ours, {JOB_NAME: job.name})
    container = main_container(pod)
    container["args"] = [_literal(argument) for argument in arguments(job)]
    container["env"] = [*(container.get("env") or []), {"name": "SEMIEVOL_JOB", "value": _literal(job.name)}]
    return pod


def arguments(job: JobSpec) -> list[str]:
    """What the image's `python -m` is given."""
    shards = ["--shards", ",".join(map(str, job.shards))] if job.shards else []
    return ["semievol.launchers.child", *shards, job.entrypoint, *job.args]


def _literal(text: str) -> str:
    """Kubernetes replaces $(NAME) in arguments and environment; $$ stands for the sign itself."""
    return text.replace("$", "$$")
