"""Models that runs have made, and the aliases by which they are served.

models/<name>.json                one object a model; a name carries the content hash and never means another model (R9)
aliases/<alias>/<number>.json     append-only: the last one counts
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass

from semievol.common import errors
from semievol.common.keys import canonical_json
from semievol.common.runspec import NAME_PATTERN
from semievol.controller.runs import damaged, read_record
from semievol.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Model:
    """`role`: warm or evolved; `uri`: `artifact:<key>`; `sha256` of the adapter's weights file; `accuracy` 0..1, None if not measured."""

    name: str
    role: str
    run: str
    iteration: int
    base: str
    uri: str
    sha256: str
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """`previous`: models that it pointed at before, latest first; rolling back takes the first of them."""

    name: str
    model: str
    previous: tuple[str, ...] = ()


class Registry:
    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def register(self, model: Model) -> bool:
        """True if the model is new. A record that is damaged is written anew."""
        path, body = f"models/{model.name}.json", canonical_json(asdict(model))
        if self._store.create(path, body):
            return True
        try:
            read_record(self._store, path)
        except errors.Corrupt:
            self._store.put(path, body)
        return False

    def models(self) -> list[Model]:
        """By run, iteration and role."""
        found = []
        for info in self._store.list("models/"):
            try:
                found.append(Model(**read_record(self._store, info.path)))
            except TypeError as error:
                raise damaged(info.path) from error
        return sorted(found, key=lambda model: (model.run, model.iteration, model.role != "warm", model.name))

    def unregister(self, model: Model) -> None:
        self._store.delete(f"models/{model.name}.json")

    def aliases(self) -> list[Alias]:
        """By name."""
        names = {info.path.split("/")[1] for info in self._store.list("aliases/")}
        return [self.alias(name) for name in sorted(names)]

    def alias(self, name: str) -> Alias:
        """Raises NotFound that lists the known ones."""
        stack: list[str] = []
        for info in self._store.list(f"aliases/{name}/"):
            change = read_record(self._store, info.path)
            if change["change"] == "promote":
                stack.append(change["model"])
            else:
                stack.pop()
        if not stack:
            known = sorted({info.path.split("/")[1] for info in self._store.list("aliases/")})
            raise errors.NotFound(f"There is no alias {name!r}; known aliases: {', '.join(known) or 'none yet'}.", field="alias")
        return Alias(name, stack[-1], tuple(reversed(stack[:-1])))

    def promote(self, model: str, alias: str) -> Alias:
        """Points the alias at the model; pointing at what it points at already changes nothing. Raises NotFound, InvalidInput."""
        _check_alias(alias)
        known = [one.name for one in self.models()]
        if model not in known:
            raise errors.NotFound(
                f"There is no model {model!r}; known models: {', '.join(known[-5:]) or 'none yet'}.", field="model"
            )
        try:
            if (current := self.alias(alias)).model == model:
                return current
        except errors.NotFound:
            pass
        self._append(alias, {"change": "promote", "model": model})
        return self.alias(alias)

    def rollback(self, alias: str) -> Alias:
        """Points the alias at what it pointed at before. Raises NotFound, Conflict (there is nothing before), InvalidInput."""
        _check_alias(alias)
        current = self.alias(alias)
        if not current.previous:
            raise errors.Conflict(
                f"The alias {alias} has pointed at nothing but {current.model}: there is nothing to go back to."
            )
        self._append(alias, {"change": "rollback"})
        return self.alias(alias)

    def _append(self, alias: str, change: dict[str, str]) -> None:
        number = len(self._store.list(f"aliases/{alias}/")) + 1
        while not self._store.create(f"aliases/{alias}/{number:08d}.json", canonical_json({**change, "time": time.time()})):
            number += 1


def _check_alias(alias: str) -> None:
    """Raises InvalidInput: an alias becomes a part of a path."""
    if not re.fullmatch(NAME_PATTERN, alias):
        raise errors.InvalidInput(f"{alias!r} is not an alias: use letters, digits, `-`, `_` and `.`, at most 63.", field="alias")
