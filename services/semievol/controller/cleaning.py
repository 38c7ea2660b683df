"""What can go: a step that is to be done again, a run's models, objects that nothing needs."""

from __future__ import annotations

from pathlib import Path

from semievol.common import errors, uploads
from semievol.common.artifacts import Artifacts, Look, blob_path, parse_uri
from semievol.common.registry import Model, Registry
from semievol.common.trained_models import ENDPOINT_MODEL, PEFT_CONFIG
from semievol.controller.plan import StepPlan
from semievol.controller.runs import RunRecord
from semievol.ports import ObjectInfo


def forget_from(artifacts: Artifacts, run_id: str, steps: list[StepPlan], label: str) -> None:
    """Takes back a step and all that was made from it, in every iteration. Raises NotFound (no such step), Conflict (it waits)."""
    start = next((step for step in steps if step.label == label), None)
    if start is None:
        known = ", ".join(step.label for step in steps)
        raise errors.NotFound(f"The run {run_id} has no step {label!r}; it has {known}.", field="from_step")
    if start.work is None:
        raise errors.Conflict(f"The step {label} has not begun: there is nothing to do again.", field="from_step")
    again = {start.work.key}
    for step in steps[steps.index(start) :]:
        if step.work is None:
            continue
        if again & {file.key for files in step.work.inputs.values() for file in files}:
            again.add(step.work.key)
        if step.work.key in again:
            for shard in step.manifests:
                artifacts.forget(step.work.key, shard)


def unregister_models(registry: Registry, run_id: str) -> list[str]:
    """Forgets the run's models that no alias points at, or pointed at before; their names."""
    named = {name for alias in registry.aliases() for name in (*alias.serves, *alias.previous)}
    gone = [model for model in registry.models() if model.run == run_id and model.name not in named]
    for model in gone:
        registry.unregister(model)
    return [model.name for model in gone]


def garbage(artifacts: Artifacts, runs: list[RunRecord], models: list[Model]) -> list[ObjectInfo]:
    """Objects of steps and uploads that neither a run nor a registered model needs. Manifests come first: what is left stays whole."""
    store = artifacts.store
    keys = {parse_uri(model.uri, field="uri")[0] for model in models}
    needed = {path for run in runs for uri in _uploads(run) if (path := uploads.blob_of(uri))}
    for run in runs:
        keys |= {step.work.key for step in run.plan(Look(artifacts, verify=False)) if step.work}
    found = []
    for info in [*store.list("steps/"), *store.list("training/")]:
        if info.path.split("/")[1] not in keys:
            found.append(info)
        elif manifest := artifacts.manifest_at(info.path):
            needed |= {blob_path(file.sha256) for file in manifest.files}
    return found + [info for info in store.list("blobs/") if info.path not in needed]


def stray_directories(models_directory: Path, models: list[Model]) -> list[Path]:
    """Laid-out models that are registered no more."""
    known = {model.name for model in models}
    laid_out = {file.parent for name in (PEFT_CONFIG, ENDPOINT_MODEL) for file in models_directory.glob(f"*/{name}")}
    return sorted(directory for directory in laid_out if directory.name not in known)


def _uploads(run: RunRecord) -> list[str]:
    data = run.spec.data
    return [data.labeled, data.unlabeled, data.test, data.dev, *(one.uri for one in run.additions)]
