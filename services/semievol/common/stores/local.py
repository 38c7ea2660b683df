"""A directory as an object store (R4): durable and atomic on one machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from semievol.common import errors
from semievol.common.stores import check_path
from semievol.ports import ObjectInfo

_TEMPORARY = re.compile(r"^(\d+)-[0-9a-f]{32}$")


class LocalStore:
    """Objects are files below `root`. Writers meet in `root/.tmp`, so that a half-written object never has a name."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._tmp = self._root / ".tmp"
        with _translated(f"open the artifact directory {self._root}"):
            self._tmp.mkdir(parents=True, exist_ok=True)
            self._collect_leftovers()

    def put(self, path: str, source: bytes | Path) -> None:
        target = self._target(path)
        with _translated(f"write {path}"), self._written(source) as temporary:
            self._make_directory(target.parent)
            os.replace(temporary, target)
            _sync_directory(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        target = self._target(path)
        with _translated(f"create {path}"), self._written(data) as temporary:
            self._make_directory(target.parent)
            try:
                os.link(temporary, target)  # not a rename, which would overwrite
            except FileExistsError:
                return False
            _sync_directory(target.parent)
            return True

    def open(self, path: str) -> BinaryIO:
        try:
            return self._target(path).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise errors.NotFound(f"No object {path} in {self._root}.") from error
        except OSError as error:
            raise errors.StorageError(f"Cannot read {path} in {self._root}: {error.strerror}.") from error

    def size(self, path: str) -> int | None:
        try:
            file = self._target(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise errors.StorageError(f"Cannot read {path} in {self._root}: {error.strerror}.") from error
        return file.st_size if stat.S_ISREG(file.st_mode) else None

    def list(self, prefix: str) -> list[ObjectInfo]:
        base = self._target(prefix.rpartition("/")[0]) if "/" in prefix else self._root
        found = []
        with _translated(f"list {prefix}"):
            for directory, names, files in os.walk(base):
                if Path(directory) == self._root:
                    names[:] = [name for name in names if name != self._tmp.name]
                for name in files:
                    file = Path(directory, name)
                    path = file.relative_to(self._root).as_posix()
                    if path.startswith(prefix):
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            found.append(ObjectInfo(path, file.stat().st_size))
        return sorted(found, key=lambda info: info.path)

    def delete(self, path: str) -> None:
        with _translated(f"delete {path}"):
            self._target(path).unlink(missing_ok=True)

    def _target(self, path: str) -> Path:
        check_path(path)
        if path.split("/", 1)[0] == self._tmp.name:
            raise errors.InvalidInput(f"{path!r} is not an object path: {self._tmp.name} holds unfinished objects.")
        return self._root / path

    @contextlib.contextmanager
    def _written(self, source: bytes | Path) -> Iterator[Path]:
        """A temporary file with the source's bytes, safely on disk; it is gone afterwards, whatever happens."""
        temporary = self._tmp / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    with source.open("rb") as original:
                        shutil.copyfileobj(original, file, 1 << 20)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _make_directory(self, directory: Path) -> None:
        """mkdir -p whose new names survive a power cut."""
        missing = []
        while not directory.exists():
            missing.append(directory)
            directory = directory.parent
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            _sync_directory(new.parent)

    def _collect_leftovers(self) -> None:
        """Removes temporary files whose process is gone."""
        for file in self._tmp.iterdir():
            match = _TEMPORARY.match(file.name)
            if match and not _alive(int(match[1])):
                file.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.StorageError(f"Cannot {action}: {error.strerror or error}.") from error
