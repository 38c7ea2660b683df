"""The last checkpoint of a run: `<directory>/step-<updates done>-<sha256>.safetensors`.

Tensors are the adapter, AdamW's moments and the random state; the header's metadata holds the rest as JSON. The name carries the
digest of the bytes, so that a damaged file is noticed and ignored: the run then starts over.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol.common import errors
from semievol.common.keys import canonical_json, sha256_hex

log = logging.getLogger(__name__)

_NAME = re.compile(r"^step-(\d{8})-([0-9a-f]{64})\.safetensors$")
_META = "semievol"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`tensors` by name; `meta` is JSON-able. `step` counts the updates done."""

    step: int
    tensors: Mapping[str, Any]
    meta: Mapping[str, Any]


def save(directory: Path, checkpoint: Checkpoint) -> None:
    """Temporary file, fsync, rename, fsync of the directory; then older ones go. Raises StorageError."""
    from safetensors.torch import save as serialize

    meta = canonical_json({"step": checkpoint.step, **checkpoint.meta}).decode()
    data = serialize(dict(checkpoint.tensors), metadata={_META: meta})
    name = f"step-{checkpoint.step:08d}-{sha256_hex(data)}.safetensors"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / f".{name}.{os.getpid()}"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / name)
        _sync(directory)
        for old in directory.iterdir():
            if old.name != name:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise errors.StorageError(f"Cannot write a checkpoint in {directory}: {error.strerror or error}.") from error


def load(directory: Path, wanted: Mapping[str, Any]) -> Checkpoint | None:
    """The last intact checkpoint whose `meta` agrees with `wanted`, or None."""
    from safetensors.torch import load as deserialize

    for path in sorted(directory.glob("step-*.safetensors"), reverse=True):
        match = _NAME.match(path.name)
        data = path.read_bytes()
        if not match or sha256_hex(data) != match[2]:
            log.warning("The checkpoint %s is damaged and is ignored.", path.name)
            continue
        meta = _metadata(data)
        if any(meta.get(name) != value for name, value in wanted.items()):
            log.warning("The checkpoint %s is of another run and is ignored.", path.name)
            continue
        return Checkpoint(int(match[1]), deserialize(data), meta)
    return None


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def _metadata(data: bytes) -> dict[str, Any]:
    """The header of a safetensors file is its length in 8 bytes, then JSON."""
    size = int.from_bytes(data[:8], "little")
    meta: dict[str, Any] = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_META])
    return meta


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
