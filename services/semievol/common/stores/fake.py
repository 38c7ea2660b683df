"""An object store in memory, for tests: with writes and reads that fail when told to, and bytes that can be damaged afterwards."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path
from typing import BinaryIO

from semievol.common import errors
from semievol.common.stores import check_path
from semievol.ports import ObjectInfo


class FakeStore:
    """`fail_write`: which write fails, counted from 1 (0: none), with `code` (errno); `fail_reads`: every stream breaks while it is read."""

    def __init__(self, *, fail_write: int = 0, code: int = errno.EIO) -> None:
        self.objects: dict[str, bytes] = {}
        self.writes = 0
        self.fail_write = fail_write
        self.fail_reads = False
        self._code = code
        self._lock = threading.Lock()

    def put(self, path: str, source: bytes | Path) -> None:
        check_path(path)
        data = source if isinstance(source, bytes) else source.read_bytes()
        with self._lock:
            self._count(path)
            self.objects[path] = data

    def create(self, path: str, data: bytes) -> bool:
        check_path(path)
        with self._lock:
            self._count(path)
            if path in self.objects:
                return False
            self.objects[path] = data
            return True

    def open(self, path: str) -> BinaryIO:
        check_path(path)
        if path not in self.objects:
            raise errors.NotFound(f"No object {path}.")
        return _BrokenStream() if self.fail_reads else io.BytesIO(self.objects[path])

    def size(self, path: str) -> int | None:
        check_path(path)
        data = self.objects.get(path)
        return None if data is None else len(data)

    def list(self, prefix: str) -> list[ObjectInfo]:
        return [ObjectInfo(path, len(data)) for path, data in sorted(self.objects.items()) if path.startswith(prefix)]

    def delete(self, path: str) -> None:
        check_path(path)
        self.objects.pop(path, None)

    def truncate(self, path: str, size: int) -> None:
        self.objects[path] = self.objects[path][:size]

    def flip_bit(self, path: str, bit: int) -> None:
        """`bit` counts from the first byte's lowest one."""
        data = bytearray(self.objects[path])
        data[bit // 8] ^= 1 << bit % 8
        self.objects[path] = bytes(data)

    def _count(self, path: str) -> None:
        self.writes += 1
        if self.writes == self.fail_write:
            raise errors.StorageError(f"Cannot write {path}: {os.strerror(self._code)}.")


class _BrokenStream(io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
