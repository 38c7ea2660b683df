"""What an iteration made, as registered models, and the result of a run as its users read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from semievol.algorithm.statistics import quantile_grid
from semievol.algorithm.types import Reason
from semievol.common.artifacts import Artifacts, uri
from semievol.common.registry import Model, Registry
from semievol.common.trained_models import naming_file
from semievol.controller.plan import StepPlan, StepState, files_of
from semievol.controller.runs import RunRecord

ROLES = {"warm": "warm", "evolve": "evolved"}  # step -> role


def register_models(
    artifacts: Artifacts, registry: Registry, run: RunRecord, steps: list[StepPlan], iteration: int
) -> list[Model]:
    """Registers the iteration's models and returns them."""
    grids: dict[int, tuple[float, ...]] = {}  # by the iteration that selected: each is read once
    registered = []
    for model in models_of(artifacts, run, steps):
        if model.iteration != iteration:
            continue
        learned_from = iteration if model.role == "evolved" else iteration - 1
        if learned_from not in grids:
            grids[learned_from] = _selected_entropies(artifacts, steps, learned_from)
        model = replace(model, selected_entropies=grids[learned_from])
        registry.register(model)
        registered.append(model)
    return registered


def _selected_entropies(artifacts: Artifacts, steps: list[StepPlan], iteration: int) -> tuple[float, ...]:
    """The grid of H of the rows that this iteration selected; empty for iteration 0, before which nothing is. One record in memory at a time."""
    select = next((step for step in steps if (step.iteration, step.name) == (iteration, "select")), None)
    if select is None or select.state is not StepState.DONE:
        return ()
    lines = (line for one in files_of(select, "fates.jsonl") for line in artifacts.stream_json_lines(one.file))
    return quantile_grid([line["entropy"] for line in lines if line["reason"] == Reason.KEPT and "entropy" in line])


def models_of(artifacts: Artifacts, run: RunRecord, steps: list[StepPlan]) -> list[Model]:
    """The models that a run's finished steps have made."""
    reports = {
        step.iteration: _report(artifacts, step) for step in steps if step.name == "report" and step.state is StepState.DONE
    }
    found = []
    for step in steps:
        if step.name in ROLES and step.state is StepState.DONE:
            role, manifest = ROLES[step.name], step.manifests[None]
            sha256 = naming_file(manifest.files).sha256
            accuracy = (reports.get(step.iteration, {}).get("accuracy", {}).get(role) or {}).get("value")
            name = f"{run.spec.name}-{role}-{sha256[:8]}"
            found.append(Model(name, role, run.id, step.iteration, run.spec.model, uri(manifest.key), sha256, accuracy))
    return found


def best_model(models: list[Model], steps: list[StepPlan]) -> Model | None:
    """The evolved model of the last iteration that passed its gate, if it had one; before there is any, the first warm model."""
    failed = {step.iteration for step in steps if _gate_failed(step)}
    evolved = [model for model in models if model.role == "evolved" and model.iteration not in failed]
    warm = [model for model in models if model.role == "warm"]
    return evolved[-1] if evolved else warm[0] if warm else None


def _gate_failed(step: StepPlan) -> bool:
    return (
        step.name == "gate"
        and step.state is StepState.DONE
        and not any(file.path == "passed.json" for file in step.manifests[None].files)
    )


def _stopped(run: RunRecord, steps: list[StepPlan]) -> str | None:
    """Why there are fewer iterations than asked for."""
    if any(_gate_failed(step) and step.iteration == steps[-1].iteration for step in steps):
        return "gate"
    return "no rows" if steps[-1].iteration < run.spec.iterations else None


def result(
    artifacts: Artifacts,
    run: RunRecord,
    state: str,
    steps: list[StepPlan],
    reused: set[str],
    directory_of: Callable[[Model], str | None],
) -> dict[str, Any]:
    """The JSON object that `semievol run --json` ends with (docs/run-file.md); iterations that have reported so far."""
    models = models_of(artifacts, run, steps)
    seconds = {step.label: work_seconds(artifacts, step) for step in steps if step.state is StepState.DONE}
    iterations = []
    for step in steps:
        if step.name != "report" or step.state is not StepState.DONE:
            continue
        mine = [one for one in steps if one.iteration == step.iteration or (step.iteration == 1 and one.iteration == 0)]
        made = {
            model.role: {"name": model.name, "uri": model.uri, "directory": directory_of(model)}
            for model in models
            if model.iteration == step.iteration
        }
        iterations.append(
            {
                "n": step.iteration,
                **_report(artifacts, step),
                "models": {"warm": made.get("warm"), "evolved": made.get("evolved")},
                "seconds": {one.name: seconds.get(one.label, 0.0) for one in mine},
                "reused": [one.name for one in mine if one.label in reused],
            }
        )
    last = iterations[-1] if iterations else None
    best = best_model(models, steps)
    return {
        "run": run.id,
        "name": run.spec.name,
        "state": state,
        "iterations": iterations,
        "stopped": _stopped(run, steps) if state == "succeeded" else None,
        "models": last["models"] if last else {"warm": None, "evolved": None},
        "best": {"name": best.name, "uri": best.uri, "directory": directory_of(best)} if best else None,
        "seconds": seconds,
        "reused": [step.label for step in steps if step.label in reused],
    }


def _report(artifacts: Artifacts, step: StepPlan) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(artifacts.read(step.manifests[None].file("report.json")))
    return body


def work_seconds(artifacts: Artifacts, step: StepPlan) -> float:
    """Work time of the attempts that published; for a reused step, what it took when it was made."""
    return published_seconds(artifacts, step.work.key) if step.work else 0.0


def published_seconds(artifacts: Artifacts, key: str) -> float:
    """Of the attempts under a key."""
    records = artifacts.attempts(key)
    return round(sum(float(record["seconds"]) for record in records if record.get("published", True)), 3)
