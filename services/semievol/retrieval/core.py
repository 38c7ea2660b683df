"""Rules for collections, records, queries and hits that hold for every backend.

Scores are rounded to six decimals: the cosine of equal vectors varies in the seventh (float32, and the order of summation depends
on where a row lies), and rows that tie have to tie on every machine, so that their ids decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from semievol.common import errors
from semievol.common.limits import MAX_PAGE_ROWS
from semievol.ports import CollectionSpec, FloatMatrix, Hit, Vector, VectorIndex, VectorQuery, VectorRecord

MAX_DIMENSION = 32_768  # Milvus' own limit
MAX_LIMIT = 1000
MAX_ID_BYTES = 512
MAX_TEXT_BYTES = 65_535  # Milvus' longest VARCHAR
SCORE_DECIMALS = 6

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_NORM_TOLERANCE = 1e-3  # vectors that went through float16 are still welcome


def check_name(name: str, *, field: str = "collection") -> str:
    """The name itself. Raises InvalidInput(field=)."""
    if not _NAME.fullmatch(name):
        raise errors.InvalidInput(
            f"{name!r} is no collection name: 1 to 200 ASCII letters, digits and underscores, not starting with a digit.",
            field=field,
        )
    return name


def check_spec(spec: CollectionSpec) -> None:
    """Raises InvalidInput naming `collection.name` or `collection.dimension`."""
    check_name(spec.name, field="collection.name")
    if not 1 <= spec.dimension <= MAX_DIMENSION:
        raise errors.InvalidInput(
            f"The dimension is {spec.dimension}; it has to be 1 to {MAX_DIMENSION}.", field="collection.dimension"
        )


def check_same(existing: CollectionSpec, wanted: CollectionSpec) -> None:
    """Raises AlreadyExists where the name stands for another collection."""
    if existing != wanted:
        raise errors.AlreadyExists(
            f"Collection {wanted.name} is there with {_described(existing)}, not {_described(wanted)}; drop it or take another name.",
            field="collection.name",
        )


def _described(spec: CollectionSpec) -> str:
    return f"dimension {spec.dimension}, {spec.index} index, {'with' if spec.text_search else 'no'} text search"


def check_records(spec: CollectionSpec, records: Sequence[VectorRecord]) -> FloatMatrix:
    """The records' vectors, [n, d], scaled to norm 1 exactly. Raises InvalidInput naming `records[i]...`."""
    matrix = np.empty((len(records), spec.dimension), dtype=np.float32)
    for i, record in enumerate(records):
        _check_bytes(record.id, 1, MAX_ID_BYTES, f"records[{i}].id")
        if spec.text_search:
            _check_bytes(record.text, 0, MAX_TEXT_BYTES, f"records[{i}].text")
        matrix[i] = _unit(record.vector, spec, f"records[{i}].vector")
    return matrix


def last_of_each_id(records: Sequence[VectorRecord]) -> list[int]:
    """Indices of the records that count where an id comes twice: the later one. (Milvus may keep both.)"""
    return sorted({record.id: i for i, record in enumerate(records)}.values())


def check_queries(spec: CollectionSpec, queries: Sequence[VectorQuery], limit: int) -> None:
    """Raises InvalidInput naming `limit` or `queries[i]...`; NotSupported for BM25 on a collection without it."""
    if not 1 <= limit <= MAX_LIMIT:
        raise errors.InvalidInput(f"The limit is {limit}; it has to be 1 to {MAX_LIMIT}.", field="limit")
    for i, query in enumerate(queries):
        if (query.vector is None) == (query.text is None):
            raise errors.InvalidInput(f"queries[{i}] needs either a vector or a text.", field=f"queries[{i}]")
        if query.vector is not None:
            query_vector(spec, query, i)
        elif not spec.text_search:
            raise errors.NotSupported(
                f"Collection {spec.name} has no text search; create it with text_search to ask by BM25.",
                field=f"queries[{i}].text",
            )
        elif query.text is None or not query.text.strip():
            raise errors.InvalidInput(f"queries[{i}].text is empty.", field=f"queries[{i}].text")


def query_vector(spec: CollectionSpec, query: VectorQuery, i: int) -> FloatMatrix:
    """[d], scaled to norm 1 exactly. Raises InvalidInput naming `queries[i].vector`."""
    assert query.vector is not None
    return _unit(query.vector, spec, f"queries[{i}].vector")


def check_page(queries: Sequence[VectorQuery]) -> Sequence[VectorQuery]:
    """The queries themselves. Raises InvalidInput where one call brings too many."""
    if len(queries) > MAX_PAGE_ROWS:
        raise errors.InvalidInput(f"{len(queries)} queries in one call; at most {MAX_PAGE_ROWS} are taken.", field="queries")
    return queries


def check_same_collection(first: str, name: str) -> str:
    """The name that every page of an upsert has to carry; `first` is empty before the first page."""
    if first and name != first:
        raise errors.InvalidInput(f"A page for {name!r} in an upsert into {first!r}.", field="collection")
    return check_name(name)


def rounded(score: float) -> float:
    return round(score, SCORE_DECIMALS) + 0.0  # no negative zero


def rank(hits: Iterable[Hit], limit: int, exclude_id: str = "") -> list[Hit]:
    """The best `limit` hits by rounded score, ties by id, without `exclude_id`."""
    kept = (Hit(hit.id, rounded(hit.score)) for hit in hits if not (exclude_id and hit.id == exclude_id))
    return sorted(kept, key=lambda hit: (-hit.score, hit.id))[:limit]


_PROBE = CollectionSpec("semievol_probe", 2)


def probe(index: VectorIndex) -> None:
    """One real upsert and one real search. The collection stays: several replicas may probe at once."""
    try:
        index.create(_PROBE)
    except errors.AlreadyExists:  # another version of this service made it; there is nothing in it to keep
        index.drop(_PROBE.name)
        index.create(_PROBE)
    index.upsert(_PROBE.name, [VectorRecord("ready", [1.0, 0.0])])
    if not _probe_finds(index):
        raise errors.Unavailable("The vector store does not find what was just written into it.")


def recheck(index: VectorIndex) -> None:
    """One real search, every few seconds; it writes only where what `probe` wrote is gone."""
    try:
        found = _probe_finds(index)
    except (errors.NotFound, errors.AlreadyExists, errors.InvalidInput):
        found = False
    if not found:
        probe(index)


def _probe_finds(index: VectorIndex) -> bool:
    return bool(index.search(_PROBE.name, [VectorQuery(vector=[1.0, 0.0])], 1)[0])


def _unit(vector: Vector, spec: CollectionSpec, field: str) -> FloatMatrix:
    values = np.asarray(vector, dtype=np.float32)
    if values.shape != (spec.dimension,):
        raise errors.InvalidInput(
            f"{field} has {values.size} values; the vectors of {spec.name} have {spec.dimension}.", field=field
        )
    norm = float(np.linalg.norm(values))
    if not abs(norm - 1) <= _NORM_TOLERANCE:  # also false for NaN
        raise errors.InvalidInput(f"{field} has L2 norm {norm:.4g}; it has to be 1.", field=field)
    return values / np.float32(norm)


def _check_bytes(text: str, least: int, most: int, field: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"{field} is no valid Unicode text: {error.reason}.", field=field) from error
    if not least <= size <= most:
        raise errors.InvalidInput(f"{field} has {size} bytes; it may have {least} to {most}.", field=field)
