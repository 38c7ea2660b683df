"""What only a directory can get wrong (R4): leftovers, a full disk, failing system calls, races between processes."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.common.stores import open_store
from semievol.common.stores.local import LocalStore

SYSTEM_CALLS = ("fsync", "link", "replace", "open", "mkdir")


@contextmanager
def nth_call_fails(monkeypatch: pytest.MonkeyPatch, nth: int, code: int) -> Iterator[list[str]]:
    """The nth of the system calls that make a write durable fails; yields the names of those made."""
    made: list[str] = []

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append(name)
            if len(made) == nth:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in SYSTEM_CALLS:
            patch.setattr(os, name, failing(name, getattr(os, name)))
        yield made


@contextmanager
def files_can_grow_to(size: int) -> Iterator[None]:
    """A disk that is full after `size` bytes of a file (the limit gives EFBIG where a disk gives ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def temporaries(root: Path) -> list[Path]:
    return list((root / ".tmp").iterdir())


@pytest.mark.parametrize("action", ["put", "create"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_whichever_system_call_fails_the_object_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, code: int
) -> None:
    swept = 0
    for nth in range(1, 50):
        root = tmp_path / f"{action}-{nth}"
        store = LocalStore(root)
        failure = ""
        with nth_call_fails(monkeypatch, nth, code) as made:
            try:
                getattr(store, action)("a/b", b"bytes")
            except errors.StorageError as error:
                failure = error.message
        assert temporaries(root) == []
        found = {info.path: (root / info.path).read_bytes() for info in store.list("")}
        assert found == {"a/b": b"bytes"} if not failure else found in ({}, {"a/b": b"bytes"})
        if nth > len(made):
            assert not failure
            break
        assert os.strerror(code) in failure
        swept += 1
    assert swept >= 4
    print(f"{action} {errno.errorcode[code]}: {swept} system calls swept, silent corruptions = 0")


@pytest.mark.parametrize("size", [0, 1, 4096, 69_999])
def test_a_disk_that_fills_up_within_a_write_leaves_the_old_object(tmp_path: Path, size: int) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("a", b"old")
    source = tmp_path / "source"
    source.write_bytes(b"x" * 70_000)
    for data in (b"x" * 70_000, source):
        with files_can_grow_to(size), pytest.raises(errors.StorageError):
            store.put("a", data)
    with store.open("a") as stream:
        assert stream.read() == b"old"
    assert temporaries(tmp_path / "store") == []


def test_of_8_processes_that_create_one_object_exactly_one_wins(tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from semievol.common.stores.local import LocalStore
store = LocalStore(Path({str(tmp_path / "store")!r}))
print("ready", flush=True)
sys.stdin.readline()
print([store.create(f"race/{{n}}", sys.argv[1].encode()) for n in range(50)])
"""
    command = [sys.executable, "-c", program]
    racers = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [eval(racer.communicate(timeout=60)[0]) for racer in racers]
    for n, column in enumerate(zip(*results, strict=True)):
        assert sum(column) == 1
        assert (tmp_path / "store" / "race" / str(n)).read_text() == str(column.index(True))


def test_leftovers_of_dead_processes_are_collected_at_start_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    directory = tmp_path / ".tmp"
    directory.mkdir()
    old, living, other = (directory / f"{dead.pid}-{'0' * 32}", directory / f"{os.getpid()}-{'1' * 32}", directory / "README")
    for file in (old, living, other):
        file.write_text("half")
    store = LocalStore(tmp_path)
    assert sorted(directory.iterdir()) == sorted([living, other])
    assert store.list("") == []


def test_the_directory_of_unfinished_objects_is_no_place_for_objects(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for path in (".tmp", ".tmp/a"):
        with pytest.raises(errors.InvalidInput):
            store.put(path, b"")


def test_a_source_that_cannot_be_read_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError):
        LocalStore(tmp_path).put("a", tmp_path / "nowhere")


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError, match="artifact directory"):
        LocalStore(tmp_path / "file" / "store")


def test_stores_are_opened_by_uri_or_path(tmp_path: Path) -> None:
    open_store(str(tmp_path / "a b")).put("x", b"1")
    with open_store((tmp_path / "a b").as_uri()).open("x") as stream:
        assert stream.read() == b"1"
    with pytest.raises(errors.InvalidInput) as caught:
        open_store("ftp://host/dir")
    assert caught.value.field == "store"
