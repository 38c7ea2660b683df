"""Large objects, sent in parts.

An upload that was cut short, by whatever, stays unfinished on the server, and the next upload of the same object goes on with it: a part
that is there with the same size and MD5 is not sent again. Blobs are named by their content, so that is the common case. Two writers that
go on with the same upload do not disturb each other: the one that finishes names its parts by their ETags. What nobody ever finishes costs
space until the server drops it: MinIO does so after a day, AWS where the bucket's life-cycle rules say so (AbortIncompleteMultipartUpload).
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from minio.datatypes import Part
from minio.error import S3Error

from semievol.common import errors
from semievol.common.stores.s3_bucket import Bucket

PART_BYTES = 8 << 20  # four under way, and malloc keeps them: 16 MiB each left a process 64 MiB larger
_MOST_PARTS = 10_000  # S3
_AT_ONCE = 4  # parts under way, each in memory
_ROUNDS = 3  # uploads that another writer finished or ended under our hands


class _UploadGone(Exception):
    """Somebody else finished the upload or gave it up."""


class Upload:
    """One large object on its way to the store."""

    def __init__(self, bucket: Bucket, name: str, path: str, source: bytes | Path, size: int) -> None:
        self._bucket, self._name, self._path, self._source, self._size = bucket, name, path, source, size
        mebibytes = -(-size // (_MOST_PARTS << 20))
        self._part_bytes = max(PART_BYTES, mebibytes << 20)  # a function of the size alone, so that the next upload cuts alike

    def run(self) -> None:
        """Raises StorageError, Unavailable, NotAllowed; what has been sent by then is there for the next upload."""
        for _ in range(_ROUNDS):
            upload, there = self._begin()
            try:
                if self._finish(upload, self._send(upload, there)):
                    return
            except _UploadGone:
                continue
        raise errors.StorageError(f"Cannot write {self._path}: other writers keep ending its upload.")

    def _begin(self) -> tuple[str, dict[int, Part]]:
        """An upload that was left unfinished and the parts that it has, or a new one."""
        try:
            pending = self._bucket.call(f"look for uploads of {self._path}", lambda: self._bucket.pending_uploads(self._name))
            for upload in pending:
                parts = self._bucket.call(f"look at an upload of {self._path}", lambda: self._bucket.parts(self._name, upload))  # noqa: B023
                return upload, {part.part_number: part for part in parts}
        except (errors.NotAllowed, errors.StorageError, errors.NotSupported):
            pass  # it is not there any more, or this server or these credentials cannot look: nothing is lost but time
        return self._bucket.call(f"write {self._path}", lambda: self._bucket.begin_upload(self._name)), {}

    def _send(self, upload: str, there: dict[int, Part]) -> list[Part]:
        numbers = range(1, -(-self._size // self._part_bytes) + 1)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="s3-upload") as pool:
            sent = [pool.submit(self._send_part, upload, number, there.get(number)) for number in numbers]
            try:
                return [one.result() for one in sent]
            finally:
                pool.shutdown(cancel_futures=True)

    def _send_part(self, upload: str, number: int, there: Part | None) -> Part:
        data = self._read(number)
        if there is not None and there.size == len(data) and there.etag == hashlib.md5(data, usedforsecurity=False).hexdigest():
            return there

        def request() -> str:
            try:
                return self._bucket.put_part(self._name, upload, number, data)
            except S3Error as error:
                if error.code == "NoSuchUpload":
                    raise _UploadGone from error
                raise

        return Part(number, self._bucket.call(f"write part {number} of {self._path}", request))

    def _read(self, number: int) -> bytes:
        start, end = (number - 1) * self._part_bytes, min(number * self._part_bytes, self._size)
        if isinstance(self._source, bytes):
            return self._source[start:end]
        try:
            with self._source.open("rb") as file:
                file.seek(start)
                data = file.read(end - start)
        except OSError as error:
            raise errors.StorageError(f"Cannot read {self._source}: {error.strerror}.") from error
        if len(data) != end - start:
            raise errors.StorageError(f"{self._source} became shorter while it was sent.")
        return data

    def _finish(self, upload: str, parts: list[Part]) -> bool:
        """False where it has to be done anew. A finish whose answer was lost is recognised by the ETag of what is there."""

        def request() -> bool:
            try:
                return bool(self._bucket.finish_upload(self._name, upload, parts))
            except S3Error as error:
                if error.code in ("NoSuchUpload", "InvalidPart", "InvalidPartOrder"):
                    return False
                raise

        if self._bucket.call(f"finish {self._path}", request):
            return True
        found = self._bucket.call(f"look at {self._path}", lambda: self._bucket.stat(self._name))
        return found is not None and found.size == self._size and found.etag == _etag_of(parts)


def _etag_of(parts: list[Part]) -> str:
    """What S3 calls an object of these parts: the MD5 of their MD5s, and their number. Empty where they have no MD5s (encryption)."""
    try:
        digests = b"".join(bytes.fromhex(part.etag) for part in parts)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
