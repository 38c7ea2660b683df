"""A run's rows before the run: those of its published intake, or read now as intake would, without leaving anything behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Row
from semievol.common.artifacts import Artifacts, File, Manifest, describe
from semievol.common.work import Work
from semievol.ports import Cancel
from semievol.steps import records

Outputs = Mapping[str, bytes | Path]
Intake = Callable[[Mapping[str, Any], Cancel], Outputs]
"""The intake step: its parameters -> its files. Raises what the step raises."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """One row, and how many bytes its record has: what token counts are scaled by."""

    row: Row
    size: int


@dataclass
class RowPreview:
    """`manifest`: intake's, published or (`read_now`) as it would be. `seconds`: what reading took, 0 if it was published."""

    manifest: Manifest
    read_now: bool
    seconds: float
    _artifacts: Artifacts
    _outputs: Outputs = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What intake says about the files and their overlaps."""
        body: dict[str, Any] = json.loads(self._read(self.manifest.file("intake.json")))
        return body

    def count(self, role: str) -> int:
        """Rows that a run begins with: of the unlabeled file; of the others what is in their one file now, since some may be kept out."""
        if role == "unlabeled":
            return int(self.summary["files"]["unlabeled"]["rows"])
        if role not in self._counts:
            self._counts[role] = sum(self._read(file).count(b"\n") for file in self._files(role))
        return self._counts[role]

    def mean_bytes(self, role: str) -> float:
        """Of a record; 0 where there are none."""
        count = self.count(role)
        return sum(file.size for file in self._files(role)) / count if count else 0.0

    def sample(self, role: str, count: int) -> list[SampledRow]:
        """Rows spread evenly over the role's, which are in the order of their ids; at most `count`, all of them if there are fewer."""
        files = self._files(role)
        chosen = _evenly(len(files), count)
        found = []
        for index in chosen:
            lines = self._read(files[index]).splitlines()
            for at in _evenly(len(lines), -(-count // len(chosen))):
                found.append(SampledRow(records.row_from_record(json.loads(lines[at])), len(lines[at]) + 1))
        return found[:count]

    def _files(self, role: str) -> list[File]:
        named = [file for file in self.manifest.files if file.path == f"{role}.jsonl" or file.path.startswith(f"{role}/")]
        return sorted(named, key=lambda file: file.path)

    def _read(self, file: File) -> bytes:
        if not self.read_now:
            return self._artifacts.read(file)
        source = self._outputs[file.path]
        return source if isinstance(source, bytes) else source.read_bytes()


def preview(artifacts: Artifacts, work: Work, intake: Intake, cancel: Cancel) -> RowPreview:
    """Raises what the intake step raises: InvalidInput with the bad rows, NotFound (an upload)."""
    published = artifacts.manifest(work.key)
    if published is not None:
        return RowPreview(published, False, 0.0, artifacts)
    started = time.monotonic()
    outputs = intake(work.params, cancel)
    files = tuple(describe(path, outputs[path]) for path in sorted(outputs))
    manifest = Manifest(work.key, work.contract, {}, work.params, files)
    return RowPreview(manifest, True, time.monotonic() - started, artifacts, outputs)


def _evenly(total: int, count: int) -> list[int]:
    """At most `count` of the numbers below `total`, from the middles of equal parts."""
    if total <= count:
        return list(range(total))
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]
