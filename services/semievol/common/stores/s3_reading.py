"""Reading an object of a bucket: its length is checked, and a connection that breaks is made again where it broke."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import urllib3
from urllib3.exceptions import HTTPError

from semievol.common import errors
from semievol.common.stores.s3_bucket import Bucket, pause

_SMALL = 256 << 10  # bytes that are fetched at once: nothing to resume, and the connection is free again
_BUFFER = 1 << 20
_PROGRESS = 1 << 20  # bytes after which a connection's earlier failures are forgotten


def open_object(bucket: Bucket, name: str, path: str) -> BinaryIO:
    """Raises NotFound, StorageError, Unavailable, NotAllowed; so does reading."""

    def request() -> BinaryIO:
        response = bucket.get(name)
        size = _length(response, path)
        if size > _SMALL:
            return cast(BinaryIO, io.BufferedReader(_Object(bucket, name, path, response, size), _BUFFER))
        try:
            return io.BytesIO(response.read(decode_content=False))  # urllib3 checks the length
        finally:
            response.release_conn()

    return bucket.call(f"read {path}", request)


def _length(response: urllib3.BaseHTTPResponse, path: str) -> int:
    text = response.headers.get("content-length", "")
    if not text.isdecimal():
        raise errors.StorageError(f"Cannot read {path}: the S3 server does not say how long it is.")
    return int(text)


class _Object(io.RawIOBase):
    """The bytes of one version of one object, in order."""

    def __init__(self, bucket: Bucket, name: str, path: str, response: urllib3.BaseHTTPResponse, size: int) -> None:
        super().__init__()
        self._bucket, self._name, self._path, self._size = bucket, name, path, size
        self._response = response
        self._etag = response.headers.get("etag", "").strip('"')
        self._at = 0
        self._failures = 0
        self._failed_at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._at)
        while wanted:
            try:
                data = self._response.read(wanted, decode_content=False)
                if data:
                    buffer[: len(data)] = data
                    self._at += len(data)
                    return len(data)
                self._resume(urllib3.exceptions.ProtocolError("the answer ended early"))
            except (HTTPError, OSError) as error:
                self._resume(error)
        return 0

    def close(self) -> None:
        if not self.closed:
            self._drop()
        super().close()

    def _drop(self) -> None:
        if self._at < self._size:
            self._response.close()  # what is left would have to be read before the connection can serve again
        self._response.release_conn()

    def _resume(self, failure: Exception) -> None:
        """A new connection that goes on where the old one broke. Bounded: each needs to bring some bytes."""
        self._drop()
        self._failures = 1 if self._at - self._failed_at >= _PROGRESS else self._failures + 1
        self._failed_at = self._at
        if self._failures >= self._bucket.attempts:
            raise self._bucket.translated(f"read {self._path}", failure) from failure
        pause(self._failures)
        try:
            self._response = self._bucket.call(
                f"go on reading {self._path}", lambda: self._bucket.get(self._name, self._at, self._etag)
            )
        except errors.StorageError as error:
            raise errors.StorageError(f"{self._path} was replaced or lost while it was read ({error.message})") from error
        if _length(self._response, self._path) != self._size - self._at:
            raise errors.StorageError(f"Cannot read {self._path}: the S3 server answers with other bytes than those asked for.")
