"""Following a run: its events as lines, or as bars where a terminal reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from semievol.cli import output
from semievol.cli.plain import step_name
from semievol.controller.v1 import controller_service_pb2 as pb

LINE_INTERVAL_S = 10.0  # between two progress lines of one step


class View(Protocol):
    """Where progress is shown."""

    def line(self, text: str) -> None: ...

    def progress(self, step: str, progress: pb.StepProgress) -> None: ...

    def finished(self, step: str) -> None: ...


@dataclass
class _Pace:
    """When a step was first heard of here, and how far it was then."""

    at: float
    done: int
    shown_at: float


@dataclass
class Lines:
    """For pipes and logs: a line where something happens, and now and then one of progress."""

    write: Callable[[str], None] = output.note
    clock: Callable[[], float] = time.monotonic
    _paces: dict[str, _Pace] = field(default_factory=dict)

    def line(self, text: str) -> None:
        self.write(text)

    def progress(self, step: str, progress: pb.StepProgress) -> None:
        now = self.clock()
        pace = self._paces.setdefault(step, _Pace(now, progress.done, now))
        if now - pace.shown_at >= LINE_INTERVAL_S:
            pace.shown_at = now
            self.write(f"{step}  {progress_text(progress, (progress.done - pace.done) / (now - pace.at))}")

    def finished(self, step: str) -> None:
        self._paces.pop(step, None)


def progress_text(progress: pb.StepProgress, per_second: float) -> str:
    """`24/48 updates  0.8/s  ETA 30.0 s  loss 1.234`."""
    total = f"/{progress.total}" if progress.total else ""
    parts = [f"{progress.done}{total} {progress.unit}"]
    if per_second > 0:
        parts.append(f"{per_second:.1f}/s")
        if progress.total > progress.done:
            parts.append(f"ETA {output.duration((progress.total - progress.done) / per_second)}")
    if progress.loss:
        parts.append(f"loss {progress.loss:.3f}")
    return "  ".join(parts)


def follow(events: Iterable[pb.RunEvent]) -> None:
    """Shows events on stderr until they end."""
    if not output.fancy():
        show(events, Lines())
        return
    from semievol.cli.bars import Bars

    with Bars() as bars:
        show(events, bars)


def show(events: Iterable[pb.RunEvent], view: View) -> None:
    """One call of the view per event that says something."""
    started: set[str] = set()
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "step_progress":
            view.progress(step_name(event.step_progress.iteration, event.step_progress.step), event.step_progress)
        elif kind == "step_started":
            step = step_name(event.step_started.iteration, event.step_started.step)
            if step not in started:  # once, whatever the number of its shards
                started.add(step)
                view.line(f"{step}  started")
        elif kind:
            _happened(event, kind, view)


def _happened(event: pb.RunEvent, kind: str, view: View) -> None:
    if kind == "run_started" and event.run_started.resumed:
        view.line("The run continues.")
    elif kind == "step_reused":
        view.line(f"{step_name(event.step_reused.iteration, event.step_reused.step)}  reused")
    elif kind == "step_succeeded":
        succeeded = event.step_succeeded
        step = step_name(succeeded.iteration, succeeded.step)
        view.finished(step)
        view.line(f"{step}  done in {output.duration(succeeded.seconds)}")
    elif kind == "step_failed":
        failed = event.step_failed
        step, after = step_name(failed.iteration, failed.step), "; trying again" if failed.will_retry else ""
        view.finished(step)
        view.line(f"{step}  attempt {failed.attempt} failed (exit code {failed.exit_code}): {failed.error}{after}")
    elif kind == "model_registered":
        view.line(f"Model {event.model_registered.model.name}")
