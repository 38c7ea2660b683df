"""How hits are ranked."""

from __future__ import annotations

from semievol.ports import Hit, VectorRecord
from semievol.retrieval import core


def test_scores_that_differ_by_float_noise_tie_and_the_id_decides() -> None:
    """0.7000001 and 0.69999995 both round to 0.700000."""
    hits = [Hit("b", 0.7000001), Hit("a", 0.69999995), Hit("c", 0.8)]
    assert core.rank(hits, 3) == [Hit("c", 0.8), Hit("a", 0.7), Hit("b", 0.7)]


def test_the_excluded_row_does_not_use_up_a_place() -> None:
    hits = [Hit("a", 0.9), Hit("b", 0.8), Hit("c", 0.7)]
    assert [hit.id for hit in core.rank(hits, 2, "a")] == ["b", "c"]


def test_of_records_with_one_id_the_last_counts() -> None:
    records = [VectorRecord(row_id, [1.0]) for row_id in ("a", "b", "a", "c")]
    assert core.last_of_each_id(records) == [1, 2, 3]
