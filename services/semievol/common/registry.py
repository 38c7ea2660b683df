"""Models that runs have made, and the aliases by which they are served.

models/<name>.json                one object a model; a name carries the content hash and never means another model (R9)
aliases/<alias>/<number>.json     append-only: {"change": "promote" | "canary" | "rollback", ...}, replayed in order
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from semievol.common import errors
from semievol.common.keys import canonical_json
from semievol.common.records import damaged, read_record
from semievol.common.runspec import NAME_PATTERN
from semievol.ports import BASE_MODEL, ObjectStore

FULL_WEIGHT = 100  # percent


@dataclass(frozen=True, slots=True)
class Model:
    """`role`: warm or evolved; `uri`: `artifact:<key>`; `sha256` of the adapter's weights file; `accuracy` 0..1, None if not measured.

    `selected_entropies`: `algorithm.statistics.quantile_grid` of H (nats per token) of the pseudo-labels that it learned from; empty if there
    are none, and in records that are older than the field."""

    name: str
    role: str
    run: str
    iteration: int
    base: str
    uri: str
    sha256: str
    accuracy: float | None = None
    selected_entropies: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Alias:
    """`previous`: models that it pointed at before, latest first; rolling back takes the first of them.

    `canary`: the model that gets `weight` percent of the calls, 1..99, while `model` gets the rest; empty, with 0, where there is none."""

    name: str
    model: str
    previous: tuple[str, ...] = ()
    canary: str = ""
    weight: int = 0

    @property
    def serves(self) -> tuple[str, ...]:
        """The models that get calls."""
        return (self.model, self.canary) if self.canary else (self.model,)


def model_from_record(record: Mapping[str, Any], path: str) -> Model:
    """Fields that this version does not know are left alone: a newer one may have written them. Raises Corrupt."""
    known = {field.name for field in fields(Model)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in known
    }
    try:
        return Model(**values)
    except TypeError as error:
        raise damaged(path) from error


def replayed(name: str, changes: Iterable[Mapping[str, Any]]) -> Alias | None:
    """The alias after all its changes, in order; None where nothing was promoted."""
    stack: list[str] = []
    canary, weight = "", 0
    for change in changes:
        if change["change"] == "canary":
            canary, weight = change["model"], change["weight"]
            continue
        if change["change"] == "promote":
            if not (canary and stack and stack[-1] == change["model"]):  # else it only ends the canary
                stack.append(change["model"])
        elif not canary and stack:
            stack.pop()
        canary, weight = "", 0
    return Alias(name, stack[-1], tuple(reversed(stack[:-1])), canary, weight) if stack else None


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
            found.append(model_from_record(read_record(self._store, info.path), info.path))
        return sorted(found, key=lambda model: (model.run, model.iteration, model.role != "warm", model.name))

    def unregister(self, model: Model) -> None:
        self._store.delete(f"models/{model.name}.json")

    def aliases(self) -> list[Alias]:
        """By name."""
        names = {info.path.split("/")[1] for info in self._store.list("aliases/")}
        return [self.alias(name) for name in sorted(names)]

    def alias(self, name: str) -> Alias:
        """Raises NotFound that lists the known ones."""
        found = replayed(name, (read_record(self._store, info.path) for info in self._store.list(f"aliases/{name}/")))
        if found is None:
            known = sorted({info.path.split("/")[1] for info in self._store.list("aliases/")})
            raise errors.NotFound(f"There is no alias {name!r}; known aliases: {', '.join(known) or 'none yet'}.", field="alias")
        return found

    def promote(self, model: str, alias: str, weight: int = FULL_WEIGHT) -> Alias:
        """Points the alias at the model, or, with a weight below 100, that share of its calls: then the model is its canary, in place of
        another one. What is so already changes nothing. Raises NotFound, InvalidInput, Conflict (a canary of nothing else)."""
        _check_alias(alias)
        if not 1 <= weight <= FULL_WEIGHT:
            raise errors.InvalidInput(f"A weight is a percentage from 1 to 100, not {weight}.", field="weight")
        known = [one.name for one in self.models()]
        if alias == BASE_MODEL or alias in known:
            raise errors.InvalidInput(
                f"{alias} is a model's own name, which comes before an alias: choose another.", field="alias"
            )
        if model not in known:
            raise errors.NotFound(
                f"There is no model {model!r}; known models: {', '.join(known[-5:]) or 'none yet'}.", field="model"
            )
        current = self._find(alias)
        if weight == FULL_WEIGHT:
            if current is None or (current.model, current.canary) != (model, ""):
                self._append(alias, {"change": "promote", "model": model})
        else:
            _check_canary(current, model, alias, weight)
            if current is None or (current.canary, current.weight) != (model, weight):
                self._append(alias, {"change": "canary", "model": model, "weight": weight})
        return self.alias(alias)

    def rollback(self, alias: str) -> Alias:
        """Takes the canary away if there is one; else points the alias at what it pointed at before. Raises NotFound, Conflict (there is
        nothing before), InvalidInput."""
        _check_alias(alias)
        current = self.alias(alias)
        if not current.previous and not current.canary:
            raise errors.Conflict(
                f"The alias {alias} has pointed at nothing but {current.model}: there is nothing to go back to."
            )
        self._append(alias, {"change": "rollback"})
        return self.alias(alias)

    def _find(self, alias: str) -> Alias | None:
        try:
            return self.alias(alias)
        except errors.NotFound:
            return None

    def _append(self, alias: str, change: dict[str, str | int]) -> None:
        number = len(self._store.list(f"aliases/{alias}/")) + 1
        while not self._store.create(f"aliases/{alias}/{number:08d}.json", canonical_json({**change, "time": time.time()})):
            number += 1


def _check_alias(alias: str) -> None:
    """Raises InvalidInput: an alias becomes a part of a path."""
    if not re.fullmatch(NAME_PATTERN, alias):
        raise errors.InvalidInput(f"{alias!r} is not an alias: use letters, digits, `-`, `_` and `.`, at most 63.", field="alias")


def _check_canary(current: Alias | None, model: str, alias: str, weight: int) -> None:
    """Raises Conflict: the rest of the calls has to go to another model."""
    if current is None:
        raise errors.Conflict(
            f"The alias {alias} points at nothing yet, so there is no model for the other {FULL_WEIGHT - weight} %: promote one fully first.",
            field="weight",
        )
    if current.model == model:
        raise errors.Conflict(
            f"The alias {alias} points at {model} already; a canary is another model. (`rollback` takes a canary away.)",
            field="model",
        )
