"""Models that an endpoint has trained and serves, by our names for them (R9): artifacts that hold the endpoint's name in place of weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.trained_models import ENDPOINT_MODEL, PEFT_WEIGHTS
from semievol.generation.adapters import Loaded


@dataclass(frozen=True, slots=True)
class TunedModel:
    """`model`: what the endpoint calls it; `sha256` of the file that says so."""

    name: str
    uri: str
    model: str
    sha256: str

    @property
    def content(self) -> tuple[str, ...]:
        return (self.sha256,)


class TunedModels(Loaded[TunedModel]):
    """Which of an endpoint's models are loaded."""

    def __init__(self, artifacts: Artifacts | None, endpoint: str, base: str) -> None:
        super().__init__(artifacts, "model")
        self._endpoint = endpoint
        self._base = base

    def open(self, name: str, uri: str) -> TunedModel:
        """Reads and checks; `add` makes it known. Raises NotFound, Corrupt, AlreadyExists, InvalidInput (weights; another endpoint's; not of
        this base)."""
        artifacts, manifest, file = self._published(name, uri)
        files = {one.path: one for one in manifest.files}
        if file is not None or ENDPOINT_MODEL not in files:
            what = "holds weights (PEFT)" if PEFT_WEIGHTS in files and file is None else "is no trained model"
            raise errors.InvalidInput(
                f"{uri} {what}, and the endpoint at {self._endpoint} serves only models that it trained itself. Serve weights with engine: "
                "transformers, or with an endpoint beside an engine of ours (trainer: peft).",
                field="uri",
            )
        told = files[ENDPOINT_MODEL]
        self._check_free(name, (told.sha256,))
        return TunedModel(name, uri, self._model(artifacts.read(told), uri), told.sha256)

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
