"""What engines said of the base model that they serve, kept in the store: `engines/<hash of model and engine settings>.json`.

A run is submitted with its models' fingerprints in its keys, and at that moment no engine may be at work: serving may have yielded to another
run, and engines of runs are there only while they answer. The same settings serve the same weights, so what was said once is taken as said
again; an engine of the run's that says something else when it is there ends the run before anything is published under a wrong key.
"""

from __future__ import annotations

from dataclasses import asdict

from semievol.common import errors
from semievol.common.keys import canonical_json, content_key
from semievol.common.records import read_record
from semievol.ports import BASE_MODEL, ModelInfo, ObjectStore

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
