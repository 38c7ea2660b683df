"""Eq. 2: vectors of the labeled rows; and, where training shows references, each labeled row's nearest others."""

from __future__ import annotations

import io

import numpy as np

from semievol.algorithm import semievol
from semievol.steps import collections, records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    rows = step.rows("rows")
    pages = [semievol.embed_tasks(step.services.embedding, page, cancel=step.cancel) for page in step.pages(rows)]
    vectors = np.concatenate(pages)
    buffer = io.BytesIO()
    np.save(buffer, vectors, allow_pickle=False)
    outputs = {"vectors.npy": buffer.getvalue()}
    k = step.params["references"]
    if k:
        library = collections.Library(step.services.retrieval, rows, vectors)
        nearest = library.searched(lambda: library.nearest(rows, vectors, k))
        outputs["references.jsonl"] = records.to_lines({"id": row.id, "references": nearest[row.id]} for row in rows)
    return outputs
