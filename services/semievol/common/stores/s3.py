"""An S3 bucket as an object store, through the `minio` client: AWS, MinIO and whatever else keeps the promises of `ports.ObjectStore`."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import BinaryIO

from minio.error import S3Error

from semievol.common import errors
from semievol.common.stores import check_path
from semievol.common.stores.s3_bucket import ATTEMPTS, LIST_PAGE, Bucket, Location, status_of
from semievol.common.stores.s3_reading import open_object
from semievol.common.stores.s3_upload import PART_BYTES, Upload
from semievol.ports import ObjectInfo

_WRITER = "x-amz-meta-semievol-writer"


class S3Store:
    """`uri`: see `Location`. Nothing is asked of the server before the first call.

    Every call has timeouts, and is tried again `attempts` times, with growing pauses, while the server cannot be reached, answers 5xx or
    is cut off: each may be sent twice without harm. Besides StorageError all raise Unavailable (not reachable, or it hangs) and NotAllowed.
    """

    def __init__(self, uri: str, *, attempts: int = ATTEMPTS) -> None:
        self._bucket = Bucket(Location.parse(uri), attempts=attempts)

    def put(self, path: str, source: bytes | Path) -> None:
        name = self._name(path)
        try:
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            if size > PART_BYTES:
                Upload(self._bucket, name, path, source, size).run()
                return
            data = source if isinstance(source, bytes) else source.read_bytes()
        except OSError as error:
            raise errors.StorageError(f"Cannot read {source!s}: {error.strerror}.") from error
        self._bucket.call(f"write {path}", lambda: self._bucket.put(name, data))

    def create(self, path: str, data: bytes) -> bool:
        """The object carries its writer's name: where an answer was lost, that says whether the first try had won already."""
        name, writer, tries = self._name(path), uuid.uuid4().hex, 0

        def request() -> bool:
            nonlocal tries
            tries += 1
            try:
                self._bucket.put(name, data, {"If-None-Match": "*", _WRITER: writer})
                return True
            except S3Error as error:
                if status_of(error) != 412:
                    raise
            return tries > 1 and self._writer(name) == writer

        return self._bucket.call(f"create {path}", request)

    def open(self, path: str) -> BinaryIO:
        return open_object(self._bucket, self._name(path), path)

    def size(self, path: str) -> int | None:
        name = self._name(path)
        found = self._bucket.call(f"look at {path}", lambda: self._bucket.stat(name))
        return found.size if found else None

    def list(self, prefix: str) -> list[ObjectInfo]:
        root = self._root
        found: list[ObjectInfo] = []
        after, full = "", True
        while full:
            page = self._bucket.call(f"list {prefix}", lambda: self._bucket.names(root + prefix, after))  # noqa: B023
            full = len(page) == LIST_PAGE
            after = (page[-1].object_name or "") if page else ""
            found += [
                ObjectInfo(one.object_name.removeprefix(root), one.size or 0)
                for one in page
                if one.object_name and not one.object_name.endswith("/")  # some servers list their directories, too
            ]
        return sorted(found, key=lambda info: info.path)

    def delete(self, path: str) -> None:
        name = self._name(path)
        self._bucket.call(f"delete {path}", lambda: self._bucket.delete(name))

    def server(self) -> str:
        """What its answers say of it, as `MinIO`, and where it is."""
        return self._bucket.call("ask the server's name", self._bucket.server)

    @property
    def _root(self) -> str:
        return f"{self._bucket.location.prefix}/" if self._bucket.location.prefix else ""

    def _name(self, path: str) -> str:
        check_path(path)
        return self._root + path

    def _writer(self, name: str) -> str:
        found = self._bucket.stat(name)
        return (found.metadata or {}).get(_WRITER, "") if found else ""
