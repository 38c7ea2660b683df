"""The rows of an uploaded file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from semievol.algorithm.types import Task
from semievol.common import errors, uploads
from semievol.data.intake import DataSet, Role, load
from semievol.ports import ObjectStore


def load_upload(
    store: ObjectStore,
    uri: str,
    task: Task,
    role: Role,
    *,
    names: Mapping[str, str],
    on_bad: Literal["fail", "quarantine"],
    field: str,
) -> DataSet:
    """As `intake.load`. Users know their file by its name, not by where we put it. Raises InvalidInput(field=, rows=), NotFound, Corrupt."""
    with tempfile.TemporaryDirectory(prefix="semievol-upload-") as scratch:
        path = uploads.fetch(store, uri, Path(scratch), field=field)
        try:
            data = load(path, task, role, names=names, on_bad=on_bad)
        except errors.InvalidInput as error:
            rows = tuple(errors.BadRow(path.name, row.line, row.reason) for row in error.rows)
            raise errors.InvalidInput(error.message.replace(f"{scratch}/", ""), field=field, rows=rows) from error
        data.file = path.name
        return data
