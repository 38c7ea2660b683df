"""Rows that occur in more than one place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from semievol.algorithm.types import Row
from semievol.common import errors
from semievol.data.intake import DataSet, Role
from semievol.data.overlaps import Overlap, check_ids, overlaps


def dataset(role: Role, *questions: str, options: tuple[str, ...] = ("x", "y")) -> DataSet:
    rows = tuple(Row(f"{role}-{number}", question, options) for number, question in enumerate(questions))
    return DataSet(f"{role}.csv", role, "csv", rows, lines={row.id: number + 2 for number, row in enumerate(rows)})


def test_data_sets_that_share_nothing_have_no_overlaps() -> None:
    assert overlaps([dataset(Role.LABELED, "a"), dataset(Role.UNLABELED, "b"), dataset(Role.TEST, "c")]) == []


def test_duplicates_within_a_file_are_counted_with_examples_and_are_no_warning() -> None:
    (found,) = overlaps([dataset(Role.LABELED, "a", "b", "a", "A.", "a ", "a")])
    examples = ("labeled.csv:2 = labeled.csv:4", "labeled.csv:2 = labeled.csv:5", "labeled.csv:2 = labeled.csv:6")
    assert found == Overlap(Role.LABELED, Role.LABELED, 4, examples, warning=False)


def test_case_white_space_and_outer_punctuation_do_not_hide_an_overlap_but_other_options_are_another_row() -> None:
    labeled = dataset(Role.LABELED, "What  is it?")
    assert overlaps([labeled, dataset(Role.UNLABELED, "what is it")])[0].count == 1
    assert overlaps([labeled, dataset(Role.UNLABELED, "what is it", options=("x", "z"))]) == []


def test_a_held_out_row_that_is_trained_on_is_a_warning() -> None:
    found = overlaps(
        [dataset(Role.LABELED, "a"), dataset(Role.UNLABELED, "b", "a"), dataset(Role.TEST, "a", "b"), dataset(Role.DEV, "a")]
    )
    assert [(overlap.first, overlap.second, overlap.count, overlap.warning) for overlap in found] == [
        (Role.LABELED, Role.UNLABELED, 1, False),
        (Role.LABELED, Role.TEST, 1, True),
        (Role.LABELED, Role.DEV, 1, True),
        (Role.UNLABELED, Role.TEST, 2, True),
        (Role.UNLABELED, Role.DEV, 1, True),
        (Role.TEST, Role.DEV, 1, False),
    ]
    assert str(found[1]) == "1 rows occur in labeled and in test: labeled.csv:2 = test.csv:2"


def test_one_id_for_two_different_rows_is_refused_and_both_places_are_named() -> None:
    labeled, test = dataset(Role.LABELED, "a"), dataset(Role.TEST, "b")
    check_ids([labeled, test])
    same_id = replace(test, rows=(replace(test.rows[0], id="labeled-0"),), lines={"labeled-0": 9})
    with pytest.raises(errors.InvalidInput, match=r"labeled\.csv:2 and test\.csv:9") as caught:
        check_ids([labeled, same_id])
    assert caught.value.field == "data.test"


def test_one_id_for_the_same_row_in_two_files_is_allowed() -> None:
    labeled = dataset(Role.LABELED, "a")
    check_ids([labeled, replace(labeled, role=Role.TEST)])
