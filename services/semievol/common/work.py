"""What a step's job has to know, as an object in the store: `steps/<key>/WORK.json`, written once before the first job starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from semievol.algorithm.semievol import CONTRACTS
from semievol.common import errors
from semievol.common.artifacts import File
from semievol.common.keys import canonical_json, content_key
from semievol.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file that a step reads. `part`: which part of the rows it belongs to, None if to all of them."""

    key: str
    shard: int | None
    file: File
    part: int | None = None


@dataclass(frozen=True)
class Work:
    """All that a job has to know: what to do, with which parameters, on which files. Its key is the hash of this."""

    kind: str
    params: Mapping[str, Any]
    inputs: Mapping[str, tuple[InputFile, ...]]
    parts: int | None = None  # number of shards; None: not sharded

    @property
    def contract(self) -> str:
        return f"{self.kind}/{CONTRACTS[self.kind]}"

    @cached_property
    def key(self) -> str:
        hashes = {role: [file.file.sha256 for file in files] for role, files in self.inputs.items()}
        return content_key({"contract": self.contract, "params": dict(self.params), "inputs": hashes, "parts": self.parts})

    @property
    def shards(self) -> tuple[int | None, ...]:
        return (None,) if self.parts is None else tuple(range(self.parts))


def save(store: ObjectStore, todo: Work) -> None:
    """Equal work has an equal key, so an object that is there already says the same; one that does not is damaged, and replaced."""
    inputs = {
        role: [
            {
                "key": one.key,
                "shard": one.shard,
                "part": one.part,
                "path": one.file.path,
                "size": one.file.size,
                "sha256": one.file.sha256,
            }
            for one in files
        ]
        for role, files in todo.inputs.items()
    }
    body = canonical_json({"kind": todo.kind, "params": dict(todo.params), "parts": todo.parts, "inputs": inputs})
    if store.create(_path(todo.key), body):
        return
    with store.open(_path(todo.key)) as stream:
        intact = stream.read() == body
    if not intact:
        store.put(_path(todo.key), body)


def load(store: ObjectStore, key: str) -> Work:
    """Raises NotFound, Corrupt (the work under this key is not the work that has this key)."""
    try:
        with store.open(_path(key)) as stream:
            todo = _from_json(json.loads(stream.read()))
    except (ValueError, KeyError, TypeError) as error:
        raise errors.Corrupt(f"The work of step {key[:12]} in the artifact store cannot be read: {error}.") from error
    if todo.key != key:
        raise errors.Corrupt(f"The work of step {key[:12]} in the artifact store is damaged.")
    return todo


def _from_json(body: dict[str, Any]) -> Work:
    inputs = {
        role: tuple(
            InputFile(one["key"], one["shard"], File(one["path"], one["size"], one["sha256"]), one["part"]) for one in files
        )
        for role, files in body["inputs"].items()
    }
    return Work(body["kind"], body["params"], inputs, body["parts"])


def _path(key: str) -> str:
    return f"steps/{key}/WORK.json"
