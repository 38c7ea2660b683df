"""A dry run as text: rows, what each step would do and why, the sums, and what models would be shown."""

from __future__ import annotations

from semievol.cli.output import duration, table
from semievol.cli.plain import step_name
from semievol.controller.v1 import controller_service_pb2 as pb


def plan_text(planned: pb.PlanRunResponse) -> str:
    """Several paragraphs."""
    parts = [_head(planned), _rows(planned), _steps(planned)]
    parts += (
        ["\n".join(["Calls, tokens and time are estimates:", *(f"- {note}" for note in planned.notes)])] if planned.notes else []
    )
    parts += [_prompt(prompt) for prompt in planned.prompts]
    return "\n\n".join(part for part in parts if part)


def _head(planned: pb.PlanRunResponse) -> str:
    if not planned.compared_run:
        return f"Run {planned.run_id}: the first of its name"
    if planned.compared_run == planned.run_id:
        return f"Run {planned.run_id}: submitted before"
    return f"Run {planned.run_id}: unlike {planned.compared_run}, {'; '.join(planned.changes) or 'nothing differs'}"


def _rows(planned: pb.PlanRunResponse) -> str:
    rows = [[one.role, str(one.row_count), str(one.bad_count), str(one.duplicate_count), one.file] for one in planned.rows]
    found = [f"{overlap}." for overlap in planned.overlaps]
    return "\n".join([table(["data", "rows", "left out", "duplicates", "file"], rows), *found]) if rows else ""


def _steps(planned: pb.PlanRunResponse) -> str:
    header = ["step", "rows", "calls", "tokens read", "written", "time", "basis", "why"]
    rows = [_step(step_name(one.iteration, one.name), one) for one in planned.planned_steps]
    whole = planned.total
    tokens = f"{_count(whole.prompt_token_count) or 0} tokens read, {_count(whole.output_token_count) or 0} written"
    return f"{table(header, rows)}\nIn all {duration(whole.seconds)}: {_calls(whole) or 'no calls'}; {tokens}"


def _step(name: str, step: pb.PlannedStep) -> list[str]:
    why = f"reused: {step.reason}" if step.reused else step.reason
    rows = f"{step.row_count}" if step.row_count else ""
    time = "" if step.reused else duration(step.seconds)
    return [name, rows, _calls(step), _count(step.prompt_token_count), _count(step.output_token_count), time, step.basis, why]


def _calls(step: pb.PlannedStep) -> str:
    named = {
        "replies": step.generation_count,
        "scores": step.score_count,
        "embeddings": step.embedding_count,
        "searches": step.search_count,
        "updates": step.update_count,
    }
    return ", ".join(f"{count} {name}" for name, count in named.items() if count)


def _count(tokens: int) -> str:
    """`950`, `12 k`, `3.4 M`: they are estimates."""
    if tokens < 10_000:
        return str(tokens) if tokens else ""
    return f"{tokens / 1e3:.0f} k" if tokens < 1_000_000 else f"{tokens / 1e6:.1f} M"


def _prompt(prompt: pb.PlannedPrompt) -> str:
    length = f", {prompt.prompt_token_count} tokens" if prompt.prompt_token_count else ""
    shown = f", showing {', '.join(prompt.reference_ids)}" if prompt.reference_ids else ""
    head = [f"--- {prompt.name}: row {prompt.row_id}{length}{shown}", *([prompt.note] if prompt.note else [])]
    return "\n".join([*head, *(f"[{message.role}] {message.content}" for message in prompt.messages)])
