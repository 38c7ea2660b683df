"""What commands print: data on stdout, notes on stderr, no escape codes unless a terminal reads them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click


def data(text: str) -> None:
    click.echo(text)


def json_line(value: Any) -> None:
    """One JSON value on a line of its own."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def note(text: str) -> None:
    click.echo(text, err=True)


def confirm(question: str, what: str, *, yes: bool) -> None:
    """Asks before something that cannot be taken back. Raises UsageError where there is nobody to ask, Abort (the answer is no)."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{what} asks first, and there is no terminal to ask on: add --yes.")
    click.confirm(question, abort=True, err=True)


def fancy() -> bool:
    """Whether stderr is a terminal that can redraw lines."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextlib.contextmanager
def on_interrupt(text: str) -> Iterator[None]:
    """Says how to continue when Ctrl-C or SIGTERM ends what is inside."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"\nInterrupted. {text}")
        raise


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the moment: progress bars put themselves in its place. `tracebacks`: those of errors too."""

    def __init__(self, tracebacks: bool) -> None:
        super().__init__(logging.WARNING)
        self._tracebacks = tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)
            if record.exc_info and (os.environ.get("SEMIEVOL_DEBUG") or (self._tracebacks and record.levelno >= logging.ERROR)):
                click.echo("".join(traceback.format_exception(*record.exc_info)), err=True, nl=False)


def log_to_stderr(*, tracebacks: bool = False) -> None:
    """Warnings of services in this process become single lines. `tracebacks`: of errors too, for a server, whose clients learn a request's id
    only."""
    root = logging.getLogger()
    if not any(isinstance(handler, _Stderr) for handler in root.handlers):
        handler = _Stderr(tracebacks)
        # what a job says is kept in its log, and events say how it ended
        handler.addFilter(lambda record: not record.name.startswith("semievol.launchers"))
        root.addHandler(handler)


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal that the (done, total) it is called with moves; nothing elsewhere."""
    if not fancy():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.description}"),
        BarColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=1)
        yield lambda done, total: progress.update(task, completed=done, total=total)
