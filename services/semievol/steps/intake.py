"""Data files -> validated rows with stable ids, in row-id order (R7). Answers of the unlabeled file go to a file of their own that
only the report reads (METHOD, trap 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Row
from semievol.common.columns import NO_MAP
from semievol.common.keys import canonical_json, derive_seed
from semievol.data.intake import DataSet, Role
from semievol.data.overlaps import check_ids, overlaps
from semievol.data.uploaded import load_upload
from semievol.steps import records
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes | Path]:
    sets: dict[str, DataSet] = {}
    for number, (role, uri) in enumerate(sorted(step.params["data"].items())):
        sets[role] = read_rows(step, role, uri)
        step.progress(number + 1, len(step.params["data"]), "files")
    check_ids(list(sets.values()))
    rows = {role: data.rows for role, data in sets.items() if role != "unlabeled"}
    if "holdout" in step.params:
        rows["labeled"], rows["dev"] = held_out(rows["labeled"], **step.params["holdout"])
    outputs: dict[str, bytes | Path] = {f"{role}.jsonl": _lines(found) for role, found in rows.items() if found}
    outputs |= records.row_parts(step.scratch, "unlabeled", sets["unlabeled"].rows, step.params["shard_rows"])
    gold = sets["unlabeled"].answers
    if gold:
        outputs["gold.jsonl"] = gold_lines(gold)
    return outputs | {"intake.json": canonical_json(_summary(sets))}


def read_rows(step: StepContext, role: str, uri: str) -> DataSet:
    """Of an upload, as this run reads its files."""
    names, on_bad = step.params.get("map", NO_MAP), step.params["bad_rows"]
    return load_upload(step.artifacts.store, uri, step.task, Role(role), names=names, on_bad=on_bad, field=f"data.{role}")


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
