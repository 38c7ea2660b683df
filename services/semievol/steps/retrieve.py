"""Eq. 3: the k nearest labeled rows of every unlabeled row, one file a shard."""

from __future__ import annotations

import io

import numpy as np

from semievol.algorithm import semievol
from semievol.steps import collections, records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    labeled = step.rows("labeled")
    vectors = np.load(io.BytesIO(step.artifacts.read(step.inputs["vectors"][0].file)), allow_pickle=False)
    index, k = step.services.retrieval, step.params["references"]
    name = collections.ensure(index, labeled, vectors)
    outputs = {}
    parts = [
        [records.row_from_record(one) for one in step.artifacts.read_json_lines(entry.file)] for entry in step.inputs["rows"]
    ]
    done, total = 0, sum(len(part) for part in parts)
    for number, part in enumerate(parts):
        queries = semievol.embed_tasks(step.services.embedding, part, cancel=step.cancel)
        nearest = semievol.nearest_labeled(index, name, part, queries, k)
        outputs[f"references/{number:05d}.jsonl"] = records.to_lines(
            {"id": row.id, "references": nearest[row.id]} for row in part
        )
        done += len(part)
        step.progress(done, total, "rows")
    return outputs
