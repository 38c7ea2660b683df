"""A trainer for tests of whoever trains: makes small adapters at once, or step by step as the test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from semievol.common import errors
from semievol.common.artifacts import Artifacts, Manifest, uri
from semievol.common.keys import canonical_json, sha256_hex
from semievol.ports import NEVER, Cancel, TrainingSpec, TrainingState
from semievol.training import core


@dataclass
class _FakeRun:
    spec: TrainingSpec
    identity: bytes
    state: TrainingState


class FakeTrainer:
    """See `ports.Trainer`. `updates` are made one per look at a run; `hold` stops them. `fail_next` runs end with the error; `created` counts
    the runs that were really started. The adapter's bytes are a function of the spec and the dataset's bytes."""

    def __init__(self, artifacts: Artifacts, *, updates: int = 1) -> None:
        self.hold = False
        self.fail_next: list[errors.SemiEvolError] = []
        self.created = 0
        self._artifacts = artifacts
        self._updates = updates
        self._runs: dict[str, _FakeRun] = {}
        self._lock = threading.RLock()

    def create_run(self, key: str, spec: TrainingSpec, *, run: str = "") -> TrainingState:
        core.check(key, spec)
        identity = core.identity(self._artifacts, spec)
        self._artifacts.distrust()
        with self._lock:
            known = self._runs.get(key)
            if known is not None and known.identity != identity:
                raise errors.AlreadyExists(f"The key {key[:12]} belongs to a run with another spec.", field="key")
            damaged = known is not None and known.state.state == "succeeded" and not self._artifacts.manifest(key)
            if known is not None and not damaged and known.state.state not in ("failed", "cancelled"):
                return known.state
            self.created += 1
            step = known.state.step if known and not damaged else 0  # goes on from its checkpoint
            state = TrainingState(key, "pending", step=step, total_steps=self._updates)
            self._runs[key] = _FakeRun(spec, identity, state)
            return state

    def get_run(self, key: str) -> TrainingState:
        with self._lock:
            run = self._runs.get(key)
            if run is None:
                raise errors.NotFound(f"There is no training run {key[:12]}.", field="key")
            if run.state.state not in core.TERMINAL and not self.hold:
                run.state = self._next(run)
            return run.state

    def watch_run(self, key: str, *, cancel: Cancel = NEVER) -> Iterator[TrainingState]:
        last = None
        while not cancel.is_set():
            state = self.get_run(key)
            if state != last:
                yield state
                last = state
            if state.state in core.TERMINAL:
                return
            time.sleep(0.01)

    def cancel_run(self, key: str) -> TrainingState:
        with self._lock:
            state = self.get_run(key)
            if state.state not in core.TERMINAL:
                self._runs[key].state = state = replace(state, state="cancelled")
            return state

    def _next(self, run: _FakeRun) -> TrainingState:
        if self.fail_next:
            error = self.fail_next.pop(0)
            return replace(run.state, state="failed", error=error.message, error_code=error.code)
        state = replace(run.state, state="running", step=run.state.step + 1)
        state = replace(state, loss=1.0 / state.step, tokens_per_s=100.0)
        if state.step < self._updates:
            return state
        self._publish(run, state.key)
        return replace(state, state="succeeded", tokens_per_s=0.0, adapter_uri=uri(state.key))

    def _publish(self, run: _FakeRun, key: str) -> None:
        digest = sha256_hex(run.identity)
        log = {"loss": [1.0 / step for step in range(1, self._updates + 1)]}
        files: dict[str, bytes] = {
            "adapter_config.json": canonical_json(
                {"peft_type": "LORA", "base_model_name_or_path": run.spec.base_model, "r": run.spec.lora_rank}
            ),
            "adapter_model.safetensors": bytes.fromhex(digest),
            core.TRAINING_LOG: canonical_json(log),
        }
        self._artifacts.publish(Manifest(key, "train/fake", {"spec": digest}, {}, ()), dict(files))
