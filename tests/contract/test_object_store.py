"""What every object store promises (`ports.ObjectStore`)."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.common.stores import open_store
from semievol.common.stores.fake import FakeStore
from semievol.common.stores.local import LocalStore
from semievol.ports import ObjectInfo, ObjectStore


def in_bucket(server: Any) -> ObjectStore:
    """A store below a prefix of its own, with neighbours that it must not see."""
    place = uuid.uuid4().hex
    open_store(server.uri(server.bucket)).put(f"{place}/neighbour", b"1")
    open_store(server.uri(server.bucket)).put(f"{place}/evolution-2/neighbour", b"1")
    return open_store(server.uri(server.bucket, f"{place}/evolution"))


@pytest.fixture(params=["fake", "local", "minio", "seaweedfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    makers: dict[str, Callable[[], ObjectStore]] = {
        "fake": FakeStore,
        "local": lambda: LocalStore(tmp_path / "store"),
        "minio": lambda: in_bucket(request.getfixturevalue("minio_server")),
        "seaweedfs": lambda: in_bucket(request.getfixturevalue("seaweedfs_server")),
    }
    return makers[request.param]()


def read(store: ObjectStore, path: str) -> bytes:
    with store.open(path) as stream:
        return stream.read()


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 9000], ids=["empty", "one byte", "2 MB"])
def test_what_is_put_is_read_back(store: ObjectStore, data: bytes, tmp_path: Path) -> None:
    store.put("a/b", data)
    file = tmp_path / "source"
    file.write_bytes(data)
    store.put("a/from-file", file)
    assert read(store, "a/b") == read(store, "a/from-file") == data


def test_a_put_replaces_and_an_open_stream_keeps_reading_the_old_bytes(store: ObjectStore) -> None:
    store.put("a", b"old")
    with store.open("a") as stream:
        store.put("a", b"new")
        assert stream.read() == b"old"
    assert read(store, "a") == b"new"


def test_create_writes_once_and_changes_nothing_after_that(store: ObjectStore) -> None:
    assert store.create("a/b", b"first") is True
    assert store.create("a/b", b"second") is False
    assert read(store, "a/b") == b"first"


def test_create_of_equal_bytes_has_one_winner_too(store: ObjectStore) -> None:
    assert [store.create("a", b"same"), store.create("a", b"same"), store.create("a", b"same")] == [True, False, False]


def test_create_succeeds_again_after_a_delete(store: ObjectStore) -> None:
    store.create("a", b"1")
    store.delete("a")
    assert store.create("a", b"2")


def test_of_32_threads_that_create_one_object_exactly_one_wins(store: ObjectStore) -> None:
    for round_number in range(5):
        start = threading.Barrier(32)
        won: list[int] = []

        def race(number: int, path: str = f"race/{round_number}", start: threading.Barrier = start, won: list[int] = won) -> None:
            start.wait()
            if store.create(path, str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert read(store, f"race/{round_number}") == str(won[0]).encode()


def test_opening_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    store.put("a/b", b"x")
    for path in ("b", "a", "a/b/c", "a/c"):
        with pytest.raises(errors.NotFound):
            store.open(path)


def test_list_goes_by_prefix_not_by_directory_and_in_path_order(store: ObjectStore) -> None:
    for path in ("b/1", "a/2", "a/10", "ab", "a/x/1"):
        store.put(path, path.encode())
    assert [info.path for info in store.list("a/")] == ["a/10", "a/2", "a/x/1"]
    assert [info.path for info in store.list("a")] == ["a/10", "a/2", "a/x/1", "ab"]
    assert [info.path for info in store.list("a/1")] == ["a/10"]
    assert [info.path for info in store.list("")] == ["a/10", "a/2", "a/x/1", "ab", "b/1"]
    assert store.list("c") == store.list("c/d") == []
    assert store.list("a/10") == [ObjectInfo("a/10", 4)]


def test_size_is_known_without_reading_and_none_where_nothing_is(store: ObjectStore) -> None:
    store.put("a/b", b"12345")
    store.put("a/empty", b"")
    assert [store.size(path) for path in ("a/b", "a/empty", "a", "a/b/c", "b")] == [5, 0, None, None, None]


def test_names_may_hold_spaces_and_letters_of_all_scripts(store: ObjectStore) -> None:
    paths = ["a b/c+d", "a%20b", "h\u00e9/\u5b57", "q?&=#", "~'\"(){}"]
    for path in paths:
        store.put(path, path.encode())
    assert [info.path for info in store.list("")] == sorted(paths)
    assert [read(store, path) for path in paths] == [path.encode() for path in paths]


def test_a_stream_is_read_in_pieces_of_any_size_and_may_be_left_early(store: ObjectStore) -> None:
    data = bytes(range(256)) * 5000
    store.put("a", data)
    with store.open("a") as stream:
        pieces = [stream.read(size) for size in (1, 0, 100_000, 300_000)]
        assert [len(piece) for piece in pieces] == [1, 0, 100_000, 300_000]
        assert b"".join(pieces) == data[:400_001]
    with store.open("a") as stream:
        assert b"".join(iter(lambda: stream.read(70_000), b"")) == data


def test_delete_removes_and_what_is_not_there_is_no_error(store: ObjectStore) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert store.list("") == []


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/..", ".", "./a", "a\0b"])
def test_what_is_no_object_path_is_refused(store: ObjectStore, path: str) -> None:
    for action in (
        lambda: store.put(path, b""),
        lambda: store.create(path, b""),
        lambda: store.open(path),
        lambda: store.size(path),
        lambda: store.delete(path),
    ):
        with pytest.raises(errors.InvalidInput):
            action()
