"""Near duplicates by vectors: what is found, how it is said, and that it is found in blocks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from semievol.algorithm.types import Row
from semievol.data.intake import DataSet, Role
from semievol.data.near import near_overlaps
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.ports import NEVER, Cancel, EmbedderInfo, FloatMatrix


def dataset(role: Role, *questions: str) -> DataSet:
    rows = tuple(Row(f"{role}-{number}", question) for number, question in enumerate(questions))
    return DataSet(f"{role}.csv", role, "csv", rows, lines={row.id: number + 2 for number, row in enumerate(rows)})


class Angles:
    """A test double: a text is an angle in degrees, its vector the point at that angle. The cosine of two is that of their difference."""

    def info(self) -> EmbedderInfo:
        return EmbedderInfo("angles", "0" * 64, 2, 0)

    def embed(self, texts: Sequence[str], *, cancel: Cancel = NEVER) -> FloatMatrix:
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_rows_within_the_threshold_are_near_and_the_nearest_come_first() -> None:
    """cos 10 = 0.985, cos 12 = 0.978, cos 18.2 = 0.950, cos 18.5 = 0.948."""
    (found,) = near_overlaps([dataset(Role.LABELED, "0", "90"), dataset(Role.TEST, "12", "100", "-18.5", "45")], Angles(), 0.95)
    assert [str(pair) for pair in found.pairs] == ["labeled.csv:3 ~ test.csv:3 0.98", "labeled.csv:2 ~ test.csv:2 0.98"]
    assert [pair.cosine for pair in found.pairs] == [0.9848, 0.9781]
    assert (found.count, found.warning) == (2, True)
    assert str(found).startswith("2 rows are near rows of labeled, being in test: labeled.csv:3 ~ test.csv:3 0.98")


def test_held_out_rows_near_trained_ones_are_warnings_and_others_are_not() -> None:
    sets = [dataset(role, str(number)) for number, role in enumerate((Role.LABELED, Role.UNLABELED, Role.TEST, Role.DEV))]
    found = {(one.first, one.second): one.warning for one in near_overlaps(sets, Angles(), 0.9)}
    assert found == {
        (Role.LABELED, Role.UNLABELED): False,
        (Role.LABELED, Role.TEST): True,
        (Role.LABELED, Role.DEV): True,
        (Role.UNLABELED, Role.TEST): True,
        (Role.UNLABELED, Role.DEV): True,
        (Role.TEST, Role.DEV): False,
    }


def test_within_a_file_each_pair_is_found_once() -> None:
    (found,) = near_overlaps([dataset(Role.UNLABELED, "0", "90", "1", "1.9")], Angles(), 0.99)
    assert found.count == 2
    assert [(pair.first[-1], pair.second[-1]) for pair in found.pairs] == [("4", "5"), ("2", "4"), ("2", "5")]


def test_what_is_the_same_after_folding_is_not_near_but_equal() -> None:
    """The fake embedder sees no case and no punctuation, so these have a cosine of 1."""
    sets = [dataset(Role.LABELED, "Who is it?"), dataset(Role.TEST, "who is it")]
    assert near_overlaps(sets, FakeEmbedder(), 0.9) == []
    sets = [dataset(Role.LABELED, "Who is it?"), dataset(Role.TEST, "is it who")]
    assert near_overlaps(sets, FakeEmbedder(), 0.9)[0].pairs[0].cosine == 1.0


def test_nothing_near_is_nothing_found_and_an_empty_data_set_does_no_harm() -> None:
    assert near_overlaps([dataset(Role.LABELED), dataset(Role.TEST, "0", "90")], Angles(), 0.9) == []


def test_progress_counts_all_rows() -> None:
    told: list[tuple[int, int]] = []
    sets = [dataset(Role.LABELED, *map(str, range(300))), dataset(Role.TEST, "0")]
    near_overlaps(sets, Angles(), 1.0, lambda done, total: told.append((done, total)))
    assert told == [(256, 301), (300, 301), (301, 301)]


@pytest.mark.parametrize("rows", [2047, 2048, 4100])
def test_blocks_change_nothing(rows: int) -> None:
    """Angles a degree of 1/100 apart, spread over blocks: only the last of the one is near the first of the other."""
    first = dataset(Role.LABELED, *(str(number / 100) for number in range(rows)))
    second = dataset(Role.TEST, *(str(number / 100 + rows / 100 + 5) for number in range(rows)))
    found = near_overlaps([first, second], Angles(), float(np.cos(np.radians(5.015))))
    (between,) = [one for one in found if one.first is not one.second]
    assert between.count == 1
    assert str(between.pairs[0]).startswith(f"labeled.csv:{rows + 1} ~ test.csv:2 ")


def test_a_threshold_that_is_far_too_low_takes_no_memory() -> None:
    """9,000 equal vectors make 40 million pairs; 64 bytes for each would be 2.6 GB."""
    data = dataset(Role.UNLABELED, *_ones(9000))
    tracemalloc.start()
    (found,) = near_overlaps([data], Angles(), 0.5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.count == 8999
    assert len(found.pairs) == 10
    assert peak < 256 * 1024 * 1024


def _ones(count: int) -> list[str]:
    """Different texts of nearly the same angle."""
    return [f"1.{number:06d}" for number in range(count)]
