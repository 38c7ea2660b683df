"""Data files in the artifact store, by content: `data:<sha256>/<name>`. A laptop has no store credentials; the controller stores for it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from semievol.common import errors
from semievol.common.artifacts import blob_path
from semievol.common.keys import CHUNK_BYTES, sha256_file
from semievol.ports import ObjectStore

_URI = re.compile(r"^data:([0-9a-f]{64})/([^/\0]+)$")
_NAME = re.compile(r"^[^/\\\0\n]{1,255}$")


def is_uri(text: str) -> bool:
    """Whether this names an upload; `data:train` is a split of the directory `data`."""
    return _URI.match(text) is not None


def check_name(name: str) -> None:
    """Raises InvalidInput: a name has no directories."""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise errors.InvalidInput(f"{name!r} is not a file name; give the name without directories.", field="name")


def blob_of(uri: str) -> str:
    """Where an upload lies in the store; empty for what is no upload."""
    match = _URI.match(uri)
    return blob_path(match[1]) if match else ""


class Upload:
    """One upload on its way: pieces go to a temporary file, `finish` moves it into the store. Use as a context manager."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        check_name(name)
        self._store = store
        self._name = name
        self._file = tempfile.NamedTemporaryFile(prefix="semievol-upload-")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, piece: bytes) -> None:
        """Raises StorageError."""
        try:
            self._file.write(piece)
        except OSError as error:
            raise errors.StorageError(f"Cannot keep the upload of {self._name}: {error.strerror}.") from error

    def finish(self) -> tuple[str, int]:
        """(URI, bytes). The same bytes under the same name give the same URI."""
        self._file.flush()
        path = Path(self._file.name)
        digest = sha256_file(path)
        self._store.put(blob_path(digest), path)
        return f"data:{digest}/{self._name}", path.stat().st_size


def fetch(store: ObjectStore, uri: str, directory: Path, *, field: str) -> Path:
    """Writes an upload to `directory` under its name, verified. Raises InvalidInput(field=), NotFound, Corrupt."""
    match = _URI.match(uri)
    if not match:
        raise errors.InvalidInput(
            f"{uri!r} is not the URI of an upload; upload the file first (data:<sha256>/<name>).", field=field
        )
    digest, name = match[1], match[2]
    check_name(name)
    target = directory / name
    try:
        with store.open(blob_path(digest)) as stream, target.open("wb") as file:
            while chunk := stream.read(CHUNK_BYTES):
                file.write(chunk)
    except errors.NotFound as error:
        raise errors.NotFound(f"The upload {uri} is not in the artifact store; upload the file again.", field=field) from error
    if sha256_file(target) != digest:
        raise errors.Corrupt(f"The upload {uri} is damaged in the artifact store; upload the file again.", field=field)
    return target
