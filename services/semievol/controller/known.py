"""What engines said of the base model that they serve, kept in the store: `engines/<hash of model and engine settings>.json`.

A run is submitted with its models' fingerprints in its keys, and at that moment no engine may be at work: serving may have yielded to another
run, and engines of runs are there only while they answer. The same settings serve the same weights, so what was said once is taken as said
again; an engine of the run's that says something else when it is there ends the run before anything is published under a wrong key.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from semievol.common import errors
from semievol.common.keys import canonical_json, content_key
from semievol.common.records import read_record
from semievol.ports import BASE_MODEL, Engines, ModelInfo, ObjectStore

log = logging.getLogger(__name__)

_SUBMISSION = "submission"  # stands for the run that is not there yet; no run's id is without a hash
_KEPT = ("base", "base_sha256", "max_model_tokens", "engine")


class KnownBases:
    """`settings`: of the engines, hashed; without any nothing is kept, and nothing known."""

    def __init__(self, store: ObjectStore, settings: str) -> None:
        self._store = store
        self._settings = settings

    def find(self, model: str) -> ModelInfo | None:
        """None if no engine with these settings was heard of, or the record is damaged: then one has to be asked."""
        if not self._settings:
            return None
        try:
            return ModelInfo(BASE_MODEL, **read_record(self._store, self._path(model)))
        except (errors.NotFound, errors.Corrupt, TypeError):
            return None

    def learn(self, base: ModelInfo, *, hearsay: bool = False) -> None:
        """`hearsay`: said by an engine that is not the runs' own, so it counts only where nothing is known yet."""
        if not self._settings or (known := self.find(base.base)) == _kept(base) or (known and hearsay):
            return
        self._store.put(self._path(base.base), canonical_json({name: asdict(base)[name] for name in _KEPT}))

    def _path(self, model: str) -> str:
        return f"engines/{content_key({'model': model, 'settings': self._settings})}.json"


def _kept(base: ModelInfo) -> ModelInfo:
    return ModelInfo(BASE_MODEL, **{name: asdict(base)[name] for name in _KEPT})


class BaseOfRuns:
    """What the runs' engines serve, found out at the least cost: by what they said before; else by asking the serving engines, which have the
    same settings unless somebody takes pains; else by starting one, which is let go again. Without the last, a cluster without serving engines
    could not take its first run, nor one whose serving engines have yielded before any run's engine has answered."""

    def __init__(
        self, known: KnownBases, serving: Callable[[], ModelInfo], engines: Engines, *, wait_s: float = 600.0, poll_s: float = 1.0
    ) -> None:
        self._known, self._serving, self._engines = known, serving, engines
        self._wait_s, self._poll_s = wait_s, poll_s
        self._lock = threading.Lock()

    def __call__(self, model: str) -> ModelInfo:
        """Raises Unavailable, with what an engine that was started for it waits for."""
        with self._lock:  # submissions at the same time need one engine
            if known := self._known.find(model):
                return known
            try:
                base = self._serving()
            except (errors.Unavailable, errors.DeadlineExceeded) as error:
                log.info("No serving engine tells what it serves, so one is started: %s", error.message)
                base = self._started()
                self._known.learn(base)
                return base
            self._known.learn(base, hearsay=True)
            return base

    def _started(self) -> ModelInfo:
        end = time.monotonic() + self._wait_s
        try:
            while True:
                state = self._engines.acquire(_SUBMISSION, "base")
                if state.base:
                    return state.base
                if state.failed or time.monotonic() > end:
                    raise errors.Unavailable(
                        f"What the run's model is has to be asked of an engine, and there is none: {state.reason}"
                    )
                time.sleep(self._poll_s)
        finally:
            self._engines.release(_SUBMISSION)
