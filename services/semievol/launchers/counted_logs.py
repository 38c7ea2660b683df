"""Parts of logs whose lines every process counts alike, as a file's."""

from __future__ import annotations

from collections.abc import Callable

from semievol.common import errors
from semievol.ports import LogPart


def part(lines_from: Callable[[int], list[str]], position: str) -> LogPart:
    """See `Launcher.log_part`; a position is how many lines were read."""
    if position and not (position.isascii() and position.isdigit()):
        raise errors.InvalidInput(f"{position[:40]!r} is no position that this log gave.", field="positions")
    start = int(position or 0)
    lines = lines_from(start)
    return LogPart(lines, str(start + len(lines)))
