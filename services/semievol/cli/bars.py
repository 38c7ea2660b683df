"""Progress bars for a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from semievol.controller.v1 import controller_service_pb2 as pb


class _Rate(ProgressColumn):
    """Units per second, and the loss where a model is trained."""

    def render(self, task: Task) -> Text:
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        loss = task.fields.get("loss") or 0.0
        return Text(f"{rate}  loss {loss:.3f}" if loss else rate)


class Bars:
    """A `semievol.cli.progress.View`: a bar for each step at work, and lines above them that stay."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            _Rate(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        self._progress.console.print(Text(text))

    def progress(self, step: str, progress: pb.StepProgress) -> None:
        total = progress.total or progress.done
        if step not in self._tasks:
            # the first report is the zero of the rate: what an earlier process did says nothing about this one's speed
            self._tasks[step] = self._progress.add_task(step, total=total, completed=progress.done, unit=progress.unit)
        self._progress.update(
            self._tasks[step], completed=progress.done, total=total, unit=progress.unit, loss=progress.loss, refresh=True
        )

    def finished(self, step: str) -> None:
        task = self._tasks.pop(step, None)
        if task is not None:
            self._progress.remove_task(task)
