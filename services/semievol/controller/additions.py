"""Rows that come after a run began: looked at before they are recorded, since a record cannot be taken back."""

from __future__ import annotations

from semievol.common.artifacts import Artifacts
from semievol.controller.plan import StepPlan, StepState
from semievol.controller.runs import RunRecord
from semievol.data.intake import Role
from semievol.data.overlaps import contents, new_rows
from semievol.data.uploaded import load_upload
from semievol.steps import records


def check_rows(artifacts: Artifacts, run: RunRecord, steps: list[StepPlan], uri: str) -> tuple[int, int]:
    """(How many rows can be used, how many of them the run has not taken in yet). Raises InvalidInput for what the `extend` step would
    stumble over, NotFound (no such upload)."""
    spec = run.spec
    data = load_upload(
        artifacts.store, uri, spec.task.task(), Role.UNLABELED, names=spec.data.map, on_bad=spec.bad_rows, field="uri"
    )
    return len(data.rows), len(new_rows(data.rows, _known(artifacts, steps)))


def _known(artifacts: Artifacts, steps: list[StepPlan]) -> dict[str, str]:
    """Every row that was ever taken in: its id -> its content's id."""
    read = (step for step in steps if step.name in ("intake", "extend") and step.state is StepState.DONE)
    files = (file for step in read for file in step.manifests[None].files if file.path.endswith(".jsonl"))
    return contents(
        records.row_from_record(line) for file in files if file.path != "gold.jsonl" for line in artifacts.read_json_lines(file)
    )


def next_iteration(steps: list[StepPlan], *, at_work: bool) -> int:
    """The first iteration whose rows nobody has begun to work on."""
    if at_work:
        return steps[-1].iteration + 1
    begun = [step.iteration for step in steps if step.name != "extend" and step.manifests]
    return max(begun, default=0) + 1
