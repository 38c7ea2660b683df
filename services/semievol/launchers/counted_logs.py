"""Logs whose lines every process counts alike, as a file's."""

from __future__ import annotations

from abc import ABC, abstractmethod

from semievol.common import errors
from semievol.ports import LogPart


class CountedLogs(ABC):
    """For launchers: a position is how many lines were read."""

    @abstractmethod
    def logs(self, name: str, start: int = 0) -> list[str]: ...

    def log_part(self, name: str, position: str = "") -> LogPart:
        """See `Launcher.log_part`."""
        if position and not (position.isascii() and position.isdigit()):
            raise errors.InvalidInput(f"{position[:40]!r} is no position that this log gave.", field="positions")
        start = int(position or 0)
        lines = self.logs(name, start)
        return LogPart(lines, str(start + len(lines)))
