"""Rules for texts, vectors and pages."""

from __future__ import annotations

import numpy as np
import pytest
from semievol.client.paging import pages
from semievol.common import errors
from semievol.common.vectors import pack, unpack
from semievol.embedding import core


def test_the_longest_text_goes_first_and_ties_keep_their_order() -> None:
    assert core.longest_first(["a", "bbb", "c", "dd"]) == [1, 3, 0, 2]


def test_rows_are_scaled_to_norm_one() -> None:
    """(3, 4) has norm 5, so the unit row is (0.6, 0.8)."""
    np.testing.assert_allclose(core.unit_rows(np.array([[3, 4]], dtype=np.float32)), [[0.6, 0.8]])


@pytest.mark.parametrize("row", [[0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_row_without_direction_is_our_bug_not_a_vector(row: list[float]) -> None:
    with pytest.raises(errors.InternalError):
        core.unit_rows(np.array([row], dtype=np.float32))


def test_a_page_over_the_limit_is_refused() -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        core.check_page(["a", "b"], 1)
    assert caught.value.field == "texts"


def test_a_packed_vector_is_little_endian_float32() -> None:
    """1.0 is 0x3f800000, so its little-endian bytes end in 0x3f."""
    assert pack([1.0]) == b"\x00\x00\x80\x3f"
    assert unpack(pack([0.5, -2.0]), field="v").tolist() == [0.5, -2.0]


def test_a_torn_vector_names_its_field() -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        unpack(b"abc", field="queries[2].vector")
    assert caught.value.field == "queries[2].vector"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 1, 1], [[1, 1], [1]]),  # at most two items
        ([6, 6, 1], [[6], [6, 1]]),  # at most ten bytes
        ([99, 1], [[99], [1]]),  # a large item goes alone
    ],
)
def test_pages_respect_both_limits(sizes: list[int], expected: list[list[int]]) -> None:
    assert [list(page) for page in pages(sizes, lambda size: size, 2, 10)] == expected
