"""Evolutions whose retrieval is a real Milvus server, and what is done to it meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.ports import CollectionInfo, CollectionSpec, Hit, VectorQuery, VectorRecord
from semievol.retrieval.backends.milvus import MilvusIndex
from semievol.retrieval.backends.milvus_connection import connect
from semievol.retrieval.server import service
from semievol.retrieval.settings import RetrievalSettings
from semievol.steps import collections

from tests.fake_suite import fake_suite
from tests.manifests import manifests as published
from tests.running import running
from tests.servers.milvus import MilvusServer

Event = Callable[["Disturbed", str], None]


class Disturbed:
    """A real index, and something that happens once: `in_upsert`, when half of the labeled rows are written, or `in_search`, before the
    first search for neighbours."""

    def __init__(self, index: MilvusIndex, in_upsert: Event | None = None, in_search: Event | None = None) -> None:
        self.index = index
        self._events = {"upsert": in_upsert, "search": in_search}
        self.happened: list[str] = []
        self.upserts = 0

    def _happen(self, when: str, name: str) -> None:
        event, self._events[when] = self._events[when], None
        if event:
            self.happened.append(when)
            event(self, name)

    def create(self, spec: CollectionSpec) -> None:
        self.index.create(spec)

    def upsert(self, name: str, records: Sequence[VectorRecord]) -> int:
        if name.startswith("labeled_"):
            self.upserts += 1
            if self._events["upsert"]:
                self.index.upsert(name, records[: len(records) // 2])
                self._happen("upsert", name)
        return self.index.upsert(name, records)

    def search(self, name: str, queries: Sequence[VectorQuery], limit: int) -> list[list[Hit]]:
        if name.startswith("labeled_") and queries and queries[0].exclude_id:
            self._happen("search", name)
        return self.index.search(name, queries, limit)

    def describe(self, name: str) -> CollectionInfo:
        return self.index.describe(name)

    def drop(self, name: str) -> None:
        assert not name.startswith("labeled_"), "another run may be reading it"
        self.index.drop(name)


@pytest.fixture
def index(milvus_server: MilvusServer) -> Iterator[MilvusIndex]:
    """Of the real server, without collections of labeled rows."""
    index = MilvusIndex(connect(milvus_server.uri))
    forget(index)
    yield index
    index.close()


def forget(index: MilvusIndex) -> None:
    for name in index._connection.call("list_collections"):
        if name.startswith("labeled_"):
            index.drop(name)


def manifests(home: Path, index: MilvusIndex | Disturbed | None, **options: Any) -> dict[str, bytes]:
    """Path -> bytes of every manifest of one evolution whose steps retrieve."""
    with fake_suite(home, index=index, max_attempts=10, **options) as suite:
        result = suite.run(suite.spec(references=2, train={"references": 1}, shard_rows=6))
        assert result["error"] == ""
    return published(home)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """With Milvus Lite."""
    home = tmp_path_factory.mktemp("lite")
    index = MilvusIndex(connect(str(home / "milvus.db")))
    found = manifests(home, index)
    index.close()
    return found


def test_a_server_gives_the_same_artifacts_as_milvus_lite(
    tmp_path: Path, index: MilvusIndex, undisturbed: dict[str, bytes]
) -> None:
    assert manifests(tmp_path, index) == undisturbed


def delete_rows(disturbed: Disturbed, name: str) -> None:
    client = disturbed.index._connection.client
    client.delete(name, ids=["labeled-000", "labeled-007", "labeled-013"])


def drop_collection(disturbed: Disturbed, name: str) -> None:
    disturbed.index._connection.client.drop_collection(name)


def release_collection(disturbed: Disturbed, name: str) -> None:
    disturbed.index._connection.client.release_collection(name)


def make_it_anew_with_other_rows(disturbed: Disturbed, name: str) -> None:
    disturbed.index._connection.client.drop_collection(name)
    disturbed.index.create(CollectionSpec(name, 3))
    disturbed.index.upsert(name, [VectorRecord(f"labeled-{i:03d}", [1.0, 0.0, 0.0]) for i in range(20)])


@pytest.mark.parametrize("event", [delete_rows, drop_collection, release_collection, make_it_anew_with_other_rows])
@pytest.mark.parametrize("when", ["in_upsert", "in_search"])
def test_what_somebody_else_does_to_the_collection_changes_no_artifact(
    tmp_path: Path, index: MilvusIndex, undisturbed: dict[str, bytes], event: Event, when: str
) -> None:
    disturbed = Disturbed(index, **{when: event})
    assert manifests(tmp_path, disturbed) == undisturbed
    assert disturbed.happened == [when.removeprefix("in_")]


@pytest.mark.parametrize("when", ["in_upsert", "in_search"])
def test_a_server_that_is_killed_and_comes_back_changes_no_artifact(
    tmp_path: Path, milvus_server: MilvusServer, index: MilvusIndex, undisturbed: dict[str, bytes], when: str
) -> None:
    back = threading.Thread(target=milvus_server.start)

    def kill(disturbed: Disturbed, name: str) -> None:
        milvus_server.kill()
        back.start()

    disturbed = Disturbed(index, **{when: kill})
    try:
        assert manifests(tmp_path, disturbed) == undisturbed
    finally:
        back.join()
    assert disturbed.happened == [when.removeprefix("in_")]


def test_a_server_that_stays_away_fails_the_run_with_its_address_and_the_run_goes_on_when_it_is_back(
    tmp_path: Path, milvus_server: MilvusServer, index: MilvusIndex, undisturbed: dict[str, bytes]
) -> None:
    disturbed = Disturbed(index, in_search=lambda _, name: milvus_server.kill())
    with fake_suite(tmp_path, index=disturbed, max_attempts=1) as suite:  # each takes 40 seconds
        spec = suite.spec(references=2, train={"references": 1}, shard_rows=6)
        failed = suite.run(spec)
        assert failed["error_class"] == "Unavailable"
        assert milvus_server.uri in failed["error"]
    milvus_server.start()
    assert manifests(tmp_path, disturbed) == undisturbed


def test_runs_that_share_a_server_and_a_collection_do_not_hurt_each_other(
    index: MilvusIndex, milvus_server: MilvusServer
) -> None:
    """Four at once, two of them over a connection of their own: each fills, checks and searches the same new collection."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3000, 64)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    vectors, queries = matrix[:2800], matrix[2800:]
    rows = [Row(f"r{i:04d}", "?") for i in range(2800)]
    asked = [Row(f"q{i:03d}", "?") for i in range(200)]
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :3]
    exact = {row.id: [rows[i].id for i in ids] for row, ids in zip(asked, best, strict=True)}
    other = MilvusIndex(connect(milvus_server.uri))

    def run(one: MilvusIndex) -> dict[str, list[str]]:
        library = collections.Library(one, rows, vectors)
        return library.searched(lambda: library.nearest(asked, queries, 3))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, [index, other, index, other]))
    other.close()
    assert found == [exact] * 4


def test_a_diagnosis_names_the_servers_version_or_that_of_milvus_lite(
    tmp_path: Path, index: MilvusIndex, milvus_server: MilvusServer
) -> None:
    """The server of the package milvus calls itself 2.3.5-lite."""
    lite = MilvusIndex(connect(str(tmp_path / "milvus.db")))
    for one, named in ((index, f"Milvus 2.3.5-lite at {milvus_server.uri}: "), (lite, f"Milvus Lite {version('milvus-lite')}: ")):
        with fake_suite(tmp_path / named[:8], index=one) as suite:
            found = {finding.name: finding.message for finding in suite.client.diagnose().findings}
        assert found["retrieval"].startswith(named)
    lite.close()


def test_the_room_says_within_seconds_that_its_server_died_and_that_it_is_back(milvus_server: MilvusServer) -> None:
    """A look every 2 seconds that may take 5: dead for at most 7 seconds before it is said, and some more to be noticed in here."""
    with running(service(RetrievalSettings(uri=milvus_server.uri))) as address, grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def until(status: int, timeout_s: float) -> float:
            started = time.monotonic()
            request = health_pb2.HealthCheckRequest(service="semievol.retrieval.v1.RetrievalService")
            while stub.Check(request, timeout=5).status != status:
                assert time.monotonic() - started < timeout_s, "waited in vain"
                time.sleep(0.1)
            return time.monotonic() - started

        until(health_pb2.HealthCheckResponse.SERVING, 1)
        milvus_server.kill()
        died = until(health_pb2.HealthCheckResponse.NOT_SERVING, 15)
        milvus_server.start()
        back = until(health_pb2.HealthCheckResponse.SERVING, 30)
        print(f"not serving {died:.1f} s after the server's death, serving {back:.1f} s after its start")


@pytest.fixture
def guarded(milvus_of_session: MilvusServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A server that asks who calls; its first user is root, with the password Milvus. A machine runs one server at a time."""
    milvus_of_session.kill()
    server = MilvusServer(tmp_path_factory.mktemp("milvus-guarded"), "--authorization-enabled", "true")
    try:
        server.start("root:Milvus")
        yield server
    finally:
        server.kill()


def test_credentials_and_database_are_checked_when_connecting(guarded: MilvusServer) -> None:
    for token in ("", "root:wrong", "nobody:Milvus"):
        with pytest.raises(errors.NotAllowed, match="SEMIEVOL_MILVUS_TOKEN") as caught:
            connect(guarded.uri, token, call_timeout_s=5)
        assert "wrong" not in caught.value.message
    connection = connect(guarded.uri, "root:Milvus")
    connection.call("create_database", "evolutions")
    connection.close()
    index = MilvusIndex(connect(guarded.uri, "root:Milvus", database="evolutions"))
    index.create(CollectionSpec("there", 2))
    index.close()
    default = MilvusIndex(connect(guarded.uri, "root:Milvus"))
    with pytest.raises(errors.NotFound):
        default.describe("there")
    default.close()
    with pytest.raises(errors.NotFound, match="database") as missing:
        connect(guarded.uri, "root:Milvus", database="nowhere")
    assert missing.value.field == "database"
