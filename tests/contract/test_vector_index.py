"""What every VectorIndex does: the fake, Milvus Lite, a Milvus server, and the gRPC client in front of each.

The fake is exact by construction (numpy), so it is the oracle for the others. The server is of version 2.3.5, which has no BM25: what
needs it has to be refused there by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from semievol.client.retrieval import RetrievalClient
from semievol.common import errors
from semievol.ports import CollectionSpec, FloatMatrix, IndexType, VectorIndex, VectorQuery, VectorRecord
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.retrieval.backends.milvus import MilvusIndex
from semievol.retrieval.backends.milvus_connection import connect
from semievol.retrieval.core import probe
from semievol.retrieval.server import service
from semievol.retrieval.settings import RetrievalSettings

from tests.running import running
from tests.servers.milvus import MilvusServer

D = 8
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusIndex]:
    index = MilvusIndex(connect(str(tmp_path_factory.mktemp("milvus") / "vectors.db")))
    yield index
    index.close()


@pytest.fixture(scope="module")
def server(milvus_of_session: MilvusServer) -> Iterator[MilvusIndex]:
    milvus_of_session.ensure_running()
    index = MilvusIndex(connect(milvus_of_session.uri))
    yield index
    index.close()


BACKENDS = ["fake", "milvus", "server"]


@pytest.fixture(scope="module", params=BACKENDS + [f"client-{backend}" for backend in BACKENDS])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def index(request: pytest.FixtureRequest, backend: str) -> Iterator[VectorIndex]:
    kind = backend.removeprefix("client-")
    behind: VectorIndex = FakeVectorIndex() if kind == "fake" else request.getfixturevalue(kind)
    if kind == backend:
        yield behind
        return
    with running(service(RetrievalSettings(check_every_s=3600), behind)) as address:  # which makes its own collection anew, too
        client = RetrievalClient(address)
        yield client
        client.close()


@pytest.fixture(scope="module")
def bm25(backend: str) -> bool:
    """Whether this backend has text search."""
    return not backend.endswith("server")


@pytest.fixture
def name(index: VectorIndex) -> Iterator[str]:
    """A collection name of the test's own, dropped afterwards."""
    name = f"c{next(NUMBERS)}"
    yield name
    index.drop(name)


def units(n: int, seed: int = 0) -> FloatMatrix:
    """[n, D] random unit vectors."""
    matrix = np.random.default_rng(seed).normal(size=(n, D))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def records(matrix: FloatMatrix, prefix: str = "r") -> list[VectorRecord]:
    return [VectorRecord(f"{prefix}{i:04d}", vector) for i, vector in enumerate(matrix)]


def ids(index: VectorIndex, name: str, query: VectorQuery, limit: int) -> list[str]:
    return [hit.id for hit in index.search(name, [query], limit)[0]]


def test_flat_search_is_exact(index: VectorIndex, name: str) -> None:
    library, queries = units(500), [VectorQuery(vector=vector) for vector in units(40, seed=1)]
    oracle = FakeVectorIndex()
    for each in (index, oracle):
        each.create(CollectionSpec(name, D))
        assert each.upsert(name, records(library)) == 500
    found, expected = index.search(name, queries, 3), oracle.search(name, queries, 3)
    assert [[hit.id for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in expected]
    for hit, exact in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert hit.score == pytest.approx(exact.score, abs=2e-6)


def test_hnsw_finds_nearly_what_flat_finds(index: VectorIndex, name: str) -> None:
    library, queries = units(500), units(40, seed=1)
    index.create(CollectionSpec(name, D, IndexType.HNSW))
    index.upsert(name, records(library))
    found = index.search(name, [VectorQuery(vector=vector) for vector in queries], 3)
    best = np.argmax(queries @ library.T, axis=1)
    assert sum(hits[0].id == f"r{i:04d}" for hits, i in zip(found, best, strict=True)) >= 38


def test_a_record_is_visible_to_the_next_search_and_a_new_one_replaces_it(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    first, second = units(2)
    index.upsert(name, [VectorRecord("a", first)])
    assert index.search(name, [VectorQuery(vector=first)], 1)[0][0].score == pytest.approx(1, abs=1e-6)
    index.upsert(name, [VectorRecord("a", second)])
    hits = index.search(name, [VectorQuery(vector=first)], 5)[0]
    assert [hit.id for hit in hits] == ["a"]
    assert hits[0].score == pytest.approx(float(first @ second), abs=1e-6)
    assert index.describe(name).row_count == 1


def test_of_two_records_with_one_id_in_a_call_the_later_one_counts(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    first, second = units(2)
    assert index.upsert(name, [VectorRecord("a", first), VectorRecord("a", second)]) == 2
    assert index.describe(name).row_count == 1
    assert index.search(name, [VectorQuery(vector=second)], 1)[0][0].score == pytest.approx(1, abs=1e-6)


def test_ties_go_by_id_even_where_the_limit_cuts_through_them(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    near, far = units(2)
    order = np.random.default_rng(2).permutation(50)
    index.upsert(name, [VectorRecord(f"t{i:04d}", near) for i in order[:20]])
    index.upsert(name, [VectorRecord("other", far), *(VectorRecord(f"t{i:04d}", near) for i in order[20:])])
    assert ids(index, name, VectorQuery(vector=near), 3) == ["t0000", "t0001", "t0002"]
    assert ids(index, name, VectorQuery(vector=near, exclude_id="t0001"), 3) == ["t0000", "t0002", "t0003"]


def test_an_excluded_row_is_replaced_by_the_next(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    library = units(4)
    index.upsert(name, records(library))
    everything = ids(index, name, VectorQuery(vector=library[0]), 4)
    assert everything[0] == "r0000"
    assert ids(index, name, VectorQuery(vector=library[0], exclude_id="r0000"), 3) == everything[1:]
    assert ids(index, name, VectorQuery(vector=library[0], exclude_id="unknown"), 4) == everything


def test_results_are_in_query_order_and_shorter_than_the_limit_where_rows_run_out(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    library = units(3)
    index.upsert(name, records(library))
    found = index.search(name, [VectorQuery(vector=vector) for vector in library[::-1]], 10)
    assert [hits[0].id for hits in found] == ["r0002", "r0001", "r0000"]
    assert [len(hits) for hits in found] == [3, 3, 3]


def test_an_empty_collection_has_no_hits_and_no_queries_give_no_results(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    assert index.search(name, [VectorQuery(vector=units(1)[0])], 3) == [[]]
    assert index.search(name, [], 3) == []
    assert index.upsert(name, []) == 0
    assert index.describe(name).row_count == 0


def test_text_search_that_a_server_lacks_is_refused_with_its_version_and_nothing_is_made(
    index: VectorIndex, name: str, bm25: bool
) -> None:
    if bm25:
        index.create(CollectionSpec(name, D, text_search=True))
        return
    with pytest.raises(errors.NotSupported, match=r"BM25 text search needs Milvus 2\.5 or later; .* is 2\.3\.5") as caught:
        index.create(CollectionSpec(name, D, text_search=True))
    assert caught.value.field == "collection.text_search"
    with pytest.raises(errors.NotFound):
        index.describe(name)


def test_bm25_finds_by_words_and_dense_search_works_beside_it(index: VectorIndex, name: str, bm25: bool) -> None:
    if not bm25:
        return  # refused: the test above
    index.create(CollectionSpec(name, D, text_search=True))
    texts = ["the lift is stuck", "my invoice is wrong", "the lift makes a noise and the lift stops", ""]
    library = units(4)
    index.upsert(name, [VectorRecord(f"r{i}", library[i], text) for i, text in enumerate(texts)])
    queries = [VectorQuery(text="lift"), VectorQuery(vector=library[1]), VectorQuery(text="invoice", exclude_id="r1")]
    lift, dense, excluded = index.search(name, queries, 2)
    assert {hit.id for hit in lift} == {"r0", "r2"}
    assert all(hit.score > 0 for hit in lift)
    assert lift[0].score >= lift[1].score
    assert dense[0].id == "r1"
    assert excluded == []
    assert index.search(name, [VectorQuery(text="?!"), VectorQuery(text="unheard")], 2) == [[], []]


def test_bm25_on_a_collection_without_it_is_not_supported(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    with pytest.raises(errors.NotSupported, match="text_search"):
        index.search(name, [VectorQuery(text="lift")], 2)


@pytest.mark.parametrize(
    "spec",
    [
        CollectionSpec("x", D, text_search=True),
        CollectionSpec("x", D, IndexType.HNSW),
        CollectionSpec("x", D, IndexType.HNSW, True),
    ],
)
def test_a_collection_is_described_as_it_was_created(index: VectorIndex, name: str, spec: CollectionSpec, bm25: bool) -> None:
    spec = CollectionSpec(name, spec.dimension, spec.index, spec.text_search and bm25)
    index.create(spec)
    index.create(spec)  # again: no error
    assert index.describe(name).spec == spec


@pytest.mark.parametrize(
    ("dimension", "kind", "text_search"), [(D + 1, IndexType.FLAT, False), (D, IndexType.HNSW, False), (D, IndexType.FLAT, True)]
)
def test_another_collection_under_the_same_name_is_refused(
    index: VectorIndex, name: str, dimension: int, kind: IndexType, text_search: bool, bm25: bool
) -> None:
    index.create(CollectionSpec(name, D))
    refusal = errors.AlreadyExists if bm25 or not text_search else errors.NotSupported
    with pytest.raises(refusal) as caught:
        index.create(CollectionSpec(name, dimension, kind, text_search))
    assert caught.value.field == ("collection.name" if refusal is errors.AlreadyExists else "collection.text_search")


def test_a_dropped_collection_is_gone_and_can_be_made_anew(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    index.upsert(name, records(units(3)))
    index.drop(name)
    index.drop(name)  # again: no error
    with pytest.raises(errors.NotFound):
        index.describe(name)
    index.create(CollectionSpec(name, D + 1))
    assert index.describe(name).row_count == 0


def test_a_collection_that_is_not_there_is_not_found(index: VectorIndex) -> None:
    for call in (
        lambda: index.describe("nope"),
        lambda: index.search("nope", [VectorQuery(vector=units(1)[0])], 1),
        lambda: index.upsert("nope", records(units(1))),
        lambda: index.upsert("nope", []),
    ):
        with pytest.raises(errors.NotFound, match="nope") as caught:
            call()
        assert caught.value.field == "collection"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (CollectionSpec("", D), "collection.name"),
        (CollectionSpec("1a", D), "collection.name"),
        (CollectionSpec("a-b", D), "collection.name"),
        (CollectionSpec("ä", D), "collection.name"),
        (CollectionSpec("a\n", D), "collection.name"),
        (CollectionSpec("a" * 201, D), "collection.name"),
        (CollectionSpec("a", 0), "collection.dimension"),
        (CollectionSpec("a", 32_769), "collection.dimension"),
    ],
)
def test_a_bad_spec_names_its_field(index: VectorIndex, spec: CollectionSpec, field: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        index.create(spec)
    assert caught.value.field == field


GOOD = units(1)[0]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (VectorRecord("", GOOD), "records[1].id"),
        (VectorRecord("ü" * 257, GOOD), "records[1].id"),
        (VectorRecord("a", GOOD[:-1]), "records[1].vector"),
        (VectorRecord("a", [0.0] * D), "records[1].vector"),
        (VectorRecord("a", [1.0] * D), "records[1].vector"),
        (VectorRecord("a", [float("nan")] * D), "records[1].vector"),
        (VectorRecord("a", GOOD, "x" * 65_536), "records[1].text"),
    ],
)
def test_a_bad_record_names_its_field_and_nothing_is_written(
    index: VectorIndex, name: str, bad: VectorRecord, field: str, bm25: bool
) -> None:
    index.create(CollectionSpec(name, D, text_search=field.endswith("text") and bm25))
    if field.endswith("text") and not bm25:  # a text that nothing will search may have any length
        assert index.upsert(name, [bad]) == 1
        return
    with pytest.raises(errors.InvalidInput) as caught:
        index.upsert(name, [VectorRecord("good", GOOD), bad])
    assert caught.value.field == field
    assert index.describe(name).row_count == 0


@pytest.mark.parametrize(
    ("query", "limit", "field"),
    [
        (VectorQuery(vector=GOOD), 0, "limit"),
        (VectorQuery(vector=GOOD), 1001, "limit"),
        (VectorQuery(), 1, "queries[1]"),
        (VectorQuery(vector=GOOD, text="a"), 1, "queries[1]"),
        (VectorQuery(vector=GOOD[:-1]), 1, "queries[1].vector"),
        (VectorQuery(vector=GOOD * 2), 1, "queries[1].vector"),
        (VectorQuery(text=" "), 1, "queries[1].text"),
    ],
)
def test_a_bad_query_names_its_field(
    index: VectorIndex, name: str, query: VectorQuery, limit: int, field: str, bm25: bool
) -> None:
    index.create(CollectionSpec(name, D, text_search=bm25))
    with pytest.raises(errors.InvalidInput if bm25 else (errors.InvalidInput, errors.NotSupported)) as caught:
        index.search(name, [VectorQuery(vector=GOOD), query], limit)
    assert caught.value.field == field


def test_a_thousand_hits_can_be_asked_for(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    index.upsert(name, records(units(1100)))
    found = index.search(name, [VectorQuery(vector=vector) for vector in units(3, seed=1)], 1000)
    assert [len(hits) for hits in found] == [1000] * 3


def test_ids_may_be_any_text(index: VectorIndex, name: str) -> None:
    index.create(CollectionSpec(name, D))
    odd = ['a"b', "a'b", "a\\b", "ü 漢字", "x" * 512, "a\tb"]
    index.upsert(name, [VectorRecord(row_id, vector) for row_id, vector in zip(odd, units(len(odd)), strict=True)])
    assert set(ids(index, name, VectorQuery(vector=GOOD), 10)) == set(odd)


def test_what_milvus_lite_holds_survives_a_restart(tmp_path: Path) -> None:
    path, spec, library = str(tmp_path / "v.db"), CollectionSpec("kept", D, IndexType.HNSW, text_search=True), units(20)
    first = MilvusIndex(connect(path))
    first.create(spec)
    first.upsert("kept", [VectorRecord(f"r{i}", vector, f"word{i}") for i, vector in enumerate(library)])
    first.close()
    second = MilvusIndex(connect(path))
    assert second.describe("kept").spec == spec
    assert second.describe("kept").row_count == 20
    assert [hits[0].id for hits in second.search("kept", [VectorQuery(vector=library[7]), VectorQuery(text="word3")], 1)] == [
        "r7",
        "r3",
    ]
    second.close()


def test_a_probe_replaces_its_own_collection_where_another_version_left_one(index: VectorIndex) -> None:
    index.drop("semievol_probe")
    index.create(CollectionSpec("semievol_probe", 3))
    probe(index)
    probe(index)  # the usual case: it is there and right
    assert index.describe("semievol_probe").spec == CollectionSpec("semievol_probe", 2)
