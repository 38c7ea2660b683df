"""Artifacts: what a step made, found again by what it was made from (R1, R2, R3).

    blobs/<2 hex>/<sha256>                               the bytes, by content: writers of equal bytes cannot disturb each other
    steps/<key>/[shard-<i>/]MANIFEST.json                written last, by conditional create: without it the step never happened
    steps/<key>/[shard-<i>/]attempts/<id>.json           who made it, when, in how many seconds: beside the manifest, never in it

A manifest carries the sha256 of its own content, so that a damaged one is a miss as well.
A URI `artifact:<key>` names a step's output, `artifact:<key>/<file>` one of its files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from semievol.common import errors
from semievol.common.keys import CHUNK_BYTES, canonical_json, sha256_file, sha256_hex
from semievol.common.stores import check_path
from semievol.ports import ObjectStore

_MANIFEST_PATH = re.compile(r"steps/([0-9a-f]{64})/(?:shard-(\d+)/)?MANIFEST\.json")
_URI = re.compile(r"artifact:([0-9a-f]{64})(?:/(.+))?")
_SHARD_MANIFEST = re.compile(r"steps/[0-9a-f]{64}/shard-(\d+)/MANIFEST\.json")


Shard = tuple[str, int | None]  # key of a step, and which shard of it


@dataclass(frozen=True, slots=True)
class File:
    """One file of an artifact: logical path, bytes, lower-case hex digest."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a step made from what. Equal work gives equal bytes: no times, hosts or attempts in here."""

    key: str
    contract: str  # step name and code contract version, `infer/1`
    inputs: Mapping[str, str]  # logical name -> sha256
    params: Mapping[str, Any]
    files: tuple[File, ...]
    shard: int | None = None

    def file(self, path: str) -> File:
        """Raises Corrupt if the step published no such file."""
        for file in self.files:
            if file.path == path:
                return file
        raise errors.Corrupt(f"Artifact {self.key[:12]} ({self.contract}) has no file {path}.")

    def to_json(self) -> bytes:
        files = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in self.files]
        body: dict[str, Any] = {
            "key": self.key,
            "contract": self.contract,
            "inputs": dict(self.inputs),
            "params": dict(self.params),
            "files": files,
        }
        if self.shard is not None:
            body["shard"] = self.shard
        body = json.loads(canonical_json(body))  # as it will be read, whatever the types of its parameters are
        return canonical_json(body | {"sha256": sha256_hex(canonical_json(body))})

    @staticmethod
    def from_json(data: bytes) -> Manifest:
        """Raises Corrupt."""
        try:
            body = json.loads(data)
            files = tuple(File(file["path"], file["size"], file["sha256"]) for file in body["files"])
            manifest = Manifest(body["key"], body["contract"], body["inputs"], body["params"], files, body.get("shard"))
            intact = manifest.to_json() == data
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.Corrupt(f"A manifest cannot be read: {error}.") from error
        if not intact:
            raise errors.Corrupt(f"The manifest of {manifest.contract} {str(manifest.key)[:12]} is damaged.")
        return manifest


def uri(key: str, file: str = "") -> str:
    return f"artifact:{key}/{file}" if file else f"artifact:{key}"


def parse_uri(text: str, *, field: str) -> tuple[str, str]:
    """(key, file or empty). Raises InvalidInput(field=)."""
    match = _URI.fullmatch(text)
    if not match:
        raise errors.InvalidInput(f"{text!r} is not an artifact URI; expected artifact:<64 hex digits>[/<file>].", field=field)
    return match[1], match[2] or ""


class Artifacts:
    """Publishes and finds artifacts in an object store."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self._verified: set[str] = set()  # digests that this process has checked

    def manifest(self, key: str, shard: int | None = None, *, verify: bool = True) -> Manifest | None:
        """The manifest under this key, or None: never made, or made but a blob is missing or damaged (a miss, R2).

        `verify=False` looks at the blobs' sizes only: enough to show what there is, and for those that read it, since reading verifies."""
        manifest = self._read_manifest(key, shard)
        if manifest is None or not all(self._intact(file, verify) for file in manifest.files):
            return None
        return manifest

    def manifest_at(self, path: str) -> Manifest | None:
        """The manifest in this object, whether or not its blobs are there; None for an object that is none."""
        match = _MANIFEST_PATH.fullmatch(path)
        return self._read_manifest(match[1], int(match[2]) if match[2] else None) if match else None

    def published(self, key: str) -> set[int]:
        """The shards of this step that have a manifest, whatever it is worth: one listing, however many there are."""
        found = (_SHARD_MANIFEST.fullmatch(info.path) for info in self.store.list(f"{_step_path(key, None)}/shard-"))
        return {int(match[1]) for match in found if match}

    def publish(self, manifest_without_files: Manifest, files: Mapping[str, bytes | Path]) -> tuple[Manifest, bool]:
        """Writes the blobs, then the manifest. Returns the manifest that counts and whether it is ours (False: superseded).

        Raises StorageError, InvalidInput (a file name that is no relative path)."""
        entries = []
        for path, source in sorted(files.items()):
            check_path(path)
            entry = describe(path, source)
            if not self._intact(entry, verify=True):
                self.store.put(blob_path(entry.sha256), source)
            entries.append(entry)
        base = manifest_without_files
        manifest = Manifest(base.key, base.contract, base.inputs, base.params, tuple(entries), base.shard)
        where = _manifest_path(base.key, base.shard)
        for _ in range(3):
            if self.store.create(where, manifest.to_json()):
                return manifest, True
            winner = self.manifest(base.key, base.shard)
            if winner is not None:
                return winner, False
            self.store.delete(where)  # it stands over damaged blobs: a miss (R2)
        raise errors.StorageError(f"Cannot publish {where}: it keeps being replaced by damaged artifacts.")

    def read(self, file: File) -> bytes:
        """The file's bytes, verified. Raises Corrupt."""
        try:
            with self.store.open(blob_path(file.sha256)) as stream, _reading(file.path):
                data = stream.read()
        except errors.NotFound as error:
            raise errors.Corrupt(
                f"The bytes of {file.path} (sha256 {file.sha256[:12]}) are gone from the artifact store."
            ) from error
        if len(data) != file.size or sha256_hex(data) != file.sha256:
            self._verified.discard(file.sha256)
            raise errors.Corrupt(f"The bytes of {file.path} (sha256 {file.sha256[:12]}) in the artifact store are damaged.")
        return data

    def read_json_lines(self, file: File) -> list[Any]:
        """The objects of a JSON-lines file, verified. Raises Corrupt."""
        return [json.loads(line) for line in self.read(file).splitlines()]

    def stream_json_lines(self, file: File) -> Iterator[Any]:
        """The objects of a JSON-lines file one by one, for files that are larger than memory. Verified as they are read: what is damaged
        raises Corrupt at the latest after the last one."""
        digest, size, rest = hashlib.sha256(), 0, b""
        try:
            with self.store.open(blob_path(file.sha256)) as stream, _reading(file.path):
                while chunk := stream.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
        except (errors.NotFound, ValueError) as error:
            raise errors.Corrupt(f"The bytes of {file.path} (sha256 {file.sha256[:12]}) are gone or damaged.") from error
        if rest or size != file.size or digest.hexdigest() != file.sha256:
            self._verified.discard(file.sha256)
            raise errors.Corrupt(f"The bytes of {file.path} (sha256 {file.sha256[:12]}) in the artifact store are damaged.")

    def resolve(self, text: str, *, field: str) -> tuple[Manifest, File | None]:
        """What an artifact URI names. Raises InvalidInput(field=), NotFound."""
        key, path = parse_uri(text, field=field)
        manifest = self.manifest(key, verify=False)
        if manifest is None:
            raise errors.NotFound(f"There is no artifact {text}: it was never published, or it is damaged.", field=field)
        return manifest, manifest.file(path) if path else None

    def fetch(self, manifest: Manifest, directory: Path) -> Path:
        """All files of an artifact as a plain directory, made at once or not at all; verified, whether made now or found there."""
        if directory.is_dir() and _holds(directory, manifest):
            return directory
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch:
                made = Path(scratch, "artifact")
                made.mkdir()
                for file in manifest.files:
                    target = made / file.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.read(file))
                if directory.exists() and not _holds(directory, manifest):
                    directory.rename(Path(scratch, "damaged"))
                try:
                    made.rename(directory)
                except OSError:
                    if not directory.is_dir():  # otherwise somebody else made it meanwhile
                        raise
        except OSError as error:
            raise errors.StorageError(f"Cannot write {directory}: {error.strerror}.") from error
        if not _holds(directory, manifest):
            raise errors.StorageError(f"Cannot write {directory}: what is there is something else.")
        return directory

    def forget(self, key: str, shard: int | None) -> None:
        """The step is as if never made. Its bytes stay, until nobody needs them (`semievol gc`)."""
        self.store.delete(_manifest_path(key, shard))

    def record_attempt(self, key: str, shard: int | None, attempt: str, record: Mapping[str, Any]) -> None:
        self.store.put(f"{_step_path(key, shard)}/attempts/{attempt}.json", canonical_json(dict(record)))

    def attempts(self, key: str) -> list[dict[str, Any]]:
        """All attempt records of a step, of every shard; damaged ones are left out, since nothing depends on them."""
        records = []
        for info in self.store.list(f"steps/{key}/"):
            if "/attempts/" in info.path:
                with (
                    contextlib.suppress(ValueError, errors.NotFound),
                    self.store.open(info.path) as stream,
                    _reading(info.path),
                ):
                    records.append(json.loads(stream.read()))
        return records

    def _read_manifest(self, key: str, shard: int | None) -> Manifest | None:
        try:
            with self.store.open(_manifest_path(key, shard)) as stream, _reading(_manifest_path(key, shard)):
                manifest = Manifest.from_json(stream.read())
        except (errors.NotFound, errors.Corrupt):
            return None
        return manifest if (manifest.key, manifest.shard) == (key, shard) else None

    def distrust(self) -> None:
        """Digests that were checked before are checked again: something was found damaged, or much time has passed."""
        self._verified.clear()

    def _intact(self, file: File, verify: bool) -> bool:
        """Whether the blob is there with its size and, if asked to verify, its digest. That is computed once until `distrust`."""
        if not verify or file.sha256 in self._verified:
            return self.store.size(blob_path(file.sha256)) == file.size
        try:
            with self.store.open(blob_path(file.sha256)) as stream, _reading(file.path):
                return self._matches(stream, file)
        except errors.NotFound:
            return False

    def _matches(self, stream: BinaryIO, file: File) -> bool:
        digest, size = hashlib.sha256(), 0
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
        if size != file.size or digest.hexdigest() != file.sha256:
            return False
        self._verified.add(file.sha256)
        return True


class Look:
    """The manifests at one moment, for a planner that asks for every shard of every step: what is missing costs one listing a step."""

    def __init__(self, artifacts: Artifacts, *, verify: bool, known: MutableMapping[Shard, Manifest] | None = None) -> None:
        self._artifacts, self._verify = artifacts, verify
        self._known: MutableMapping[Shard, Manifest] = {} if known is None else known
        self._published: dict[str, set[int]] = {}

    def __call__(self, key: str, shard: int | None) -> Manifest | None:
        """The manifest, or None (a miss). What was found once stays found: manifests are immutable, and readers verify what they read."""
        if (key, shard) not in self._known and self._is_published(key, shard):
            found = self._artifacts.manifest(key, shard, verify=self._verify)
            if found is not None:
                self._known[key, shard] = found
        return self._known.get((key, shard))

    def _is_published(self, key: str, shard: int | None) -> bool:
        if shard is None:
            return True  # asking for the manifest itself says as much
        if key not in self._published:
            self._published[key] = self._artifacts.published(key)
        return shard in self._published[key]


@contextlib.contextmanager
def _reading(what: str) -> Iterator[None]:
    """A stream that breaks while it is read is a StorageError like any other."""
    try:
        yield
    except OSError as error:
        raise errors.StorageError(f"Cannot read {what}: {error.strerror or error}.") from error


def describe(path: str, source: bytes | Path) -> File:
    """Raises StorageError."""
    if isinstance(source, bytes):
        return File(path, len(source), sha256_hex(source))
    with _reading(str(source)):
        return File(path, source.stat().st_size, sha256_file(source))


def _holds(directory: Path, manifest: Manifest) -> bool:
    """Whether every file of the artifact is in this directory, undamaged."""
    return all(
        (directory / file.path).is_file() and describe(file.path, directory / file.path) == file for file in manifest.files
    )


def blob_path(digest: str) -> str:
    return f"blobs/{digest[:2]}/{digest}"


def _step_path(key: str, shard: int | None) -> str:
    return f"steps/{key}" if shard is None else f"steps/{key}/shard-{shard:05d}"


def _manifest_path(key: str, shard: int | None) -> str:
    return f"{_step_path(key, shard)}/MANIFEST.json"
