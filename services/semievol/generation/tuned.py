"""Models that an endpoint has trained and serves, by our names for them (R9): artifacts that hold the endpoint's name in place of weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.trained_models import ENDPOINT_MODEL, PEFT_WEIGHTS
from semievol.generation.adapters import check_name


@dataclass(frozen=True, slots=True)
class TunedModel:
    """`model`: what the endpoint calls it; `sha256` of the file that says so."""

    name: str
    uri: str
    model: str
    sha256: str


class TunedModels:
    """Which of an endpoint's models are loaded, in name order. One thread at a time may change it; readers see all or nothing."""

    def __init__(self, artifacts: Artifacts | None, endpoint: str, base: str) -> None:
        self._artifacts = artifacts
        self._endpoint = endpoint
        self._base = base
        self._loaded: dict[str, TunedModel] = {}
        self._taken: dict[str, str] = {}  # outlives unloading: a name is never reused

    def all(self) -> list[TunedModel]:
        loaded = self._loaded
        return [loaded[name] for name in sorted(loaded)]

    def get(self, name: str) -> TunedModel | None:
        return self._loaded.get(name)

    def open(self, name: str, uri: str) -> TunedModel:
        """Reads and checks; `add` makes it known. Raises NotFound, Corrupt, AlreadyExists, InvalidInput (weights; another endpoint's; not of
        this base)."""
        check_name(name)
        if self._artifacts is None:
            raise errors.NotFound(f"There is no artifact {uri}: this engine has no artifact store.", field="uri")
        manifest, file = self._artifacts.resolve(uri, field="uri")
        files = {one.path: one for one in manifest.files}
        if file is not None or ENDPOINT_MODEL not in files:
            what = "holds weights (PEFT)" if PEFT_WEIGHTS in files and file is None else "is no trained model"
            raise errors.InvalidInput(
                f"{uri} {what}, and the endpoint at {self._endpoint} serves only models that it trained itself. Serve weights with engine: "
                "transformers, or with an endpoint beside an engine of ours (trainer: peft).",
                field="uri",
            )
        told = files[ENDPOINT_MODEL]
        if self._taken.get(name, told.sha256) != told.sha256:
            raise errors.AlreadyExists(f"The name {name!r} belongs to another model; names are never reused.", field="name")
        return TunedModel(name, uri, self._model(self._artifacts.read(told), uri), told.sha256)

    def add(self, model: TunedModel) -> None:
        self._loaded = {**self._loaded, model.name: model}
        self._taken[model.name] = model.sha256

    def remove(self, name: str) -> None:
        """A model that is not loaded is no error. Raises InvalidInput for the base model."""
        check_name(name)
        self._loaded = {known: model for known, model in self._loaded.items() if known != name}

    def _model(self, data: bytes, uri: str) -> str:
        try:
            told = json.loads(data)
            model, base, endpoint = str(told["model"]), told["base"], told["endpoint"]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.InvalidInput(f"{ENDPOINT_MODEL} of {uri} cannot be read: {error}.", field="uri") from error
        if endpoint != self._endpoint:
            raise errors.InvalidInput(
                f"{uri} was trained by the endpoint at {endpoint}, and this engine asks {self._endpoint}; models stay where they were trained.",
                field="uri",
            )
        if base != self._base:
            raise errors.InvalidInput(f"{uri} was trained on {base}, and this engine serves {self._base}.", field="uri")
        return model
