"""The entrypoint of every step's job: read the work, do it, publish (R1-R3). Knows nothing of who launched it.

args: <store uri> <step key> <shard or -> <attempt id> <service addresses as JSON>
"""

from __future__ import annotations

import json
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from semievol.client.services import Services
from semievol.common import errors, work
from semievol.common.artifacts import Artifacts, Manifest
from semievol.common.keys import content_key
from semievol.common.stores import open_store
from semievol.ports import Cancel
from semievol.steps import evaluate, examples, extend, gate, index, infer, intake, judge, report, retrieve, score, select
from semievol.steps.context import Emit, StepContext, StepInput

log = logging.getLogger(__name__)

Outputs = Mapping[str, bytes | Path]
STEP_FUNCTIONS: Mapping[str, Callable[[StepContext], Outputs]] = {
    "intake": intake.run,
    "extend": extend.run,
    "index": index.run,
    "examples": examples.run,
    "retrieve": retrieve.run,
    "infer": infer.run,
    "judge": judge.run,
    "score": score.run,
    "select": select.run,
    "evaluate": evaluate.run,
    "gate": gate.run,
    "report": report.run,
}


def run(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    """Does one shard of one step. Raises errors of semievol.common.errors; a superseded publication is a success."""
    store_uri, key, shard_text, attempt, addresses = args
    shard = None if shard_text == "-" else int(shard_text)
    artifacts = Artifacts(open_store(store_uri))
    if artifacts.manifest(key, shard) is not None:
        log.info("Step %s shard %s is published already", key[:12], shard_text)
        return
    todo = work.load(artifacts.store, key)
    inputs = {
        role: [StepInput(file.key, file.file) for file in files if shard is None or file.part in (None, shard)]
        for role, files in todo.inputs.items()
    }
    services = Services(json.loads(addresses))
    started = time.monotonic()
    hashes = {role: content_key([entry.file.sha256 for entry in entries]) for role, entries in inputs.items()}
    manifest = Manifest(key, todo.contract, hashes, todo.params, (), shard)
    with tempfile.TemporaryDirectory(prefix="semievol-step-") as scratch:
        context = StepContext(artifacts, services, todo.params, inputs, shard, cancel, emit, Path(scratch))
        try:
            outputs = STEP_FUNCTIONS[todo.kind](context)
        finally:
            services.close()
        _, ours = artifacts.publish(manifest, outputs)
    if not ours:
        log.info("Superseded: another attempt has published step %s shard %s", key[:12], shard_text)
    record = {
        "attempt": attempt,
        "seconds": time.monotonic() - started,
        "host": socket.gethostname(),
        "end_time": time.time(),
        "published": ours,
    }
    try:
        artifacts.record_attempt(key, shard, attempt, record)
    except errors.SemiEvolError as error:  # beside the manifest, never a reason to fail (R10)
        log.warning("The attempt's record was not written: %s", error)
