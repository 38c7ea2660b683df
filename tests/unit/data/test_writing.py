"""Files are written whole or not at all, and read back as what was written."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from semievol.common import errors
from semievol.data import writing

ROW: dict[str, Any] = {"id": "1", "question": 'Who, "he" asked\nand left?', "options": ["a,b", "ü"], "answer": None}
ENDINGS = ("csv", "jsonl", "parquet")


def breaking() -> Iterator[dict[str, Any]]:
    """Rows until the source breaks."""
    yield ROW
    raise errors.Corrupt("The bytes are damaged.")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    paths = {ending: tmp_path / f"a.{ending}" for ending in ENDINGS}
    assert [writing.write(path, iter([ROW, ROW]), list(ROW)) for path in paths.values()] == [2, 2, 2]
    assert [json.loads(line) for line in paths["jsonl"].read_text().splitlines()] == [ROW, ROW]
    assert parquet.read_table(paths["parquet"]).to_pylist() == [ROW, ROW]
    with paths["csv"].open(newline="") as file:
        assert next(csv.DictReader(file)) == ROW | {"options": '["a,b", "ü"]', "answer": ""}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_source_that_breaks_leaves_nothing_behind_and_what_was_there_as_it_was(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    with pytest.raises(errors.Corrupt):
        writing.write(path, breaking(), list(ROW))
    assert list(tmp_path.iterdir()) == []
    path.write_text("mine")
    with pytest.raises(errors.Corrupt):
        writing.write(path, breaking(), list(ROW), replace=True)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [(path.name, "mine")]


def test_a_file_that_comes_while_another_is_written_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"

    def rows() -> Iterator[dict[str, Any]]:
        path.write_text("theirs")
        yield ROW

    with pytest.raises(errors.AlreadyExists, match="--yes"):
        writing.write(path, rows(), list(ROW))
    assert path.read_text() == "theirs"


def test_a_directory_that_is_not_there_and_an_ending_that_is_not_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError, match="Cannot write"):
        writing.write(tmp_path / "none" / "a.jsonl", [ROW], list(ROW))
    with pytest.raises(errors.InvalidInput, match=r"use \.csv, \.jsonl, \.parquet"):
        writing.write(tmp_path / "a.xlsx", [ROW], list(ROW))
