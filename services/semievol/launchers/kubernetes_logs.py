"""What a job's pods wrote, as one log whose lines are numbered as they came: the API knows times, our callers count lines."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from semievol.common import errors
from semievol.common.kube import Kube, Object
from semievol.launchers.kubernetes_objects import CONTAINER, INDEX
from semievol.launchers.kubernetes_states import over

MAX_LINES = 10_000  # per job; the oldest go first
_PAUSE_S = 2.0  # between two looks at a log that goes on
_SECOND = 19  # characters of 2026-11-23T12:00:00


@dataclass
class _Reading:
    """How far a pod's log was read. Times are asked for by the second, so the lines of the last second come again."""

    second: str = ""
    of_that_second: int = 0
    complete: bool = False


@dataclass
class JobLog:
    """One job's log. `shards` names the shard of each index of an Indexed Job."""

    shards: Sequence[int] = ()
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    written: int = 0
    complete: bool = False
    _pods: dict[str, _Reading] = field(default_factory=dict)
    _looked: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int) -> list[str]:
        with self._lock:
            forgotten = self.written - len(self.lines)
            return list(self.lines)[max(0, start - forgotten) :]

    def update(self, kube: Kube, pods: Callable[[], list[Object]], ended: bool) -> None:
        """Takes in what is new, not more often than is decent; after the job's end to its last line."""
        with self._lock:
            if self.complete or (not ended and time.monotonic() - self._looked < _PAUSE_S):
                return
            self._looked = time.monotonic()
            for pod in sorted(pods(), key=_place):
                reading = self._pods.setdefault(pod["metadata"]["name"], _Reading())
                if not reading.complete:
                    self._take(kube, pod, reading)
            self.complete = ended

    def _take(self, kube: Kube, pod: Object, reading: _Reading) -> None:
        ended = over(pod)
        try:
            text = kube.log(pod["metadata"]["name"], CONTAINER, since=f"{reading.second}Z" if reading.second else "")
        except (errors.NotFound, errors.InvalidInput):  # not begun, or gone meanwhile
            return
        lines = text.split("\n")
        rest = lines.pop()  # empty, or the beginning of a line that goes on
        if ended and rest:
            lines.append(rest)
        index = (pod["metadata"].get("annotations") or {}).get(INDEX)
        prefix = f"shard {self.shards[int(index)]}: " if index is not None and self.shards else ""
        for line in lines[reading.of_that_second :]:
            moment, _, words = line.partition(" ")
            if moment[:_SECOND] != reading.second:
                reading.second, reading.of_that_second = moment[:_SECOND], 0
            reading.of_that_second += 1
            self.lines.append(prefix + words)
            self.written += 1
        reading.complete = ended


def _place(pod: Object) -> tuple[int, str]:
    index = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return int(index or 0), pod["metadata"].get("creationTimestamp", "")
