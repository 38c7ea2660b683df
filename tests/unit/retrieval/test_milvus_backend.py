"""What Milvus' own failures become, and what a second process is told."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.ports import CollectionSpec, Hit, VectorQuery, VectorRecord
from semievol.retrieval.backends import milvus
from semievol.retrieval.backends.milvus import MilvusIndex
from semievol.retrieval.backends.milvus_connection import Connection, connect

OPEN_IT = """
import sys
from semievol.common import errors
from semievol.retrieval.backends.milvus_connection import connect
try:
    connect(sys.argv[1])
except errors.Unavailable as error:
    print(error.message)
"""


class ServerOfVersion:
    """A Milvus server that only says how old it is."""

    def __init__(self, version: str) -> None:
        self.version = version

    def get_server_version(self, timeout: float) -> str:
        return self.version


class DiesBeforeTheIndex(Connection):
    """A connection that breaks between making a collection and indexing it."""

    def __init__(self, whole: Connection) -> None:
        super().__init__(whole.client, whole.where, whole.lite_path, 30.0)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "create_index":
            raise errors.Unavailable("killed")
        return super().call(method, *args, **kwargs)


def test_two_processes_on_one_file_get_a_clear_error_and_closing_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "v.db"
    connection = connect(str(path))
    refused = subprocess.run([sys.executable, "-c", OPEN_IT, str(path)], capture_output=True, text=True, check=True, timeout=120)
    assert "Another process has the vectors in" in refused.stdout
    assert "Traceback" not in refused.stderr
    connection.close()
    with (path / "LOCK").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while anybody holds it


def test_a_uri_that_is_neither_is_the_users_error() -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        connect("vectors.sqlite")
    assert caught.value.field == "uri"


def test_a_server_that_is_not_there_is_unavailable_within_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1"):
        connect("http://127.0.0.1:1", call_timeout_s=5)
    assert time.monotonic() - started < 15


def test_a_path_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.StorageError):
        connect(str(tmp_path / "file" / "sub" / "v.db"))


@pytest.mark.parametrize("version", ["v2.3.5", "2.4.1-dev"])
def test_an_old_server_is_told_by_the_feature_that_it_lacks(version: str) -> None:
    index = MilvusIndex(Connection(ServerOfVersion(version), "http://old:19530", None, 1.0))
    with pytest.raises(errors.NotSupported, match=r"BM25 text search needs Milvus 2\.5") as caught:
        index.create(CollectionSpec("c", 2, text_search=True))
    assert caught.value.field == "collection.text_search"


def test_a_collection_whose_maker_died_before_the_index_counts_as_not_there_and_is_made_anew(tmp_path: Path) -> None:
    connection = connect(str(tmp_path / "v.db"))
    index = MilvusIndex(DiesBeforeTheIndex(connection))
    with pytest.raises(errors.Unavailable, match="killed"):
        index.create(CollectionSpec("half", 2))
    index = MilvusIndex(connection)
    with pytest.raises(errors.NotFound):
        index.describe("half")
    index.create(CollectionSpec("half", 2))
    assert index.describe("half").row_count == 0
    index.close()


@pytest.mark.parametrize("vector_field", ["other", "vector"])  # the second has our fields, but an index that we never make
def test_a_collection_of_somebody_else_is_left_alone(tmp_path: Path, vector_field: str) -> None:
    connection = connect(str(tmp_path / "v.db"))
    index = MilvusIndex(connection)
    connection.client.create_collection("foreign", dimension=4, vector_field_name=vector_field)
    with pytest.raises(errors.AlreadyExists, match="not made by this service"):
        index.create(CollectionSpec("foreign", 4))
    index.close()


def test_a_collection_that_an_earlier_version_made_with_the_metric_cosine_is_searched_as_such(tmp_path: Path) -> None:
    """0.6 * 0.6 + 0.8 * 0.8 = 1, and 0.6 beside it; written by the client, as `MilvusIndex` wrote them then."""
    connection = connect(str(tmp_path / "v.db"))
    schema, _ = milvus._schema(connection.client, CollectionSpec("old", 2))
    indexes = connection.client.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", index_name="vector", metric_type="COSINE")
    connection.client.create_collection("old", schema=schema, index_params=indexes, consistency_level="Strong")
    index = MilvusIndex(connection)
    index.create(CollectionSpec("old", 2))
    index.upsert("old", [VectorRecord("a", [1.0, 0.0]), VectorRecord("b", [0.6, 0.8])])
    (hits,) = index.search("old", [VectorQuery(vector=[0.6, 0.8])], 2)
    assert hits == [Hit("b", 1.0), Hit("a", 0.6)]
    index.close()


def test_a_collection_that_vanishes_behind_our_back_is_not_found(tmp_path: Path) -> None:
    connection = connect(str(tmp_path / "v.db"))
    index = MilvusIndex(connection)
    index.create(CollectionSpec("c", 2))
    connection.client.drop_collection("c")
    with pytest.raises(errors.NotFound):
        index.upsert("c", [VectorRecord("a", [1.0, 0.0])])
    index.close()
