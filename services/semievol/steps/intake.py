"""Data files -> validated rows with stable ids, in row-id order (R7). Answers of the unlabeled file go to a file of their own that
only the report reads (METHOD, trap 6)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from semievol.common import errors, uploads
from semievol.common.keys import canonical_json
from semievol.data.intake import DataSet, Role, load
from semievol.data.overlaps import check_ids, overlaps
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes | Path]:
    sets: dict[str, DataSet] = {}
    for number, (role, uri) in enumerate(sorted(step.params["data"].items())):
        sets[role] = _load(step, role, uri)
        step.progress(number + 1, len(step.params["data"]), "files")
    check_ids(list(sets.values()))
    unlabeled = records.PartsWriter(step.scratch, "unlabeled", step.params["shard_rows"])
    unlabeled.write(sorted(sets["unlabeled"].rows, key=lambda row: row.id))
    unlabeled.close()
    outputs: dict[str, bytes | Path] = {f"{role}.jsonl": _lines(data) for role, data in sets.items() if role != "unlabeled"}
    outputs |= unlabeled.paths
    gold = sets["unlabeled"].answers
    if gold:
        outputs["gold.jsonl"] = records.to_lines({"id": row_id, "answer": gold[row_id]} for row_id in sorted(gold))
    return outputs | {"intake.json": canonical_json(_summary(sets))}


def _load(step: StepContext, role: str, uri: str) -> DataSet:
    field = f"data.{role}"
    with tempfile.TemporaryDirectory(prefix="semievol-intake-") as scratch:
        path = uploads.fetch(step.artifacts.store, uri, Path(scratch), field=field)
        try:
            data = load(path, step.task, Role(role), on_bad=step.params["bad_rows"])
        except errors.InvalidInput as error:  # users know their file by its name, not by where we put it
            rows = tuple(errors.BadRow(path.name, row.line, row.reason) for row in error.rows)
            raise errors.InvalidInput(error.message.replace(f"{scratch}/", ""), field=field, rows=rows) from error
        data.file = path.name
        return data


def _lines(data: DataSet) -> bytes:
    return records.to_lines(records.row_to_record(row) for row in sorted(data.rows, key=lambda row: row.id))


def _summary(sets: dict[str, DataSet]) -> dict[str, Any]:
    described = {
        role: {
            "rows": len(data.rows),
            "bad": [{"line": row.line, "reason": row.reason} for row in data.bad],
            "duplicates": data.duplicates,
            "ignored_answers": data.ignored_answers,
            "columns": dict(data.columns),
        }
        for role, data in sets.items()
    }
    return {"files": described, "overlaps": [str(overlap) for overlap in overlaps(list(sets.values()))]}
