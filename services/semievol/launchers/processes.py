"""Processes by pid and start time: a pid alone may have been given to somebody else meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """`start_ticks` is field 22 of /proc/<pid>/stat: clock ticks after boot."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        now = _stat(self.pid)
        return now is not None and now[0] not in "ZX" and now[1] == self.start_ticks


def current() -> Process:
    return find(os.getpid())


def find(pid: int) -> Process:
    """The process that has this pid now. Raises ProcessLookupError."""
    now = _stat(pid)
    if now is None:
        raise ProcessLookupError(pid)
    return Process(pid, now[1])


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start ticks) of a pid, or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the second field is the command's name, in parentheses, and may hold anything
    return fields[0], int(fields[19])
