"""Dry runs, explanations and findings -> semievol.controller.v1."""

from __future__ import annotations

from dataclasses import asdict

from semievol.algorithm.types import Answer, Candidate, NoAnswer
from semievol.common.findings import FAIL, OK, WARN, Finding
from semievol.controller.estimate import StepForecast
from semievol.controller.forecast import Forecast
from semievol.controller.inspection import Explanation, SelectionPreviews, sampled_entropy, shown_response
from semievol.controller.trial import ShownPrompt
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.wire import planned_step_to_wire


def forecast_to_wire(forecast: Forecast) -> pb.PlanRunResponse:
    rows = [
        pb.PlannedRows(role=one.role, file=one.file, row_count=one.rows, bad_count=one.bad, duplicate_count=one.duplicates)
        for one in forecast.rows
    ]
    return pb.PlanRunResponse(
        run_id=forecast.run_id,
        steps=map(planned_step_to_wire, forecast.steps),
        rows=rows,
        planned_steps=map(_step, forecast.costs),
        total=_step(forecast.total),
        prompts=map(_prompt, forecast.prompts),
        compared_run=forecast.compared,
        changes=forecast.changes,
        overlaps=forecast.overlaps,
        notes=forecast.notes,
    )


_COUNTS = {
    "rows": "row_count",
    "generations": "generation_count",
    "scores": "score_count",
    "embeddings": "embedding_count",
    "searches": "search_count",
    "updates": "update_count",
    "prompt_tokens": "prompt_token_count",
    "output_tokens": "output_token_count",
}


def _step(step: StepForecast) -> pb.PlannedStep:
    return pb.PlannedStep(**{_COUNTS.get(name, name): value for name, value in asdict(step).items()})


def _prompt(prompt: ShownPrompt) -> pb.PlannedPrompt:
    shown = pb.PlannedPrompt(
        name=prompt.name,
        row_id=prompt.row_id,
        prompt_token_count=prompt.prompt_tokens,
        reference_ids=prompt.references,
        note=prompt.note,
    )
    for message in prompt.messages:
        shown.messages.add(role=message.role, content=message.content)
    return shown


def previews_to_wire(found: SelectionPreviews) -> pb.PreviewSelectionResponse:
    previews = [
        pb.SelectionPreview(
            theta=one.theta,
            threshold=one.threshold,
            selected_count=one.selected,
            pseudo_label_accuracy=one.accuracy,
        )
        for one in found.previews
    ]
    return pb.PreviewSelectionResponse(
        run_id=found.record.id,
        iteration=found.iteration,
        theta=found.record.spec.theta,
        previews=previews,
        row_count=found.rows,
        excluded_count=found.excluded,
    )


def explanation_to_wire(found: Explanation) -> pb.ExplainRowResponse:
    message = pb.ExplainRowResponse(
        run_id=found.record.id,
        iteration=found.iteration,
        row_id=found.row.id,
        question=found.row.question,
        options=found.row.options or found.record.spec.task.options,
        candidates=map(_candidate, found.candidates),
        entropy=found.entropy,
        threshold=found.threshold,
        fate=found.fate,
        true_answer=found.true_answer,
    )
    for row in found.reference_rows:
        message.references.add(row_id=row.id, question=row.question, response=shown_response(row, found.record))
    if verdict := found.verdict:
        message.decision, message.response, message.agreement = verdict.decision.value, verdict.response, verdict.agreement
        message.answer = verdict.answer.value if verdict.answer else ""
        for turn in verdict.transcript:
            message.transcript.add(role=turn.role, content=turn.content)
    return message


def _candidate(candidate: Candidate) -> pb.ExplainedCandidate:
    answer = candidate.answer
    return pb.ExplainedCandidate(
        collaborator=candidate.collaborator,
        text=candidate.text,
        answer=answer.value if isinstance(answer, Answer) else "",
        no_answer=answer.value if isinstance(answer, NoAnswer) else "",
        entropy=sampled_entropy(candidate),
    )


_STATUSES = {
    OK: pb.FINDING_STATUS_OK,
    WARN: pb.FINDING_STATUS_WARNING,
    FAIL: pb.FINDING_STATUS_FAILED,
}


def finding_to_wire(finding: Finding) -> pb.Finding:
    return pb.Finding(
        name=finding.name,
        status=_STATUSES[finding.status],
        message=finding.message,
        advice=finding.advice,
        seconds=finding.seconds,
        exit_code=finding.exit_code,
    )
