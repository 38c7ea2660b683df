"""Keyed fine-tuning runs over a launcher and the artifact store.

    training/<key>/SPEC.json              what the key stands for, by conditional create
    training/<key>/attempt-<n>.json       one object a job, by conditional create: who numbers it launches it
    training/<key>/attempt-<n>.end.json   how that job ended, if without an adapter (R11: never inferred from a missing job)

A run has succeeded when its adapter is published under its key; nothing else counts (R1).
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from semievol.common import errors
from semievol.common.artifacts import Artifacts, Manifest, uri
from semievol.common.keys import canonical_json
from semievol.ports import NEVER, Cancel, JobSpec, JobState, JobStatus, Launcher, ObjectStore, TrainingSpec, TrainingState

ENTRYPOINT = "semievol.training.job:run"
TRAINING_LOG = "training_log.json"
TERMINAL = ("succeeded", "failed", "cancelled")
_KEY_DIGITS = frozenset("0123456789abcdef")
_MAX_RANK = 512  # the largest that vLLM serves
_GONE = "The job is gone and left no record; create the run again and it continues from its last checkpoint."


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How jobs train on this installation: nothing here is meant to change the result, but for rounding (`device`, `precision`)."""

    store: str
    cache: str
    checkpoints: str
    device: str = "auto"
    precision: str = "auto"
    tokens_per_pass: int = 2048
    gradient_checkpointing: bool = False
    checkpoint_updates: int = 50
    checkpoint_interval_s: float = 60.0
    endpoint: str = ""
    endpoint_timeout_s: float = 120.0
    endpoint_poll_s: float = 5.0
    endpoint_patience_s: float = 600.0


def check(key: str, spec: TrainingSpec) -> None:
    """Raises InvalidInput(field=) for a request that no backend could serve."""
    if len(key) != 64 or not set(key) <= _KEY_DIGITS:
        raise errors.InvalidInput(f"{key!r} is no content key: 64 lower-case hex digits are expected.", field="key")
    if not spec.base_model:
        raise errors.InvalidInput("No base model is named: give a directory, a hub id or bundled:NAME.", field="spec.base_model")
    if not 1 <= spec.lora_rank <= _MAX_RANK:
        raise errors.InvalidInput(f"lora_rank is {spec.lora_rank}; it must be 1 to {_MAX_RANK}.", field="spec.lora_rank")
    positive = ("epochs", "learning_rate", "lora_alpha", "batch_size", "gradient_accumulation", "max_tokens")
    for name in positive:
        value = getattr(spec, name)
        if not (math.isfinite(value) and value > 0):
            raise errors.InvalidInput(f"{name} is {value}; it must be above 0.", field=f"spec.{name}")
    if not 0 <= spec.warmup_ratio <= 1:
        raise errors.InvalidInput(f"warmup_ratio is {spec.warmup_ratio}; it must be 0 to 1.", field="spec.warmup_ratio")
    if spec.endpoint and spec.epochs != round(spec.epochs):
        raise errors.InvalidInput(f"epochs is {spec.epochs:g}; an endpoint trains whole epochs.", field="spec.epochs")


def identity(artifacts: Artifacts, spec: TrainingSpec) -> bytes:
    """What makes two specs the same work: the dataset counts by its bytes, not by the artifact that carries them (R2).

    Raises InvalidInput(field=), NotFound (dataset).
    """
    manifest, file = artifacts.resolve(spec.dataset_uri, field="spec.dataset_uri")
    if file is None:
        raise errors.InvalidInput(
            f"{spec.dataset_uri} names a whole artifact ({manifest.contract}), not a file of it.", field="spec.dataset_uri"
        )
    return canonical_json(parameters(spec) | {"dataset_uri": f"sha256:{file.sha256}"})


def parameters(spec: TrainingSpec) -> dict[str, Any]:
    """The spec without its dataset, and without an endpoint where there is none: specs from before there were endpoints stay what they are."""
    return {name: value for name, value in asdict(spec).items() if name != "dataset_uri" and (name != "endpoint" or value)}


def rate_multiplier(spec: TrainingSpec) -> float:
    """The learning rate as a multiple of the paper's: what an endpoint is told."""
    return spec.learning_rate / TrainingSpec("", "").learning_rate


def succeeded(artifacts: Artifacts, key: str, manifest: Manifest) -> TrainingState:
    """The state of a run whose adapter is published."""
    log = json.loads(artifacts.read(manifest.file(TRAINING_LOG)))
    updates = log["loss"]
    return TrainingState(
        key, "succeeded", step=len(updates), total_steps=len(updates), loss=updates[-1] if updates else 0.0, adapter_uri=uri(key)
    )


def nowhere(store: ObjectStore, key: str, options: JobOptions) -> None:
    """The `CancelElsewhere` of a service that trains here alone."""


CancelElsewhere = Callable[[ObjectStore, str, JobOptions], None]
"""Cancels what an endpoint still does for a key. Raises Unavailable and its like where it cannot be told."""


class TrainingService:
    """See `ports.Trainer`. Holds no state of its own but how far it has read each job's log.

    A run with an endpoint is a job here, too, which only asks for the training there and follows it. When such a job ends, whatever ends
    it, the endpoint goes on; CancelRun alone cancels there, by `cancel_elsewhere`.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        launcher: Launcher,
        options: JobOptions,
        *,
        poll_s: float = 0.1,
        cancel_elsewhere: CancelElsewhere = nowhere,
    ) -> None:
        self._artifacts = artifacts
        self._launcher = launcher
        self._options = options
        self._poll_s = poll_s
        self._cancel_elsewhere = cancel_elsewhere
        self._records = _Records(artifacts.store)
        self._progress: dict[str, tuple[int, dict[str, Any]]] = {}  # job -> lines read, last progress
        self._lock = threading.RLock()  # a job that is numbered but not yet submitted must not be seen as lost

    def create_run(self, key: str, spec: TrainingSpec, *, run: str = "") -> TrainingState:
        check(key, spec)
        self._check_endpoint(spec)
        wanted = identity(self._artifacts, spec)
        self._artifacts.distrust()  # who asks for a run that has succeeded may have found its adapter damaged
        with self._lock:
            if not self._records.claim(key, wanted):
                raise errors.AlreadyExists(f"The key {key[:12]} belongs to a run with another spec.", field="key")
            attempts = self._records.attempts(key)
            if attempts or self._artifacts.manifest(key):
                state = self._state(key, attempts)
                if state.state not in ("failed", "cancelled"):
                    return state
            job = self._job(key, spec, attempts + 1, run)
            self._records.number(key, attempts + 1, job.name)
            self._launcher.submit(job)  # if another service numbered this attempt first, its job is adopted
            return TrainingState(key, "pending")

    def get_run(self, key: str) -> TrainingState:
        with self._lock:
            if not self._records.known(key):
                raise errors.NotFound(f"There is no training run {key[:12]}.", field="key")
            return self._state(key, self._records.attempts(key))

    def watch_run(self, key: str, *, cancel: Cancel = NEVER) -> Iterator[TrainingState]:
        last = None
        while not cancel.is_set():
            state = self.get_run(key)
            if state != last:
                yield state
                last = state
            if state.state in TERMINAL:
                return
            time.sleep(self._poll_s)

    def cancel_run(self, key: str) -> TrainingState:
        state = self.get_run(key)
        if state.state in TERMINAL:
            return state
        attempt = self._records.attempts(key)
        self._launcher.cancel(job_name(key, attempt))  # returns when the job has saved its checkpoint and ended
        if self._records.endpoint(key):
            self._cancel_elsewhere(self._artifacts.store, key, self._options)
        with self._lock:
            if not self._artifacts.manifest(key):
                self._records.end(key, attempt, "cancelled", None)
            return self._state(key, attempt)

    def _check_endpoint(self, spec: TrainingSpec) -> None:
        """An endpoint gets this service's key, so it is never the caller's choice."""
        if spec.endpoint and spec.endpoint != self._options.endpoint:
            ours = f"lets {self._options.endpoint} train" if self._options.endpoint else "trains here"
            raise errors.Conflict(
                f"The run is to be trained by {spec.endpoint}, and this training service {ours}. Start it with "
                f"SEMIEVOL_TRAINING_ENDPOINT={spec.endpoint}, or `semievol serve --engine {spec.endpoint} --trainer openai`.",
                field="spec.endpoint",
            )

    def probe(self) -> None:
        """One real unit of this service's own work: both of its backends answer."""
        self._artifacts.store.list("training/probe/")
        self._launcher.state("train-probe")

    def _job(self, key: str, spec: TrainingSpec, attempt: int, run: str) -> JobSpec:
        args = (key, str(attempt), canonical_json(asdict(spec)).decode(), canonical_json(asdict(self._options)).decode())
        labels = {"room": "training", "key": key[:12]} | ({"run": run} if run else {})
        return JobSpec(job_name(key, attempt), ENTRYPOINT, args, labels)

    def _state(self, key: str, attempt: int) -> TrainingState:
        job = job_name(key, attempt)
        status = self._launcher.state(job) if attempt else JobStatus(JobState.UNKNOWN)
        manifest = self._artifacts.manifest(key)  # after the look at the job: it may have ended in between
        if manifest:
            return succeeded(self._artifacts, key, manifest)
        progress = self._read_progress(job) if attempt else {}
        state = TrainingState(key, "running" if progress else "pending", **progress)
        if status.state is JobState.RUNNING:
            return replace(state, waiting_reason=status.reason)
        return _ended(state, self._records.ending(key, attempt), status)

    def _read_progress(self, job: str) -> dict[str, Any]:
        lines_read, progress = self._progress.get(job, (0, {}))
        lines = self._launcher.logs(job, lines_read)
        for line in lines:
            found = _progress_of(line)
            progress = found or progress
        self._progress[job] = (lines_read + len(lines), progress)
        return progress


def job_name(key: str, attempt: int) -> str:
    return f"train-{key[:12]}-{attempt}"


def _ended(state: TrainingState, ending: Mapping[str, str] | None, status: JobStatus) -> TrainingState:
    """What became of a job that runs no more and has published nothing."""
    state = replace(state, eta_s=0.0, tokens_per_s=0.0)
    if ending is not None:
        return replace(state, state=ending["state"], error=ending["error"], error_code=ending["error_code"])
    if status.exit_code == errors.Cancelled.exit_code:
        return replace(state, state="cancelled")
    if status.state is JobState.SUCCEEDED:
        code = errors.Corrupt.code
    else:  # a bug would only happen again; a job that was killed or lost may be tried again
        bug = status.exit_code == errors.InternalError.exit_code
        code = errors.InternalError.code if bug else errors.Unavailable.code
    return replace(state, state="failed", error=status.message or _GONE, error_code=code)


def _progress_of(line: str) -> dict[str, Any] | None:
    """The progress that a log line reports; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        progress = json.loads(line).get("progress")
    except ValueError:
        return None
    fields = ("step", "total_steps", "loss", "tokens_per_s", "eta_s")
    return {name: progress[name] for name in fields if name in progress} if isinstance(progress, dict) else None


def record_ending(store: ObjectStore, key: str, attempt: int, error: errors.SemiEvolError) -> None:
    """A job's last act, if it fails. The first record counts."""
    _Records(store).end(key, attempt, "cancelled" if isinstance(error, errors.Cancelled) else "failed", error)


class _Records:
    """The objects below `training/` (see the top of this file)."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def claim(self, key: str, identity: bytes) -> bool:
        """Whether the key stands for this work, now or already."""
        path = f"training/{key}/SPEC.json"
        return self._store.create(path, identity) or self._read(path) == identity

    def known(self, key: str) -> bool:
        return self._read(f"training/{key}/SPEC.json") is not None

    def endpoint(self, key: str) -> str:
        """That trains for this key; empty: none does."""
        return str(json.loads(self._read(f"training/{key}/SPEC.json") or b"{}").get("endpoint", ""))

    def attempts(self, key: str) -> int:
        found = self._store.list(f"training/{key}/attempt-")
        return max((int(info.path.rpartition("-")[2].partition(".")[0]) for info in found), default=0)

    def number(self, key: str, attempt: int, job: str) -> None:
        self._store.create(f"training/{key}/attempt-{attempt}.json", canonical_json({"job": job}))

    def end(self, key: str, attempt: int, state: str, error: errors.SemiEvolError | None) -> None:
        failed = state == "failed" and error is not None
        body = {
            "state": state,
            "error": error.message if failed and error else "",
            "error_code": error.code if failed and error else "",
        }
        self._store.create(f"training/{key}/attempt-{attempt}.end.json", canonical_json(body))

    def ending(self, key: str, attempt: int) -> dict[str, str] | None:
        data = self._read(f"training/{key}/attempt-{attempt}.end.json")
        return dict(json.loads(data)) if data is not None else None

    def _read(self, path: str) -> bytes | None:
        try:
            with self._store.open(path) as stream:
                return stream.read()
        except errors.NotFound:
            return None
