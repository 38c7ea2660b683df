"""What has to be done next: a pure function of a run's spec and of the manifests that exist. This is the whole resume logic.

The planner walks `algorithm.semievol.STEPS` once per iteration. A step whose inputs are published has a content key; under that key
its manifests are there (done), partly there (some shards) or missing (ready). Steps behind it wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from semievol.algorithm.semievol import STEPS, Step
from semievol.algorithm.types import Weights
from semievol.common.artifacts import Manifest
from semievol.common.runspec import RunSpec
from semievol.common.work import InputFile, Work

ManifestOf = Callable[[str, int | None], Manifest | None]  # (key, shard) -> the published manifest, or None


class StepState(StrEnum):
    DONE = "done"
    READY = "ready"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the services said about the run's models when it was submitted; part of every key that depends on them.

    `base_sha256`: fingerprint of M_base. `engine`: generation backend and number format, since these change the last bits.
    """

    base_sha256: str
    engine: str
    embedding_sha256: str


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of the run. `missing`: shards to be made; `manifests`: what is there, by shard."""

    iteration: int
    name: str
    state: StepState
    work: Work | None = None
    missing: tuple[int | None, ...] = ()
    manifests: Mapping[int | None, Manifest] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`1/infer/warm-2`"""
        return f"{self.iteration}/{self.name}"


Artifacts = dict[str, tuple[InputFile, ...] | None]  # name -> files; None: to be written by a step that is not done


@dataclass(frozen=True, slots=True)
class Addition:
    """Unlabeled rows that came after the run began (`data add`): the iteration that takes them up, and the upload that holds them."""

    iteration: int
    uri: str


@dataclass(frozen=True, slots=True)
class _Ended:
    """An iteration that is done (0: intake): the rows that were added for it, its steps, what the next one begins with."""

    added: Sequence[str]
    steps: Sequence[StepPlan]
    scope: Artifacts
    failed: bool = False


class Done:
    """Iterations in which an earlier plan of the same run found everything done: the next one takes them as they are."""

    def __init__(self) -> None:
        self._iterations: list[_Ended] = []  # from intake on

    def clear(self) -> None:
        """What was found may be damaged."""
        self._iterations.clear()

    def ended(self, iteration: int, added: Sequence[str] = ()) -> _Ended | None:
        """What is known of an iteration with these rows added for it."""
        known = self._iterations[iteration] if len(self._iterations) > iteration else None
        return known if known and list(known.added) == list(added) else None

    def note(self, iteration: int, ended: _Ended) -> None:
        """One behind an iteration that is not done, or whose rows became others, is not noted."""
        del self._iterations[iteration:]
        if len(self._iterations) == iteration and all(step.state is StepState.DONE for step in ended.steps):
            self._iterations.append(ended)


def plan(
    spec: RunSpec, resolved: Resolved, manifest_of: ManifestOf, additions: Sequence[Addition] = (), done: Done | None = None
) -> list[StepPlan]:
    """All steps of the run that can be known by now, in order. `done`: what earlier plans with the same manifests found.

    Iterations end when there is nothing left to learn from, or when the gate fails: the model of that iteration is discarded with
    its selection, and only rows that are added later start another one.
    """
    done = Done() if done is None else done
    if (begun := done.ended(0)) is None:
        intake = _step_plan(0, "intake", _intake_work(spec), manifest_of)
        if intake.state is not StepState.DONE:
            return [intake]
        read = {name: files_of(intake, path) for name, path in _INTAKE_FILES.items()}
        begun = _Ended((), [intake], {name: files for name, files in read.items() if files or name == "unlabeled"})
        done.note(0, begun)
    steps, scope, failed = list(begun.steps), dict(begun.scope), False
    for iteration in range(1, max([spec.iterations, *(one.iteration for one in additions)]) + 1):
        added = [one.uri for one in additions if one.iteration == iteration]
        if not added and (failed or not scope["unlabeled"]):
            break
        if ended := done.ended(iteration, added):
            steps += ended.steps
            scope, failed = dict(ended.scope), ended.failed
            continue
        first = len(steps)
        if added:
            extend = _step_plan(iteration, "extend", _extend_work(spec, added, scope), manifest_of)
            steps.append(extend)
            if extend.state is not StepState.DONE:
                break
            scope |= {name: files_of(extend, _INTAKE_FILES[name]) for name in ("unlabeled", "gold")}
            if not scope["unlabeled"]:
                break
        before = dict(scope)
        steps += _iteration(iteration, spec, resolved, scope, manifest_of)
        if scope.get("next_unlabeled") is None or ("gate_passed" in scope and scope["gate_passed"] is None):
            break  # not selected or not measured yet: what comes next is not known
        failed = scope.get("gate_passed") == ()
        scope = before if failed else _next_scope(scope)
        done.note(iteration, _Ended(added, steps[first:], dict(scope), failed))
    return steps


_INTAKE_FILES = {
    "labeled": "labeled.jsonl",
    "unlabeled": "unlabeled/",
    "test": "test.jsonl",
    "dev": "dev.jsonl",
    "gold": "gold.jsonl",
}


def _next_scope(scope: Artifacts) -> Artifacts:
    """What the next iteration begins with (Sec. 4.3.7). Its gate measures against this iteration's model."""
    kept = {name: scope[name] for name in ("test", "gold", "dev") if name in scope}
    best = {"best_dev": scope["evolved_dev"]} if "evolved_dev" in scope else {}
    return kept | best | {"labeled": scope["next_labeled"], "unlabeled": scope["next_unlabeled"]}


def _intake_work(spec: RunSpec) -> Work:
    data = {role: uri for role, uri in spec.data.model_dump(exclude={"map"}).items() if uri}
    share, least = spec.holdout
    holdout = {"holdout": {"share": share, "least": least, "seed": spec.seed}} if share else {}
    return Work("intake", {"data": data, **_reading(spec), **holdout}, {})


def _extend_work(spec: RunSpec, added: list[str], scope: Artifacts) -> Work:
    known = {name: scope[name] or () for name in ("labeled", "unlabeled", "test", "dev", "gold") if scope.get(name)}
    return Work("extend", {"added": added, **_reading(spec)}, known)


def _reading(spec: RunSpec) -> dict[str, Any]:
    """How data files are read."""
    task = {"type": spec.task.type.value, "answer": spec.task.answer.value, "options": spec.task.options}
    names = {"map": spec.data.map} if spec.data.map else {}
    return {"task": task, "bad_rows": spec.bad_rows, "shard_rows": spec.shard_rows, **names}


def _iteration(
    iteration: int, spec: RunSpec, resolved: Resolved, scope: Artifacts, manifest_of: ManifestOf
) -> Iterator[StepPlan]:
    """The steps of one iteration; puts what they write into `scope`."""
    options = _options(spec, scope)
    for step in STEPS:
        if step.option and step.option not in options:
            continue
        made: dict[str, list[InputFile] | None] = {name: [] for name in step.writes}
        for name, configuration in _instances(step, spec):
            inputs = _inputs(step, configuration, options, scope)
            if inputs is None:
                found = StepPlan(iteration, name, StepState.WAITING)
            else:
                parts = len(scope["unlabeled"] or ()) if step.sharded else None
                work = Work(step.kind, _params(step, spec, resolved, configuration), inputs, parts)
                found = _step_plan(iteration, name, work, manifest_of)
            yield found
            for artifact, path in step.writes.items():
                files = made[artifact]
                made[artifact] = [*files, *files_of(found, path)] if found.state is StepState.DONE and files is not None else None
        scope.update({name: tuple(files) if files is not None else None for name, files in made.items()})


def _options(spec: RunSpec, scope: Artifacts) -> set[str]:
    """Which of the options that STEPS name are on."""
    test, dev = bool(scope.get("test")), bool(scope.get("dev"))
    first = dev and "best_dev" not in scope
    on = {
        "in_weight": spec.in_weight,
        "train_references": spec.train.references > 0,
        "generated_entropy": spec.entropy_source == "generated",
        "labeled_threshold": spec.threshold_reference == "labeled",
        "test": test,
        "warm_test": test and spec.in_weight,
        "gate": dev,
        "dev_warm": first and spec.in_weight,
        "dev_base": first and not spec.in_weight,
    }
    return {option for option, value in on.items() if value}


@dataclass(frozen=True, slots=True)
class Configuration:
    """The collaborators that differ in their sample alone; they answer together."""

    model: Weights
    references: int
    samples: int


def _instances(step: Step, spec: RunSpec) -> list[tuple[str, Configuration | None]]:
    if not step.fan_out:
        return [(step.name, None)]
    names = Counter((one.configuration, one.model, one.references) for one in spec.collaborator_list())
    return [
        (f"{step.name}/{name}", Configuration(model, references, samples)) for (name, model, references), samples in names.items()
    ]


def _inputs(
    step: Step, configuration: Configuration | None, options: set[str], scope: Artifacts
) -> dict[str, tuple[InputFile, ...]] | None:
    """Role -> files; None while a file is still to be written. Roles that nothing writes, or that an option turns off, are left out."""
    inputs: dict[str, tuple[InputFile, ...]] = {}
    for role, names in step.reads.items():
        if role in step.optional_reads and step.optional_reads[role] not in options:
            continue
        if configuration and (
            (role == "model" and configuration.model is Weights.BASE) or (role in _SHOWN and not configuration.references)
        ):
            continue
        present = [scope[name] for name in names if name in scope]
        if any(files is None for files in present):
            return None
        files = tuple(file for group in present if group for file in group)
        if files:
            inputs[role] = files
    return inputs


_SHOWN = ("library", "references")  # what only collaborators with references read


def _params(step: Step, spec: RunSpec, resolved: Resolved, configuration: Configuration | None) -> dict[str, Any]:
    """Everything besides its inputs that a step's result depends on, and nothing else: it goes into the key."""
    task = spec.task.model_dump(mode="json")
    model = {"base_sha256": resolved.base_sha256, "engine": resolved.engine, "task": task, "max_tokens": spec.max_tokens}
    if step.kind == "train" and spec.trainer == "openai":
        train = spec.train.model_dump(include={"epochs", "learning_rate", "batch_size", "gradient_accumulation"})
        there = {"endpoint": spec.endpoint, "engine": resolved.engine}
        return {"base_model": spec.model, "base_sha256": resolved.base_sha256, "seed": spec.seed, **train, **there}
    if step.kind == "train":
        train = spec.train.model_dump(exclude={"references"}) | {"lora_alpha": spec.train.lora_alpha or 2 * spec.train.lora_rank}
        return {"base_model": spec.model, "base_sha256": resolved.base_sha256, "seed": spec.seed, **train}
    if step.kind == "infer" and configuration:
        shown = {"model": configuration.model.value, "references": configuration.references, "samples": configuration.samples}
        return {**model, "configuration": shown, "temperature": spec.temperature, "seed": spec.seed}
    params: dict[str, dict[str, Any]] = {
        "index": {"embedding_sha256": resolved.embedding_sha256, "references": spec.train.references},
        "examples": {"task": task, "references": spec.train.references},
        "retrieve": {"embedding_sha256": resolved.embedding_sha256, "references": spec.references},
        "judge": {**model, "judge": spec.judge},
        "score": {key: value for key, value in model.items() if key != "max_tokens"} | {"source": spec.entropy_source},
        "select": {
            "theta": spec.theta,
            "include_labeled": spec.include_labeled,
            "max_no_answer": spec.max_no_answer,
            "shard_rows": spec.shard_rows,
        },
        "evaluate": model,
        "gate": {"min_gain": spec.gate.min_gain, "seed": spec.seed},
        "report": {"task": task, "seed": spec.seed},
    }
    if step.kind == "score" and spec.entropy_source == "generated":
        params["score"]["max_tokens"] = spec.max_tokens
    return params[step.kind]


def _step_plan(iteration: int, name: str, work: Work, manifest_of: ManifestOf) -> StepPlan:
    key = work.key
    found = {shard: manifest for shard in work.shards if (manifest := manifest_of(key, shard)) is not None}
    missing = tuple(shard for shard in work.shards if shard not in found)
    return StepPlan(iteration, name, StepState.READY if missing else StepState.DONE, work, missing, found)


def files_of(step: StepPlan, path: str) -> tuple[InputFile, ...]:
    """The files of a done step under `path`: one file, all parts of a directory (`unlabeled/`), or everything (empty)."""
    files = []
    for shard in sorted(step.manifests, key=lambda shard: -1 if shard is None else shard):
        manifest = step.manifests[shard]
        named = sorted((file for file in manifest.files if _under(file.path, path)), key=lambda file: file.path)
        for index, file in enumerate(named):
            files.append(InputFile(manifest.key, shard, file, index if path.endswith("/") else shard))
    return tuple(files)


def _under(file: str, path: str) -> bool:
    return not path or file == path or (path.endswith("/") and file.startswith(path))
