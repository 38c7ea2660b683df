"""Training jobs in processes of their own: killed without warning, they go on from their last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from semievol.launchers.inline import InlineLauncher
from semievol.launchers.subprocess import SubprocessLauncher
from semievol.ports import TrainingState
from semievol.training.core import TrainingService, job_name

from tests.training_runs import Bench

KEY = "9" * 64
UNDISTURBED = "8" * 64
EPOCHS = 8.0  # 24 updates


@pytest.fixture
def bench(tmp_path: Path, word_model: Path) -> Bench:
    return Bench(tmp_path, word_model)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[SubprocessLauncher]:
    launcher = SubprocessLauncher(tmp_path / "jobs")
    yield launcher
    launcher.close()


@pytest.fixture
def service(bench: Bench, launcher: SubprocessLauncher) -> TrainingService:
    return TrainingService(bench.artifacts, launcher, bench.options(checkpoint_updates=1), poll_s=0.01)


def adapter(bench: Bench, key: str) -> str:
    manifest = bench.artifacts.manifest(key)
    assert manifest is not None
    return manifest.file("adapter_model.safetensors").sha256


def until_step(service: TrainingService, key: str, step: int) -> TrainingState:
    return next(state for state in service.watch_run(key) if state.step >= step)


def kill(bench: Bench, name: str) -> None:
    """kill -9 of the job's whole process group."""
    process = json.loads(next((bench.directory / "jobs" / name).glob("process*")).read_text())
    os.killpg(process["pid"], signal.SIGKILL)


def test_a_job_that_is_killed_ends_after_a_restart_with_the_undisturbed_runs_adapter(
    service: TrainingService, bench: Bench
) -> None:
    spec = bench.spec(epochs=EPOCHS)
    inline = TrainingService(bench.artifacts, InlineLauncher(), bench.options())
    inline.create_run(UNDISTURBED, spec)
    assert list(inline.watch_run(UNDISTURBED))[-1].state == "succeeded"

    service.create_run(KEY, spec)
    until_step(service, KEY, 5)
    kill(bench, job_name(KEY, 1))
    failed = list(service.watch_run(KEY))[-1]
    assert (failed.state, failed.error_code) == ("failed", "UNAVAILABLE")
    assert not bench.artifacts.manifest(KEY)

    service.create_run(KEY, spec)
    states = list(service.watch_run(KEY))
    assert states[-1].state == "succeeded"
    assert min(state.step for state in states if state.total_steps) >= 4  # an update may be lost, not the run
    assert adapter(bench, KEY) == adapter(bench, UNDISTURBED)


def test_a_cancelled_job_saves_within_its_grace(service: TrainingService, bench: Bench) -> None:
    service.create_run(KEY, bench.spec(epochs=5000.0))
    until_step(service, KEY, 1)
    started = time.monotonic()
    state = service.cancel_run(KEY)
    assert state.state == "cancelled"
    assert time.monotonic() - started < 25
    assert list(Path(bench.options().checkpoints, KEY).glob("step-*"))
