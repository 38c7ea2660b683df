"""The shards that intake and selection cut rows into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from semievol.algorithm.types import Row
from semievol.steps.records import PartsWriter


@pytest.mark.parametrize(("rows", "sizes"), [(0, []), (1, [1]), (7, [7]), (8, [8]), (9, [8, 1]), (17, [8, 8, 1])])
def test_parts_are_full_but_for_the_last_and_keep_the_order(tmp_path: Path, rows: int, sizes: list[int]) -> None:
    """Eight rows a part, written in two goes that end anywhere."""
    writer = PartsWriter(tmp_path, "unlabeled", 8)
    every = [Row(f"{number:03d}", f"Question {number}?") for number in range(rows)]
    writer.write(every[:5])
    writer.write(every[5:])
    writer.close()
    assert list(writer.paths) == [f"unlabeled/{number:05d}.jsonl" for number in range(len(sizes))]
    read = [[json.loads(line)["id"] for line in path.read_bytes().splitlines()] for path in writer.paths.values()]
    assert [len(part) for part in read] == sizes
    assert [row_id for part in read for row_id in part] == [row.id for row in every]
