"""What happens to a search when somebody else changes the collection that it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.ports import CollectionSpec, FloatMatrix, Hit, VectorQuery, VectorRecord
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.steps import collections

D = 8
K = 3


class DisturbedIndex(FakeVectorIndex):
    """Something happens to the collection before the nth search of pages of more than one hit (1: the first), or before each (0)."""

    def __init__(self, fault: Callable[[DisturbedIndex, str], None] | None = None, at: int = 1) -> None:
        super().__init__()
        self.fault, self.at = fault, at
        self.searches = 0
        self.dropped: list[str] = []

    def search(self, name: str, queries: Sequence[VectorQuery], limit: int) -> list[list[Hit]]:
        if limit > 1:
            self.searches += 1
            if self.fault and self.at in (0, self.searches):
                self.fault(self, name)
        return super().search(name, queries, limit)

    def drop(self, name: str) -> None:
        self.dropped.append(name)
        super().drop(name)

    def lose(self, name: str, row: str) -> None:
        self._collections[name].vectors.pop(row, None)


def units(n: int, seed: int = 0) -> FloatMatrix:
    matrix = np.random.default_rng(seed).normal(size=(n, D))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


ROWS, VECTORS = [Row(f"r{i:03d}", "?") for i in range(60)], units(60)
ASKED, QUERIES = [Row(f"q{i}", "?") for i in range(10)], units(10, seed=1)
NAME = collections.name(ROWS, VECTORS)


def search(index: FakeVectorIndex) -> dict[str, list[str]]:
    """Two pages of questions against the library."""
    library = collections.Library(index, ROWS, VECTORS)
    return library.searched(lambda: library.nearest(ASKED[:5], QUERIES[:5], K) | library.nearest(ASKED[5:], QUERIES[5:], K))


UNDISTURBED = search(FakeVectorIndex())


def test_the_undisturbed_result_is_the_exact_one() -> None:
    best = np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :K]
    assert {row.id: [ROWS[i].id for i in ids] for row, ids in zip(ASKED, best, strict=True)} == UNDISTURBED


def drop(index: DisturbedIndex, name: str) -> None:
    index._collections.pop(name)


def lose_a_near_row(index: DisturbedIndex, name: str) -> None:
    index.lose(name, UNDISTURBED["q7"][0])


def lose_all_rows(index: DisturbedIndex, name: str) -> None:
    drop(index, name)
    index.create(CollectionSpec(name, D))


def make_anew_with_another_dimension(index: DisturbedIndex, name: str) -> None:
    drop(index, name)
    index.create(CollectionSpec(name, D + 1))


def add_foreign_rows(index: DisturbedIndex, name: str) -> None:
    index.upsert(name, [VectorRecord(f"foreign{i}", vector) for i, vector in enumerate(QUERIES)])


FAULTS = [drop, lose_a_near_row, lose_all_rows, make_anew_with_another_dimension, add_foreign_rows]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [1, 2], ids=["first page", "second page"])
def test_what_happens_between_two_pages_changes_no_result(fault: Callable[[DisturbedIndex, str], None], at: int) -> None:
    index = DisturbedIndex(fault, at)
    assert search(index) == UNDISTURBED
    assert index.searches > 2  # it was noticed


def change_vectors(index: FakeVectorIndex) -> None:
    index.create(CollectionSpec(NAME, D))
    index.upsert(NAME, [VectorRecord(row.id, vector) for row, vector in zip(ROWS, units(60, seed=9), strict=True)])


def fill_by_half(index: FakeVectorIndex) -> None:
    index.create(CollectionSpec(NAME, D))
    index.upsert(NAME, [VectorRecord(row.id, vector) for row, vector in zip(ROWS[:30], VECTORS, strict=False)])


def fill_with_others(index: FakeVectorIndex) -> None:
    index.create(CollectionSpec(NAME, D))
    index.upsert(NAME, [VectorRecord(f"x{row.id}", vector) for row, vector in zip(ROWS, VECTORS, strict=True)])


def take_the_name(index: FakeVectorIndex) -> None:
    index.create(CollectionSpec(NAME, D + 1))


@pytest.mark.parametrize("before", [change_vectors, fill_by_half, fill_with_others, take_the_name])
def test_what_lies_under_the_name_already_changes_no_result(before: Callable[[FakeVectorIndex], None]) -> None:
    index = DisturbedIndex()
    before(index)
    assert search(index) == UNDISTURBED


def test_nothing_that_another_run_may_be_reading_is_dropped() -> None:
    for fault in FAULTS:
        index = DisturbedIndex(fault)
        search(index)
        assert index.dropped == []


def test_a_library_that_is_there_is_not_written_again() -> None:
    index = DisturbedIndex()
    search(index)
    index.upsert = None  # type: ignore[method-assign, assignment]
    assert search(index) == UNDISTURBED


def test_a_store_that_never_keeps_the_rows_is_said_to_lose_them() -> None:
    with pytest.raises(errors.Unavailable, match=NAME):
        search(DisturbedIndex(lose_a_near_row, at=0))


def test_vectors_that_are_none_are_the_callers_error_and_not_the_stores() -> None:
    library = collections.Library(FakeVectorIndex(), ROWS, 2 * VECTORS)
    with pytest.raises(errors.InvalidInput, match="norm"):
        library.searched(lambda: library.nearest(ASKED, QUERIES, K))


def test_a_row_of_the_library_is_not_its_own_neighbour_and_few_rows_give_few_neighbours() -> None:
    library = collections.Library(FakeVectorIndex(), ROWS[:2], VECTORS[:2])
    found = library.searched(lambda: library.nearest([*ROWS[:2], ASKED[0]], np.vstack([VECTORS[:2], QUERIES[:1]]), K))
    assert (found["r000"], found["r001"], len(found["q0"])) == (["r001"], ["r000"], 2)
