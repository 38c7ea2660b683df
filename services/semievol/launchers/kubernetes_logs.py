"""What a job's pods wrote, as one log whose lines are numbered as they came: the API knows times, our callers count lines.

In which order the lines of several pods came, only this process knows. A position, which another process understands, names for each pod the second
of the last line that was read and how many lines of that second were: for that, the API says the same to everybody.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from semievol.common import errors
from semievol.common.kube import Kube, Object
from semievol.launchers.kubernetes_objects import CONTAINER, INDEX
from semievol.launchers.kubernetes_states import over
from semievol.ports import LogPart

MAX_LINES = 10_000  # per job; the oldest go first
LOG_BYTES = 4 << 20  # read at once
_PAUSE_S = 2.0  # between two looks at a log that goes on
_SECOND = 19  # characters of 2026-11-23T12:00:00


Place = tuple[str, int]  # a line's second, and its number among those of that second, from 1
_START: Place = ("", 0)


@dataclass
class _Reading:
    """How far a pod's log was read. Times are asked for by the second, so the lines of the last second come again."""

    second: str = ""
    of_that_second: int = 0
    complete: bool = False

    @property
    def place(self) -> Place:
        return self.second, self.of_that_second


@dataclass(frozen=True, slots=True)
class _Line:
    pod: str
    place: Place
    text: str


@dataclass
class JobLog:
    """One job's log. `shards` names the shard of each index of an Indexed Job."""

    shards: Sequence[int] = ()
    lines: deque[_Line] = field(default_factory=lambda: deque(maxlen=MAX_LINES))
    written: int = 0
    complete: bool = False
    _pods: dict[str, _Reading] = field(default_factory=dict)
    _looked: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int) -> list[str]:
        with self._lock:
            forgotten = self.written - len(self.lines)
            return [line.text for line in list(self.lines)[max(0, start - forgotten) :]]

    def part(self, seen: Mapping[str, Place]) -> LogPart:
        """The lines behind a position; it may be ahead of what was read here so far."""
        with self._lock:
            lines = [line.text for line in self.lines if line.place > seen.get(line.pod, _START)]
            places = dict(seen)
            for pod, reading in self._pods.items():
                places[pod] = max(reading.place, seen.get(pod, _START))
        return LogPart(lines, json.dumps({pod: place for pod, place in places.items() if place != _START}, separators=(",", ":")))

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
        """All that is there, in pieces of a bounded size."""
        ended, limit = over(pod), LOG_BYTES
        while True:
            before = reading.place
            try:
                since = f"{reading.second}Z" if reading.second else ""
                text = kube.log(pod["metadata"]["name"], CONTAINER, since=since, limit_bytes=limit)
            except (errors.NotFound, errors.InvalidInput):  # not begun, or gone meanwhile
                return
            more = len(text.encode()) >= limit
            lines = text.split("\n")
            rest = lines.pop()  # empty, or the beginning of a line that goes on
            if ended and rest and not more:
                lines.append(rest)
            self._append(pod, lines, reading)
            if not more:
                break
            limit = limit if reading.place > before else 2 * limit  # a single second may be larger than that
        reading.complete = ended

    def _append(self, pod: Object, lines: Sequence[str], reading: _Reading) -> None:
        index = (pod["metadata"].get("annotations") or {}).get(INDEX)
        prefix = f"shard {self.shards[int(index)]}: " if index is not None and self.shards else ""
        for line in lines[reading.of_that_second :]:
            moment, _, words = line.partition(" ")
            if moment[:_SECOND] != reading.second:
                reading.second, reading.of_that_second = moment[:_SECOND], 0
            reading.of_that_second += 1
            self.lines.append(_Line(pod["metadata"]["name"], reading.place, prefix + words))
            self.written += 1


def read_position(position: str) -> dict[str, Place]:
    """What a position says, by pod. Raises InvalidInput (field=positions)."""
    try:
        return {str(pod): (str(second), int(number)) for pod, (second, number) in json.loads(position or "{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.InvalidInput(f"{position[:40]!r} is no position that this log gave.", field="positions") from error


def _place(pod: Object) -> tuple[int, str]:
    index = (pod["metadata"].get("annotations") or {}).get(INDEX)
    return int(index or 0), pod["metadata"].get("creationTimestamp", "")
