"""Runs and their steps as users see them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol.controller.jobs import Progress
from semievol.controller.plan import StepPlan, StepState
from semievol.controller.reconcile import RunDriver
from semievol.controller.runs import Event, RunRecord


@dataclass(frozen=True)
class StepView:
    """One step as users see it; `state`: waiting | running | succeeded | failed. `waiting_reason`: what holds its jobs up."""

    step: StepPlan
    state: str
    reused: bool
    progress: Progress
    waiting_reason: str = ""


@dataclass(frozen=True)
class RunView:
    """A run as users see it; `state`: running | succeeded | failed | cancelled. `result` is what `run --json` prints. `notes`: what else they
    should know while it is at work.

    `last_start_number`: number of the event with which it last started.
    """

    record: RunRecord
    state: str
    steps: tuple[StepView, ...] = ()
    error: str = ""
    error_class: str = ""
    result: Mapping[str, Any] | None = None
    last_start_number: int = 0
    notes: tuple[str, ...] = ()


def engines_used(session: list[Event]) -> dict[str, int] | None:
    """Engines that the last session of a run used, where they are started by themselves (vLLM)."""
    end = session[-1] if session else {}
    if not end.get("engine_starts"):
        return None
    return {"starts": end["engine_starts"], "swaps": end["weight_swaps"]}


def last_session(events: list[Event]) -> list[Event]:
    """What happened since the run was last started."""
    starts = [index for index, event in enumerate(events) if event["type"] == "run_started"]
    return events[starts[-1] :] if starts else []


def step_view(step: StepPlan, run: str, reused: set[str], failed: set[str], driver: RunDriver | None) -> StepView:
    progress = driver.progress.get(step.label, Progress()) if driver else Progress()
    if step.state is StepState.DONE:
        state = "succeeded"
    elif step.label in failed and run == "failed":
        state = "failed"
    else:
        begun = driver is None or step.label in driver.begun  # what is ready may wait for its turn
        state = "running" if step.state is StepState.READY and run == "running" and begun else "waiting"
    reason = driver.waiting.get(step.label, "") if driver and step.state is not StepState.DONE else ""
    return StepView(step, state, step.label in reused, progress, reason)


def progress_event(label: str, progress: Progress) -> Event:
    iteration, _, step = label.partition("/")
    counted = {"done": progress.done, "total": progress.total, "unit": progress.unit}
    speed = {"loss": progress.loss, "tokens_per_second": progress.tokens_per_s}
    return {
        "type": "step_progress",
        "number": 0,
        "time": time.time(),
        "iteration": int(iteration),
        "step": step,
        **counted,
        **speed,
    }
