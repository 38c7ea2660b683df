"""A launcher for tests of whoever launches jobs: really runs them in threads, unless the test scripts their end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from semievol.common import errors
from semievol.launchers import entrypoint
from semievol.launchers.counted_logs import CountedLogs
from semievol.launchers.inline import InlineLauncher
from semievol.ports import JobSpec, JobState, JobStatus

Script = Callable[[JobSpec], JobStatus | None]


class FakeLauncher(CountedLogs):
    """`script(job)` decides a job's status at submission without running it; None runs it. `submitted` lists the accepted jobs in order,
    `cancelled` the names of those that were stopped.

    `refuse_next` submissions raise Unavailable. `lose(name)` makes a job's record vanish, as a deleted Kubernetes Job's does. With a
    `group_size` it takes groups, and runs all their shards at once; a `lasting` one leaves its jobs alone when it is closed.
    """

    def __init__(self, script: Script = lambda job: None, *, group_size: int = 0, lasting: bool = False) -> None:
        self.group_size, self.lasting = group_size, lasting
        self.submitted: list[JobSpec] = []
        self.cancelled: list[str] = []
        self.refuse_next = 0
        self._script = script
        self._scripted: dict[str, JobStatus] = {}
        self._lost: set[str] = set()
        self._groups: dict[str, list[tuple[int, str]]] = {}  # name -> (shard, name of its own job)
        self._inline = InlineLauncher()

    def submit(self, job: JobSpec) -> None:
        entrypoint.check(job, self.group_size)
        if self.refuse_next:
            self.refuse_next -= 1
            raise errors.Unavailable("The fake launcher was told to refuse this job.")
        known = next((other for other in self.submitted if other.name == job.name), None)
        if known is not None:
            if entrypoint.content(known) != entrypoint.content(job):
                raise entrypoint.taken(job)
            return
        status = self._script(job)
        if status is not None:
            self._scripted[job.name] = status
        elif job.shards:
            self._groups[job.name] = [(shard, f"{job.name}.{shard}") for shard in job.shards]
            for shard, name in self._groups[job.name]:
                args = tuple(entrypoint.for_shard(job.args, shard))
                self._inline.submit(replace(job, name=name, args=args, shards=()))
        else:
            self._inline.submit(job)
        self.submitted.append(job)

    def state(self, name: str) -> JobStatus:
        if name in self._lost:
            return JobStatus(JobState.UNKNOWN)
        if name in self._scripted:
            return self._scripted[name]
        if name in self._groups:
            return _together([self._inline.state(one) for _, one in self._groups[name]])
        return self._inline.state(name)

    def logs(self, name: str, start: int = 0) -> list[str]:
        if name in self._lost:
            return []
        if name in self._groups:
            lines = [f"shard {shard}: {line}" for shard, one in self._groups[name] for line in self._inline.logs(one)]
            return lines[start:]
        return self._inline.logs(name, start)

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)
        if name in self._scripted and self._scripted[name].state is JobState.RUNNING:
            self.finish(name, entrypoint.CANCELLED, "The job was cancelled.")
        for one in (one for _, one in self._groups.get(name, ())):
            self._inline.cancel(one)
        self._inline.cancel(name)

    def finish(self, name: str, exit_code: int = 0, message: str = "") -> None:
        """Ends a job that the script left running."""
        self._scripted[name] = JobStatus(JobState.FAILED if exit_code else JobState.SUCCEEDED, exit_code, message)

    def hold(self, name: str, reason: str) -> None:
        """Says why a job that the script left running is not at work."""
        self._scripted[name] = JobStatus(JobState.RUNNING, reason=reason)

    def lose(self, name: str) -> None:
        self._lost.add(name)

    def close(self) -> None:
        if not self.lasting:
            self._inline.close()


def _together(parts: list[JobStatus]) -> JobStatus:
    """A group: it runs while one of it runs, and has failed where one has."""
    running = next((part for part in parts if part.state is JobState.RUNNING), None)
    failed = next((part for part in parts if part.state is JobState.FAILED), None)
    return running or failed or JobStatus(JobState.SUCCEEDED, 0)
