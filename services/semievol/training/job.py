"""The one training Job: reads the dataset, trains, publishes the adapter under its key.

Called by a launcher as run(args, cancel, emit); args are the key, the attempt's number, the spec and the options (canonical JSON).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.semievol import CONTRACTS
from semievol.algorithm.types import TrainingExample
from semievol.common import errors
from semievol.common.artifacts import Artifacts, File, Manifest
from semievol.common.keys import canonical_json
from semievol.common.models import LocalModel, resolve_model
from semievol.common.stores import open_store
from semievol.ports import Cancel, TrainingSpec
from semievol.training import checkpoint, dataset
from semievol.training.card import model_card
from semievol.training.core import TRAINING_LOG, JobOptions, parameters, record_ending

Emit = Callable[[Mapping[str, object]], None]


def run(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    """Raises what went wrong, after putting it on record; cancellation raises Cancelled with a checkpoint saved."""
    key, attempt = args[0], int(args[1])
    spec, options = TrainingSpec(**json.loads(args[2])), JobOptions(**json.loads(args[3]))
    artifacts = Artifacts(open_store(options.store))
    try:
        _train_and_publish(artifacts, key, attempt, spec, options, cancel, emit)
    except errors.SemiEvolError as error:
        with contextlib.suppress(errors.SemiEvolError):  # the launcher's record then has to do
            record_ending(artifacts.store, key, attempt, error)
        raise


def _train_and_publish(
    artifacts: Artifacts, key: str, attempt: int, spec: TrainingSpec, options: JobOptions, cancel: Cancel, emit: Emit
) -> None:
    checkpoints = Path(options.checkpoints, key)
    if artifacts.manifest(key):  # a second pod of a finished job
        checkpoint.remove(checkpoints)
        return
    _, file = artifacts.resolve(spec.dataset_uri, field="spec.dataset_uri")
    if file is None:
        raise errors.InvalidInput(f"{spec.dataset_uri} names no file.", field="spec.dataset_uri")
    examples = dataset.parse(artifacts.read(file), spec.dataset_uri)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="semievol-adapter-") as scratch:
        if spec.endpoint:
            base_sha256, record = _train_elsewhere(Path(scratch), artifacts, key, spec, options, examples, file, cancel, emit)
        else:
            base = resolve_model(spec.base_model, Path(options.cache))
            base_sha256, record = base.sha256, _train(Path(scratch), key, spec, options, base, examples, file, cancel, emit)
        files = {path.name: path for path in sorted(Path(scratch).iterdir())}
        manifest, _ = artifacts.publish(_manifest(key, spec, base_sha256, file), files)
    record |= {"seconds": time.monotonic() - started, "files": len(manifest.files)}
    artifacts.record_attempt(key, None, str(attempt), record)
    checkpoint.remove(checkpoints)


def _train(
    directory: Path,
    key: str,
    spec: TrainingSpec,
    options: JobOptions,
    base: LocalModel,
    examples: Sequence[TrainingExample],
    file: File,
    cancel: Cancel,
    emit: Emit,
) -> dict[str, Any]:
    """Writes the adapter's files into `directory`; returns what the attempt's record says."""
    from semievol.training.backends.peft import PeftRun

    wanted = {"key": key, "base_sha256": base.sha256, "dataset_sha256": file.sha256}
    run = PeftRun(base, spec, options, examples)
    run.train(Path(options.checkpoints, key), wanted, cancel, emit)
    run.save(directory)
    card = model_card(base, spec, examples, dataset_sha256=file.sha256, cut=run.cut, losses=run.losses)
    (directory / "README.md").write_text(card)
    (directory / TRAINING_LOG).write_bytes(canonical_json({"loss": run.losses, "prompts_cut": run.cut}))
    return run.record()


def _train_elsewhere(
    directory: Path,
    artifacts: Artifacts,
    key: str,
    spec: TrainingSpec,
    options: JobOptions,
    examples: Sequence[TrainingExample],
    file: File,
    cancel: Cancel,
    emit: Emit,
) -> tuple[str, dict[str, Any]]:
    """As `_train`, by the endpoint; also what stands for its base model."""
    from semievol.training.backends.openai import TuningRun, base_digest

    run = TuningRun(artifacts.store, key, spec, options, examples)
    try:
        job = run.run(cancel, emit)
        run.save(directory, job, dataset_sha256=file.sha256)
    finally:
        run.close()
    return base_digest(spec), {"endpoint": spec.endpoint, "job": job.id}


def _manifest(key: str, spec: TrainingSpec, base_sha256: str, file: File) -> Manifest:
    """The dataset counts by its bytes."""
    inputs = {"dataset": file.sha256, "base_model": base_sha256}
    return Manifest(key, f"train/{CONTRACTS['train']}", inputs, parameters(spec), ())
