"""Does every part work: one row through each service, and the artifact store's conditional create. Findings, never an exception."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from semievol.algorithm.types import Answer, Candidate, Message, Row, Task
from semievol.common import errors
from semievol.common.artifacts import Artifacts, Manifest, uri
from semievol.common.findings import FAIL, OK, WARN, Finding
from semievol.common.keys import canonical_json, content_key
from semievol.common.stores.probe import probe
from semievol.controller.resolve import endpoint_of
from semievol.controller.runs import RunStore, run_state
from semievol.controller.trial import Models
from semievol.ports import (
    BASE_MODEL,
    AdapterHost,
    Cancel,
    CollectionSpec,
    Embedder,
    Fronted,
    Judge,
    JudgeRequest,
    Prompt,
    Sampling,
    ScoreRequest,
    Trainer,
    TrainingSpec,
    VectorIndex,
    VectorQuery,
    VectorRecord,
)

log = logging.getLogger(__name__)

_PART_S = 120.0  # for one row: a service that takes longer hangs
_TRAINING_S = 900.0  # the model has to be loaded once more
_POLL_S = 0.2
_TASK = Task()
_ROW = Row("trial", "Which colour is the sky on a clear day?", ("blue", "green"))
_ASKED = (Message("user", "Which colour is the sky on a clear day? Reply with one word."),)


class Engine(Models, AdapterHost, Protocol):
    """What the generation service does, by port."""


@dataclass(frozen=True)
class Parts:
    """Everything that is tried. Services are connected when first needed."""

    artifacts: Artifacts
    runs: RunStore
    embedder: Callable[[], Embedder]
    index: Callable[[], VectorIndex]
    engine: Callable[[], Engine]
    judge: Callable[[], Judge]
    trainer: Callable[[], Trainer]


_ADVICE = {
    "store": "Look at the free space, the permissions and the address of the store (SEMIEVOL_CONTROLLER_STORE).",
    "embedding": "Look at the embedding service's log; its model is `embedding` in the run file.",
    "retrieval": "Look at the retrieval service and at Milvus behind it (SEMIEVOL_RETRIEVAL_URI); Milvus Lite allows one process a file.",
    "generation": "Look at the generation service's log; its model is `model` in the run file.",
    "scoring": "With `entropy_source: generated` a run needs no scores.",
    "judging": "Look at the judging service's log, and at generation, which it asks.",
    "training": "Look at the training service's log and at the memory.",
}


def diagnose(parts: Parts, *, train: bool, cancel: Cancel, limit_s: float = _PART_S) -> list[Finding]:
    """In the order in which one part needs another. What fails, or takes longer than `limit_s`, does not keep the others from being
    tried. Raises Cancelled."""
    trials: dict[str, Callable[[Cancel], str]] = {
        "controller": lambda stop: _runs(parts.runs),
        "store": lambda stop: _store(parts.artifacts),
        "embedding": lambda stop: _embed(parts.embedder(), stop),
        "retrieval": lambda stop: _search(parts.index()),
        "generation": lambda stop: _generate(parts.engine(), stop),
        "scoring": lambda stop: _score(parts.engine(), stop),
        "judging": lambda stop: _judge(parts.judge(), stop),
        "training": lambda stop: _reach(parts.trainer()),
    }
    if train:
        trials["training"] = lambda stop: _train(parts, stop)
    found = []
    for name, trial in trials.items():
        if cancel.is_set():
            raise errors.Cancelled("The diagnosis was cancelled.")
        found.append(_tried(name, trial, _TRAINING_S if train and name == "training" else limit_s, cancel))
    return found


def _tried(name: str, trial: Callable[[Cancel], str], limit_s: float, cancel: Cancel) -> Finding:
    """On a thread of its own: a part that hangs is a finding, too."""
    stop, result = threading.Event(), Finding(name, FAIL, "")
    started = time.monotonic()

    def run() -> None:
        nonlocal result
        try:
            result = Finding(name, OK, trial(stop))
        except errors.SemiEvolError as error:
            result = failed(name, error)
        except Exception:
            log.exception("Trying %s", name)
            result = failed(name, errors.InternalError("Internal error; the controller's log has the details."))

    thread = threading.Thread(target=run, name=f"diagnose-{name}", daemon=True)
    thread.start()
    while thread.is_alive() and time.monotonic() - started < limit_s and not cancel.is_set():
        thread.join(_POLL_S)
    stop.set()
    if thread.is_alive():
        result = failed(name, errors.DeadlineExceeded(f"It has not answered within {time.monotonic() - started:.0f} s."))
    return replace(result, seconds=time.monotonic() - started)


def failed(name: str, error: errors.SemiEvolError) -> Finding:
    """A part that can be done without, or is not to be tried, is a warning."""
    dispensable = name in ("scoring", "training") and isinstance(error, errors.NotSupported)
    if dispensable:
        return Finding(name, WARN, error.message, _ADVICE[name])
    return Finding(name, FAIL, error.message, _ADVICE.get(name, ""), exit_code=error.exit_code)


def _runs(runs: RunStore) -> str:
    states = [run_state(runs.events(record.id)) for record in runs.all()]
    return f"{len(states)} run{'' if len(states) == 1 else 's'}, {states.count('running')} unfinished"


def _store(artifacts: Artifacts) -> str:
    probe(artifacts.store)
    return f"{_server(artifacts.store)}writes, reads, deletes; of racing writers one wins"


def _embed(embedder: Embedder, stop: Cancel) -> str:
    info = embedder.info()
    (vector,) = embedder.embed([_ROW.question], cancel=stop)
    norm = float((vector**2).sum()) ** 0.5
    if abs(norm - 1) > 1e-2:
        raise errors.Conflict(f"{info.model} gives vectors of length {norm:.3f}, not 1; references would be the wrong ones.")
    limit = f", {info.max_tokens} tokens at most" if info.max_tokens else ""
    server = f" ({info.server})" if info.server else ""
    return f"{info.model}{server}, {info.dimension} dimensions{limit}"


def _search(index: VectorIndex) -> str:
    name = f"doctor_{uuid.uuid4().hex}"
    index.create(CollectionSpec(name, 2))
    try:
        index.upsert(name, [VectorRecord("near", [1.0, 0.0]), VectorRecord("far", [0.0, 1.0])])
        ((best,),) = index.search(name, [VectorQuery(vector=[0.8, 0.6])], 1)
    finally:
        index.drop(name)
    if best.id != "near":
        raise errors.Conflict("A search over two vectors found the one that is farther away.")
    return f"{_server(index)}makes a collection, finds the nearest of two vectors in it, drops it"


def _server(part: object) -> str:
    """`Milvus 2.3.5 at http://milvus:19530: `"""
    said = part.server() if isinstance(part, Fronted) else ""
    return f"{said}: " if said else ""


def _generate(engine: Engine, stop: Cancel) -> str:
    base = engine.models()[0]
    (reply,) = engine.generate(BASE_MODEL, [Prompt("trial", _ASKED)], Sampling(max_tokens=8), cancel=stop)
    limit = f", {base.max_model_tokens} tokens at most" if base.max_model_tokens else ""
    written = len(reply.completions[0].tokens)
    said = engine.server() if isinstance(engine, Fronted) else ""
    where = f"{base.engine or 'an unknown engine'}{f', which {said}' if said else ''}"
    return f"{base.base} on {where}{limit}; {reply.prompt_tokens} tokens read, {written} written"


def _score(engine: Engine, stop: Cancel) -> str:
    (score,) = engine.score(BASE_MODEL, [ScoreRequest("trial", _ASKED, "blue")], cancel=stop)
    return f"{len(score.tokens)} tokens scored"


def _judge(judge: Judge, stop: Cancel) -> str:
    candidates = tuple(Candidate(f"trial-{letter}", f"Answer: {letter}", Answer(letter)) for letter in "AB")
    (verdict,) = judge.judge(BASE_MODEL, _TASK, [JudgeRequest(_ROW, candidates)], max_tokens=8, cancel=stop)
    return f"asked about two answers to one question; verdict: {verdict.answer.value if verdict.answer else 'none'}"


def _reach(trainer: Trainer) -> str:
    with contextlib.suppress(errors.NotFound):
        trainer.get_run(content_key("a run that nobody has made"))
    return "answers; `semievol doctor --train` trains one update"


def _train(parts: Parts, stop: Cancel) -> str:
    """One update on one example, under keys of its own, whose records are removed afterwards; the bytes are gc's."""
    store, served = parts.artifacts.store, parts.engine().models()[0]
    url, alone = endpoint_of(served.engine)
    if alone:
        raise errors.NotSupported(f"Not tried: {url} trains for money. A run with `trainer: openai` and few rows would try it.")
    base = served.base
    dataset, key = content_key(["doctor", uuid.uuid4().hex]), content_key(["doctor", uuid.uuid4().hex])
    example = {"row_id": "trial", "prompt": [{"role": "user", "content": _ASKED[0].content}], "completion": "blue"}
    files = {"train.jsonl": canonical_json({**example, "source": "labeled"})}
    parts.artifacts.publish(Manifest(dataset, "examples/doctor", {}, {}, ()), files)
    spec = TrainingSpec(base, uri(dataset, "train.jsonl"), epochs=1.0, lora_rank=1, lora_alpha=2, gradient_accumulation=1)
    trainer = parts.trainer()
    try:
        state = trainer.create_run(key, spec)
        while state.state in ("pending", "running"):
            if stop.is_set():
                trainer.cancel_run(key)
                raise errors.Cancelled("The training was cancelled.")
            time.sleep(_POLL_S)
            state = trainer.get_run(key)
    finally:
        for prefix in (f"steps/{dataset}/", f"steps/{key}/", f"training/{key}/"):
            for info in store.list(prefix):
                store.delete(info.path)
    if state.state != "succeeded":
        cls = errors.BY_CODE.get(state.error_code, errors.InternalError)
        raise cls(state.error or f"The training ended as {state.state}.")
    loss = json.dumps(round(state.loss, 3))
    return f"one update on {base}, loss {loss}"
