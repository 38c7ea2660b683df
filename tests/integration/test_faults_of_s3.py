"""The S3 store against a real MinIO that misbehaves, or that is not what the user thought."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.stores import open_store, s3_upload
from semievol.common.stores.fake import FakeStore
from semievol.common.stores.local import LocalStore
from semievol.common.stores.probe import WRITERS, probe
from semievol.common.stores.s3 import S3Store

from tests.servers import free_port
from tests.servers.proxy import Proxy, proxied
from tests.servers.s3 import OWNER, READER, S3Server

PART = s3_upload.PART_BYTES
LARGE = hashlib.sha256(b"large").digest() * (3 * PART // 32) + b"end"  # four parts, the last one of three bytes


@dataclass(frozen=True)
class Faulty:
    """A store behind a proxy, its bucket empty but for what the test writes."""

    store: S3Store
    proxy: Proxy
    uri: str


@pytest.fixture
def faulty(minio_server: S3Server) -> Iterator[Faulty]:
    with proxied(minio_server.endpoint) as (endpoint, proxy):
        uri = f"s3://{minio_server.bucket}/{uuid.uuid4().hex}?endpoint={endpoint}"
        yield Faulty(S3Store(uri, attempts=3), proxy, uri)


def read(store: S3Store, path: str) -> bytes:
    with store.open(path) as stream:
        return stream.read()


# ---------------------------------------------------------------- what passes by itself


@pytest.mark.parametrize("fault", ["busy", "reset", "lost", "cut"])
def test_what_goes_wrong_twice_is_done_all_the_same(faulty: Faulty, fault: str) -> None:
    store = S3Store(faulty.uri, attempts=5)  # a broken connection may fail the next request, too
    for action in (
        lambda: store.put("a", b"1"),
        lambda: read(store, "a"),
        lambda: store.size("a"),
        lambda: store.list(""),
        lambda: store.create("b", b"2"),
        lambda: store.delete("a"),
    ):
        faulty.proxy.fail(fault, times=2)  # type: ignore[arg-type]
        action()
        faulty.proxy.calm()
    assert store.list("") == [store.list("b")[0]]
    assert read(store, "b") == b"2"


def test_a_create_whose_answer_was_lost_knows_that_it_won_and_another_that_it_did_not(faulty: Faulty) -> None:
    """Equal bytes would not tell them apart: the object says who wrote it."""
    faulty.proxy.fail("lost", "PUT")
    assert faulty.store.create("a", b"same") is True
    faulty.proxy.fail("lost", "PUT")
    assert faulty.store.create("a", b"same") is False
    assert faulty.proxy.faults == 2


def test_of_writers_whose_answers_are_lost_exactly_one_wins(faulty: Faulty) -> None:
    for race in range(5):
        faulty.proxy.fail("lost", "PUT", times=4)
        start, won = threading.Barrier(8), []

        def write(number: int, race: int = race, start: threading.Barrier = start, won: list[int] = won) -> None:
            start.wait()
            if open_store(faulty.uri).create(f"race/{race}", b"same"):
                won.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        faulty.proxy.calm()
        assert len(won) == 1


def test_a_stream_that_breaks_goes_on_where_it_broke(faulty: Faulty) -> None:
    faulty.store.put("a", LARGE)
    faulty.proxy.requests.clear()
    faulty.proxy.fail("cut", "GET", times=2)
    assert hashlib.sha256(read(faulty.store, "a")).digest() == hashlib.sha256(LARGE).digest()
    assert len(faulty.proxy.requests) == 3


def test_a_stream_whose_object_is_replaced_meanwhile_does_not_mix_the_two(faulty: Faulty) -> None:
    faulty.store.put("a", LARGE)
    faulty.proxy.fail("cut", "GET")
    with faulty.store.open("a") as stream:
        faulty.store.put("a", LARGE[::-1])
        with pytest.raises(errors.StorageError, match="replaced or lost while it was read"):
            stream.read()


def test_a_large_object_goes_on_with_the_parts_that_are_there(faulty: Faulty, tmp_path: Path) -> None:
    """Part 3 fails for good; the second attempt, by another process, sends that one and what was cancelled after it, and no more."""
    file = tmp_path / "large"
    file.write_bytes(LARGE)
    faulty.proxy.fail("busy", "PUT", "partNumber=3", times=3)
    with pytest.raises(errors.StorageError, match=r"part 3 of a.*503.*3 attempts"):
        faulty.store.put("a", file)
    assert faulty.store.size("a") is None
    sent = {part for part in (1, 2, 4) if any(f"partNumber={part}" in one for one in faulty.proxy.requests)}
    faulty.proxy.calm()
    faulty.proxy.requests.clear()
    open_store(faulty.uri).put("a", file)
    again = [one for one in faulty.proxy.requests if one.startswith("PUT")]
    assert len(again) == 4 - len(sent)
    assert any("partNumber=3" in one for one in again)
    assert read(faulty.store, "a") == LARGE


def test_parts_of_other_bytes_are_not_taken_for_ours(faulty: Faulty) -> None:
    faulty.proxy.fail("busy", "PUT", "partNumber=4", times=3)
    with pytest.raises(errors.StorageError):
        faulty.store.put("a", LARGE[::-1])
    faulty.proxy.calm()
    faulty.store.put("a", LARGE)
    assert read(faulty.store, "a") == LARGE


@pytest.mark.parametrize("fault", ["busy", "reset", "lost", "cut"])
def test_a_large_object_whose_every_kind_of_request_goes_wrong_arrives_whole(faulty: Faulty, fault: str) -> None:
    for method, part in (("GET", "uploads="), ("POST", "uploads="), ("PUT", "partNumber=2"), ("POST", "uploadId=")):
        faulty.proxy.fail(fault, method, part)  # type: ignore[arg-type]
    faulty.store.put("a", LARGE)
    assert faulty.proxy.faults >= 3
    assert read(faulty.store, "a") == LARGE


def test_two_writers_of_one_large_object_do_not_disturb_each_other(faulty: Faulty) -> None:
    failures: list[BaseException] = []

    def write() -> None:
        try:
            open_store(faulty.uri).put("a", LARGE)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read(faulty.store, "a") == LARGE


# ---------------------------------------------------------------- what does not, and what it says


def test_a_server_that_stays_busy_is_given_up_on(faulty: Faulty) -> None:
    faulty.proxy.fail("busy", times=100)
    with pytest.raises(errors.StorageError, match=r"Cannot write a: .* answers 503 \(SlowDown: .*\) after 3 attempts"):
        faulty.store.put("a", b"1")
    assert len(faulty.proxy.requests) == 3


def test_a_full_store_says_so_at_once(faulty: Faulty) -> None:
    faulty.proxy.fail("full", "PUT")
    with pytest.raises(errors.StorageError, match=r"is full .*make room"):
        faulty.store.put("a", b"1")
    assert len(faulty.proxy.requests) == 1


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIEVOL_S3_TIMEOUT_S", "0.5")
    faulty.proxy.fail("hang", times=6)
    with pytest.raises(errors.Unavailable, match=r"did not answer within 0\.5 seconds.*SEMIEVOL_S3_TIMEOUT_S"):
        S3Store(faulty.uri).put("a", b"1")
    assert len(faulty.proxy.requests) < 4  # as many as answers that hang may take, and not every attempt


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(faulty: Faulty, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("SEMIEVOL_S3_TIMEOUT_S", seconds)
    with pytest.raises(errors.InvalidInput, match=f"SEMIEVOL_S3_TIMEOUT_S is '{seconds}'"):
        S3Store(faulty.uri)


def test_a_server_that_is_not_there_is_unavailable_and_says_where_it_was_looked_for() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(errors.Unavailable, match=rf"{endpoint} cannot be reached \(Connection refused\).*SEMIEVOL_S3_ENDPOINT"):
        S3Store(f"s3://bucket?endpoint={endpoint}", attempts=2).list("")


def test_a_bucket_that_is_not_there_is_named_and_is_no_missing_object(minio_server: S3Server) -> None:
    store = open_store(minio_server.uri("no-such-bucket"))
    for action in (lambda: store.open("a"), lambda: store.put("a", b""), lambda: store.list(""), lambda: probe(store)):
        with pytest.raises(errors.StorageError, match=r"no bucket no-such-bucket at http://127.*make it"):
            action()


@pytest.mark.parametrize("server", ["minio_server", "seaweedfs_server"])
def test_credentials_that_may_only_read_read_and_fail_the_probe(
    server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3: S3Server = request.getfixturevalue(server)
    uri = s3.uri(s3.bucket, uuid.uuid4().hex)
    open_store(uri).put("a", b"1")
    _use(monkeypatch, READER)
    store = open_store(uri)
    with store.open("a") as stream:
        assert stream.read() == b"1"
    with pytest.raises(errors.NotAllowed, match=r"does not allow it .*need to list, read, write and delete"):
        probe(store)


@pytest.mark.parametrize("credentials", [("nobody", OWNER[1]), (OWNER[0], "wrong")], ids=["key", "secret"])
def test_wrong_credentials_are_named_and_never_shown(
    minio_server: S3Server, monkeypatch: pytest.MonkeyPatch, credentials: tuple[str, str]
) -> None:
    _use(monkeypatch, credentials)
    with pytest.raises(errors.NotAllowed, match=r"does not accept the credentials.*AWS_ACCESS_KEY_ID") as caught:
        open_store(minio_server.uri(minio_server.bucket)).put("a", b"1")
    assert credentials[1] not in caught.value.message


def test_missing_credentials_say_where_they_are_looked_for(
    minio_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(errors.NotAllowed, match="no credentials for the S3 store: set AWS_ACCESS_KEY_ID"):
        open_store(minio_server.uri(minio_server.bucket)).list("")


def test_credentials_may_come_from_files_that_change_and_from_the_shared_credentials_file(
    minio_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    store = open_store(minio_server.uri(minio_server.bucket, uuid.uuid4().hex))
    for credentials, allowed in (((OWNER[0], "wrong"), False), (OWNER, True)):
        (tmp_path / "AWS_ACCESS_KEY_ID").write_text(credentials[0] + "\n")
        (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text(credentials[1] + "\n")
        if allowed:
            store.put("a", b"1")
        else:
            with pytest.raises(errors.NotAllowed):
                store.put("a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"{name}_FILE")
    shared = tmp_path / "credentials"
    shared.write_text(f"[default]\naws_access_key_id = {OWNER[0]}\naws_secret_access_key = {OWNER[1]}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    assert store.size("a") == 1


def _use(monkeypatch: pytest.MonkeyPatch, credentials: tuple[str, str]) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials[1])


# ---------------------------------------------------------------- the probe (R3)


@pytest.mark.parametrize("kind", ["fake", "local", "minio", "seaweedfs"])
def test_stores_with_a_safe_conditional_create_pass_the_probe_and_keep_nothing_of_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind in ("minio", "seaweedfs"):
        server: S3Server = request.getfixturevalue(f"{kind}_server")
        store = open_store(server.uri(server.bucket, uuid.uuid4().hex))
    else:
        store = FakeStore() if kind == "fake" else LocalStore(tmp_path)
    probe(store)
    assert store.list("") == []


class OverwritingStore(FakeStore):
    """A test double of a server that has never heard of If-None-Match."""

    def create(self, path: str, data: bytes) -> bool:
        self.put(path, data)
        return True


class RacyStore(FakeStore):
    """A test double of a server that looks first and writes then: right one by one, wrong when `WRITERS` come at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = threading.Barrier(WRITERS)

    def create(self, path: str, data: bytes) -> bool:
        there = path in self.objects
        if not path.endswith("/0"):  # the writers that come one by one
            self._looked.wait(10)
        if not there:
            self.put(path, data)
        return not there


@pytest.mark.parametrize(("store", "said"), [(OverwritingStore(), "a second writer replaces"), (RacyStore(), "16 of 16 writers")])
def test_a_store_that_lets_several_writers_win_is_refused(store: FakeStore, said: str) -> None:
    with pytest.raises(errors.NotSupported, match=rf"no safe conditional create.*{said}"):
        probe(store)
    assert store.objects == {}
