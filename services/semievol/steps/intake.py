"""Data files -> validated rows with stable ids, in row-id order (R7). Answers of the unlabeled file go to a file of their own that
only the report reads (METHOD, trap 6)."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Row
from semievol.common import errors, uploads
from semievol.common.columns import NO_MAP
from semievol.common.keys import canonical_json, derive_seed
from semievol.data.intake import DataSet, Role, load
from semievol.data.overlaps import check_ids, overlaps
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes | Path]:
    sets: dict[str, DataSet] = {}
    for number, (role, uri) in enumerate(sorted(step.params["data"].items())):
        sets[role] = load_upload(step, role, uri)
        step.progress(number + 1, len(step.params["data"]), "files")
    check_ids(list(sets.values()))
    rows = {role: data.rows for role, data in sets.items() if role != "unlabeled"}
    if "holdout" in step.params:
        rows["labeled"], rows["dev"] = held_out(rows["labeled"], **step.params["holdout"])
    unlabeled = records.PartsWriter(step.scratch, "unlabeled", step.params["shard_rows"])
    unlabeled.write(sorted(sets["unlabeled"].rows, key=lambda row: row.id))
    unlabeled.close()
    outputs: dict[str, bytes | Path] = {f"{role}.jsonl": _lines(found) for role, found in rows.items() if found}
    outputs |= unlabeled.paths
    gold = sets["unlabeled"].answers
    if gold:
        outputs["gold.jsonl"] = gold_lines(gold)
    return outputs | {"intake.json": canonical_json(_summary(sets))}


def load_upload(step: StepContext, role: str, uri: str) -> DataSet:
    """The rows of an uploaded file. Raises InvalidInput(field=, rows=), NotFound, Corrupt."""
    field = f"data.{role}"
    with tempfile.TemporaryDirectory(prefix="semievol-intake-") as scratch:
        path = uploads.fetch(step.artifacts.store, uri, Path(scratch), field=field)
        try:
            data = load(path, step.task, Role(role), names=step.params.get("map", NO_MAP), on_bad=step.params["bad_rows"])
        except errors.InvalidInput as error:  # users know their file by its name, not by where we put it
            rows = tuple(errors.BadRow(path.name, row.line, row.reason) for row in error.rows)
            raise errors.InvalidInput(error.message.replace(f"{scratch}/", ""), field=field, rows=rows) from error
        data.file = path.name
        return data


def held_out(rows: Sequence[Row], share: float, least: int, seed: int) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """(kept, held out): a seeded draw that more rows in the file change little; nothing is held out where it would be fewer than `least`."""
    drawn = sorted(rows, key=lambda row: derive_seed(seed, row.id, "holdout"))
    count = min(round(share * len(rows)), len(rows) - 1)
    return (tuple(drawn[count:]), tuple(drawn[:count])) if count >= least else (tuple(rows), ())


def gold_lines(gold: Mapping[str, str]) -> bytes:
    return records.to_lines({"id": row_id, "answer": gold[row_id]} for row_id in sorted(gold))


def _lines(rows: Sequence[Row]) -> bytes:
    return records.to_lines(records.row_to_record(row) for row in sorted(rows, key=lambda row: row.id))


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
