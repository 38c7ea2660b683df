"""Why a step is reused, or is not: in words that name what the user changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from semievol.algorithm.semievol import STEPS
from semievol.common.runspec import RunSpec
from semievol.common.work import Work
from semievol.controller.history import EarlierRun, History
from semievol.controller.plan import Resolved, StepPlan, StepState
from semievol.controller.runs import RunRecord

_STEPS = {step.name: step for step in STEPS}
_WRITERS = {artifact: step.name for step in STEPS for artifact in step.writes}
_DATA = ("labeled", "unlabeled", "test", "dev")
_MOST_NEEDED = 3  # steps that are named
_LONGEST = 40  # characters of a value that is shown
# what a step's parameters are called in the run file, where that is another name
_MODELS = {
    "base_sha256": "the base model",
    "engine": "the engine",
    "embedding_sha256": "the embedding model",
    "base_model": "model",
}
_NAMES = {
    "score": {"source": "entropy_source"},
    "index": {"references": "train.references"},
    "examples": {"references": "train.references"},
    "infer": {"configuration.samples": "the number of samples"},
}


def changes(record: RunRecord, spec: Mapping[str, Any], resolved: Resolved) -> list[str]:
    """How a spec (as JSON values) differs from an earlier run's."""
    before = record.spec.model_dump(mode="json") | asdict(record.resolved)
    return _differences(before, {**spec, **asdict(resolved)}, _MODELS)


def reason(step: StepPlan, steps: Sequence[StepPlan], spec: RunSpec, history: History, earlier: Mapping[str, StepPlan]) -> str:
    """`earlier`: the steps of `history.newest`, by label."""
    if step.state is StepState.DONE:
        assert step.work is not None
        maker = history.maker(step.work.key)
        return f"made by {maker}" if maker else "made earlier"
    if step.state is StepState.WAITING:
        needed = _needed(step, steps)
        more = f" and {len(needed) - _MOST_NEEDED} more" if len(needed) > _MOST_NEEDED else ""
        return f"needs {', '.join(needed[:_MOST_NEEDED])}{more}"
    assert step.work is not None
    there = len(step.work.shards) - len(step.missing)
    why = _difference(step, step.work, spec, history.newest, earlier.get(step.label))
    return f"{there} of {len(step.work.shards)} shards are there; {why}" if there else why


def _needed(step: StepPlan, steps: Sequence[StepPlan]) -> list[str]:
    """The steps of this iteration that it reads from and that are still to be done."""
    kind, _, configuration = step.name.partition("/")
    unread = {"model"} if configuration.startswith("base") else set()
    unread |= {"library", "references"} if configuration.endswith("-0") else set()
    reads = _STEPS[kind].reads.items() if kind in _STEPS else ()
    writers = {_WRITERS.get(artifact, "") for role, artifacts in reads if role not in unread for artifact in artifacts}
    waiting = [one for one in steps if one.iteration == step.iteration and one.state is not StepState.DONE]
    return [one.label for one in waiting if one.name.partition("/")[0] in writers] or ["what comes before"]


def _difference(step: StepPlan, work: Work, spec: RunSpec, newest: EarlierRun | None, before: StepPlan | None) -> str:
    if newest is None:
        return "no run of this name yet"
    run = newest.record.id
    if before is None:
        return f"{run} has no such step"
    if before.work is None:
        return f"{run} did not get so far"
    if before.work.key == work.key:
        gone = step.label in newest.keys
        return f"what {run} made is gone or damaged" if gone else f"{run} has not done it yet"
    names = {**_MODELS, **_NAMES.get(work.kind, {})}
    if work.kind == "train":
        names |= {name: f"train.{name}" for name in work.params if name not in (*_MODELS, "seed")}
    found = _differences(before.work.params, work.params, names)
    found += [_input_changed(step, role, spec) for role in work.inputs if _hashes(work, role) != _hashes(before.work, role)]
    return ", ".join(dict.fromkeys(found)) or "the rows are cut into other shards"


def _hashes(work: Work, role: str) -> list[str]:
    return [one.file.sha256 for one in work.inputs.get(role, ())]


def _input_changed(step: StepPlan, role: str, spec: RunSpec) -> str:
    kind = step.name.partition("/")[0]
    artifacts = _STEPS[kind].reads.get(role, (role,)) if kind in _STEPS else (role,)
    if step.iteration <= 1 and artifacts[0] in _DATA:
        return f"{file_names(getattr(spec.data, artifacts[0], ''))} gives other rows"
    writer = next((_WRITERS[one] for one in artifacts if one in _WRITERS), "what comes before")
    return f"{step.iteration}/{writer} came out differently"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """`theta changed 50 -> 40`, for every leaf that differs; data files by their names."""
    old, new = _leaves(before), _leaves(after)
    return [
        _one(names.get(path, path), old.get(path), new.get(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def _one(name: str, old: Any, new: Any) -> str:
    if name.startswith("data."):
        return _file_changed(old, new, name)
    shown = f" {_text(old)} -> {_text(new)}"
    hidden = (name.startswith("the ") and name.endswith("model")) or len(shown) > 2 * _LONGEST
    return f"{name} changed{'' if hidden else shown}"


def _file_changed(old: Any, new: Any, name: str) -> str:
    if not old or not new:
        return f"{name} is {'new' if new else 'gone'}"
    before, after = file_names(old), file_names(new)
    return f"{after} changed" if before == after else f"{name} changed {before} -> {after}"


def file_names(uris: Any) -> str:
    """Of uploads, as their owner knows them: the last part of each URI."""
    return ", ".join(str(uri).rpartition("/")[2] for uri in (uris if isinstance(uris, list | tuple) else [uris]))


def _text(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value) or "nothing"


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, one in value.items():
        if isinstance(one, Mapping):
            found |= _leaves(one, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = one
    return found
