"""Eq. 3: the k nearest labeled rows of every unlabeled row, one file a shard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semievol.algorithm import semievol
from semievol.algorithm.types import Row
from semievol.common.limits import MAX_PAGE_ROWS
from semievol.ports import FloatMatrix
from semievol.steps import collections, records
from semievol.steps.context import StepContext, StepInput


def run(step: StepContext) -> dict[str, bytes | Path]:
    labeled = step.rows("labeled")
    vectors = np.load(io.BytesIO(step.artifacts.read(step.inputs["vectors"][0].file)), allow_pickle=False)
    library = collections.Library(step.services.retrieval, labeled, vectors)
    return library.searched(lambda: _references(step, library))


def _references(step: StepContext, library: collections.Library) -> dict[str, bytes | Path]:
    """Of all rows only those that are searched for together are in memory."""
    outputs: dict[str, bytes | Path] = {}
    entries, k = step.inputs["rows"], step.params["references"]
    done, total = 0, _count(step, entries)
    waiting: list[
        tuple[int, list[Row], FloatMatrix]
    ] = []  # parts that are embedded, as their shards will be, but not searched for
    for number, entry in enumerate(entries):
        part = [records.row_from_record(one) for one in step.artifacts.read_json_lines(entry.file)]
        waiting.append((number, part, semievol.embed_tasks(step.services.embedding, part, cancel=step.cancel)))
        if number + 1 < len(entries) and sum(len(one) for _, one, _ in waiting) < MAX_PAGE_ROWS:
            continue
        rows = [row for _, one, _ in waiting for row in one]
        nearest = library.nearest(rows, np.concatenate([queries for _, _, queries in waiting]), k)
        for place, one, _ in waiting:
            path = step.scratch / f"references-{place:05d}.jsonl"
            lines = ({"id": row.id, "references": nearest[row.id]} for row in one)
            outputs[f"references/{place:05d}.jsonl"] = records.write_lines(path, lines)
        waiting.clear()
        done += len(rows)
        step.progress(done, total, "rows")
    return outputs


def _count(step: StepContext, entries: Sequence[StepInput]) -> int:
    """Rows of all parts: all but the last have as many as the first."""
    first, last = (len(step.artifacts.read_json_lines(entry.file)) for entry in (entries[0], entries[-1]))
    return first * (len(entries) - 1) + last
