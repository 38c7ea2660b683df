"""A launcher for tests of whoever launches jobs: really runs them in threads, unless the test scripts their end."""

from __future__ import annotations

from collections.abc import Callable

from semievol.common import errors
from semievol.launchers import entrypoint
from semievol.launchers.inline import InlineLauncher
from semievol.ports import JobSpec, JobState, JobStatus

Script = Callable[[JobSpec], JobStatus | None]


class FakeLauncher:
    """`script(job)` decides a job's status at submission without running it; None runs it. `submitted` lists the accepted jobs in order.

    `refuse_next` submissions raise Unavailable. `lose(name)` makes a job's record vanish, as a deleted Kubernetes Job's does.
    """

    def __init__(self, script: Script = lambda job: None) -> None:
        self.submitted: list[JobSpec] = []
        self.refuse_next = 0
        self._script = script
        self._scripted: dict[str, JobStatus] = {}
        self._lost: set[str] = set()
        self._inline = InlineLauncher()

    def submit(self, job: JobSpec) -> None:
        entrypoint.check(job)
        if self.refuse_next:
            self.refuse_next -= 1
            raise errors.Unavailable("The fake launcher was told to refuse this job.")
        known = next((other for other in self.submitted if other.name == job.name), None)
        if known is not None:
            if entrypoint.content(known) != entrypoint.content(job):
                raise entrypoint.taken(job)
            return
        status = self._script(job)
        if status is None:
            self._inline.submit(job)
        else:
            self._scripted[job.name] = status
        self.submitted.append(job)

    def state(self, name: str) -> JobStatus:
        if name in self._lost:
            return JobStatus(JobState.UNKNOWN)
        return self._scripted.get(name) or self._inline.state(name)

    def logs(self, name: str, start: int = 0) -> list[str]:
        return [] if name in self._lost else self._inline.logs(name, start)

    def cancel(self, name: str) -> None:
        if name in self._scripted and self._scripted[name].state is JobState.RUNNING:
            self.finish(name, entrypoint.CANCELLED, "The job was cancelled.")
        self._inline.cancel(name)

    def finish(self, name: str, exit_code: int = 0, message: str = "") -> None:
        """Ends a job that the script left running."""
        self._scripted[name] = JobStatus(JobState.FAILED if exit_code else JobState.SUCCEEDED, exit_code, message)

    def lose(self, name: str) -> None:
        self._lost.add(name)

    def close(self) -> None:
        self._inline.close()
