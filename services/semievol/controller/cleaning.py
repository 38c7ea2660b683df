"""What can go: a step that is to be done again, a run's models, objects that nothing needs."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from semievol.common import errors, uploads, work
from semievol.common.artifacts import Artifacts, Look, Manifest, blob_path, parse_uri
from semievol.common.registry import Model, Registry
from semievol.common.trained_models import ENDPOINT_MODEL, PEFT_CONFIG
from semievol.controller.plan import StepPlan, StepState
from semievol.controller.runs import Event, RunRecord
from semievol.ports import ObjectInfo, VectorIndex
from semievol.steps import collections
from semievol.steps.records import row_from_record


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


@dataclass(frozen=True)
class Garbage:
    """What can go. `objects`: manifests come first, so that what is left stays whole. `collections`: names under which the vectors of steps
    among them may be in the vector store. `notes`: what whoever deletes should know."""

    objects: list[ObjectInfo] = field(default_factory=list)
    collections: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def garbage(artifacts: Artifacts, runs: list[RunRecord], events_of: Callable[[str], list[Event]], models: list[Model]) -> Garbage:
    """Objects of steps and uploads that neither a run nor a registered model needs, and what the vector store holds of them."""
    store, found = artifacts.store, Garbage()
    keys = {parse_uri(model.uri, field="uri")[0] for model in models}
    needed = {path for run in runs for uri in _uploads(run) if (path := uploads.blob_of(uri))}
    for run in runs:
        planned, hidden, note = _steps_of(artifacts, run, events_of(run.id))
        keys |= planned | hidden
        found.notes.extend([note] if note else [])
    indexes: list[Manifest] = []
    for info in [*store.list("steps/"), *store.list("training/")]:
        manifest = artifacts.manifest_at(info.path)
        if info.path.split("/")[1] not in keys:
            found.objects.append(info)
            indexes += [manifest] if manifest and manifest.contract.startswith("index/") else []
        elif manifest:
            needed |= {blob_path(file.sha256) for file in manifest.files}
    found.objects.extend(info for info in store.list("blobs/") if info.path not in needed)
    for index in indexes:
        _name_collections(artifacts, index, needed, found)
    return found


def _steps_of(artifacts: Artifacts, run: RunRecord, events: list[Event]) -> tuple[set[str], set[str], str]:
    """(keys of the steps that are planned, keys that only the run's record knows, a note about those). A plan ends at a step whose output is
    missing: what was made from it can be told from the record alone."""
    steps = [(step.label, step.state, step.work.key) for step in run.plan(Look(artifacts, verify=False)) if step.work]
    planned = {key for _, _, key in steps}
    recorded = {event["key"] for event in events if event["type"] in ("step_succeeded", "step_reused")}
    lost = [label for label, state, key in steps if state is not StepState.DONE and key in recorded]
    hidden = recorded - planned if lost else set()
    if not hidden:
        return planned, set(), ""
    note = (
        f"What step {', '.join(lost)} of run {run.id} made is missing; the {len(hidden)} steps behind it are kept, as the run's record has them. "
        "The run file, run again, makes it anew."
    )
    return planned, hidden, note


def _name_collections(artifacts: Artifacts, index: Manifest, needed: set[str], found: Garbage) -> None:
    """Adds what the vector store may hold of an index step, unless a step that stays has the same vectors."""
    try:
        file = index.file("vectors.npy")
        if blob_path(file.sha256) in needed:
            return
        todo = work.load(artifacts.store, index.key)
        lines = (record for entry in todo.inputs["rows"] for record in artifacts.read_json_lines(entry.file))
        rows = sorted((row_from_record(record) for record in lines), key=lambda row: row.id)
        vectors = np.load(io.BytesIO(artifacts.read(file)), allow_pickle=False)
        found.collections.extend(collections.names(rows, vectors))
    except errors.SemiEvolError as error:
        found.notes.append(
            f"Which collection held the vectors of step {index.key[:12]} cannot be told: {error.message} It stays, if it is there."
        )


def drop_collections(index: VectorIndex, names: list[str], *, dry_run: bool) -> list[str]:
    """Those of these names that are there; dropped, unless somebody only asks. Raises Unavailable."""
    there = []
    for name in names:
        try:
            index.describe(name)
        except (errors.NotFound, errors.AlreadyExists):  # not there, or not ours
            continue
        if not dry_run:
            index.drop(name)
        there.append(name)
    return there


def stray_directories(models_directory: Path, models: list[Model]) -> list[Path]:
    """Laid-out models that are registered no more."""
    known = {model.name for model in models}
    laid_out = {file.parent for name in (PEFT_CONFIG, ENDPOINT_MODEL) for file in models_directory.glob(f"*/{name}")}
    return sorted(directory for directory in laid_out if directory.name not in known)


def _uploads(run: RunRecord) -> list[str]:
    data = run.spec.data
    return [data.labeled, data.unlabeled, data.test, data.dev, *(one.uri for one in run.additions)]
