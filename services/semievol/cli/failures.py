"""How a command ends when it does not succeed: at most six lines on stderr, and an exit code."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import click

from semievol.common import errors

MAX_LINES = 6
_INTERRUPTED = 130
EXIT_CODES = {
    0: "done",
    2: "wrong usage",
    64: "bad input: data, run file, unknown name",
    69: "a service is down, or a part is missing",
    70: "our bug",
    73: "in conflict with what is there",
    74: "a disk failed, or stored bytes are damaged",
    75: "busy, or no answer in time: try again later",
    77: "not allowed",
    _INTERRUPTED: "stopped by Ctrl-C, or the run was cancelled",
    143: "stopped by SIGTERM",
}

_NEXT: dict[type[errors.SemiEvolError], str] = {
    errors.Unavailable: "check the address, or start the services here with `semievol serve`.",
    errors.StorageError: "look at the free space and the permissions, then run the same command again.",
    errors.Corrupt: "run the same command again: what is damaged is made anew.",
    errors.DeadlineExceeded: "run the same command again; it continues where it stopped.",
    errors.InternalError: "run again with SEMIEVOL_DEBUG=1 to see the traceback, and report it.",
}


def report(error: Exception) -> int:
    """Says what went wrong; the exit code."""
    if os.environ.get("SEMIEVOL_DEBUG") and not isinstance(error, click.ClickException | click.Abort):
        traceback.print_exception(error)
    if isinstance(error, click.Abort):
        return int(getattr(error.__cause__, "exit_code", _INTERRUPTED))
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    ours = known(error)
    first, *rest = lines(ours)
    head = click.style("Error:", fg="red", bold=True) if "NO_COLOR" not in os.environ else "Error:"
    click.echo("\n".join([f"{head} {first}", *rest]), err=True)
    return ours.exit_code


def known(error: Exception) -> errors.SemiEvolError:
    """An error of ours as it is; of a disk, StorageError; anything else is our bug."""
    return error if isinstance(error, errors.SemiEvolError) else _translated(error)


def lines(error: errors.SemiEvolError) -> list[str]:
    """What, where and why, then what to do next."""
    first, *more = error.message.splitlines() or [type(error).__name__]
    if error.field and error.field not in first:
        first = f"{error.field}: {first}"
    rows = [str(row) for row in error.rows if str(row) not in first] if isinstance(error, errors.InvalidInput) else []
    if rows:
        more = [f"  {row}" for row in rows[:3]]
        if len(rows) > 3:
            more.append(f"  ... and {len(rows) - 3} more")
    following = next_step(error)
    shown = [first, *more][: MAX_LINES - bool(following)]
    return [*shown, f"Next: {following}"] if following else shown


def next_step(error: errors.SemiEvolError) -> str:
    """One sentence, or nothing where the message itself says it."""
    if isinstance(error, errors.Busy):
        return f"try again in {max(1, round(error.retry_after_s))} s."
    if isinstance(error, errors.InvalidInput) and error.rows:
        return "`semievol data check` lists all bad rows; mend them, or set `bad_rows: quarantine` in the run file."
    if isinstance(error, errors.Unavailable) and error.field:  # not a service: the hub behind `model`, a port that is taken
        return ""
    return _NEXT.get(type(error), "")


def of_run(error: str, error_class: str) -> errors.SemiEvolError:
    """The error that ended a run, as the controller recorded it."""
    cls = getattr(errors, error_class, errors.InternalError)
    if not (isinstance(cls, type) and issubclass(cls, errors.SemiEvolError)):
        cls = errors.InternalError
    return cls(error or "The run failed without saying why; see `semievol logs`.")


def _translated(error: Exception) -> errors.SemiEvolError:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return errors.StorageError(f"{where}{error.strerror or error}.")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return errors.InternalError(f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno}).")
