"""Adapters by name: fetched from the artifact store, checked, and never replaced under a name (R9)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from semievol.common import errors
from semievol.common.artifacts import Artifacts, File, Manifest
from semievol.common.keys import sha256_file
from semievol.common.trained_models import ENDPOINT_MODEL, PEFT_CONFIG, PEFT_WEIGHTS
from semievol.ports import BASE_MODEL

CONFIG, WEIGHTS = PEFT_CONFIG, PEFT_WEIGHTS
_NAME = re.compile(r"^[A-Za-z0-9._-]{1,128}$")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A plain PEFT directory. `sha256` of its weights file; `content` also of its configuration, which scales them."""

    name: str
    uri: str
    directory: Path
    sha256: str
    content: tuple[str, str]


class Named(Protocol):
    """What can be loaded under a name. `content` says what the name means, for ever."""

    @property
    def name(self) -> str: ...

    @property
    def content(self) -> tuple[str, ...]: ...


N = TypeVar("N", bound=Named)


class Loaded(Generic[N]):
    """What is loaded, in name order. One thread at a time may change it; readers see all or nothing. `kind`: its word in messages."""

    def __init__(self, artifacts: Artifacts | None, kind: str) -> None:
        self._artifacts = artifacts
        self._kind = kind
        self._loaded: dict[str, N] = {}
        self._taken: dict[str, tuple[str, ...]] = {}  # outlives unloading: a name is never reused

    def all(self) -> list[N]:
        loaded = self._loaded
        return [loaded[name] for name in sorted(loaded)]

    def get(self, name: str) -> N | None:
        return self._loaded.get(name)

    def add(self, one: N) -> None:
        self._loaded = {**self._loaded, one.name: one}
        self._taken[one.name] = one.content

    def remove(self, name: str) -> None:
        """One that is not loaded is no error. Raises InvalidInput for the base model."""
        check_name(name)
        self._loaded = {known: one for known, one in self._loaded.items() if known != name}

    def _published(self, name: str, uri: str) -> tuple[Artifacts, Manifest, File | None]:
        """The artifact that the name is wanted for, or a file of it. Raises InvalidInput, NotFound, Corrupt."""
        check_name(name)
        if self._artifacts is None:
            raise errors.NotFound(f"There is no artifact {uri}: this engine has no artifact store.", field="uri")
        return self._artifacts, *self._artifacts.resolve(uri, field="uri")

    def _check_free(self, name: str, content: tuple[str, ...]) -> None:
        if self._taken.get(name, content) != content:
            raise errors.AlreadyExists(
                f"The name {name!r} belongs to another {self._kind}; names are never reused.", field="name"
            )


class Adapters(Loaded[Adapter]):
    """PEFT adapters of one base."""

    def __init__(self, artifacts: Artifacts | None, cache: Path, base: str) -> None:
        super().__init__(artifacts, "adapter")
        self._cache = cache
        self._base = base

    def open(self, name: str, uri: str) -> Adapter:
        """Fetches and checks; `add` makes it known. Raises NotFound, Corrupt, AlreadyExists, InvalidInput (not an adapter for this base)."""
        artifacts, manifest, file = self._published(name, uri)
        digests = {one.path: one.sha256 for one in manifest.files}
        if file is None and ENDPOINT_MODEL in digests:
            raise errors.InvalidInput(
                f"{uri} is a model that an endpoint trained and serves, and this engine serves weights; start the services with "
                "the run's engine and trainer: `semievol serve --engine URL --trainer openai`.",
                field="uri",
            )
        if file is not None or not {CONFIG, WEIGHTS} <= digests.keys():
            raise errors.InvalidInput(f"{uri} is not a published adapter: it lacks {CONFIG} or {WEIGHTS}.", field="uri")
        content = (digests[WEIGHTS], digests[CONFIG])
        self._check_free(name, content)
        directory = artifacts.fetch(manifest, self._cache / manifest.key)
        if sha256_file(directory / WEIGHTS) != digests[WEIGHTS]:
            raise errors.Corrupt(f"The adapter in {directory} is damaged; delete that directory, it is fetched again.")
        self._check_config(directory, uri)
        return Adapter(name, uri, directory, digests[WEIGHTS], content)

    def _check_config(self, directory: Path, uri: str) -> None:
        try:
            config = json.loads((directory / CONFIG).read_text())
            kind, base = config["peft_type"], config["base_model_name_or_path"]
        except (ValueError, KeyError, TypeError) as error:
            raise errors.InvalidInput(f"{CONFIG} of {uri} cannot be read: {error}.", field="uri") from error
        if kind != "LORA":
            raise errors.InvalidInput(f"{uri} is a {kind} adapter; only LORA is served.", field="uri")
        if base != self._base:
            raise errors.InvalidInput(f"{uri} was trained on {base}, and this engine serves {self._base}.", field="uri")


def check_name(name: str) -> None:
    """Raises InvalidInput(field=name)."""
    if not _NAME.fullmatch(name) or name == BASE_MODEL:
        raise errors.InvalidInput(
            f"{name!r} cannot name an adapter: 1 to 128 ASCII letters, digits, '-', '_', '.', and not {BASE_MODEL!r}.",
            field="name",
        )
