"""Jobs in threads of this process: the quickest launcher, and the one for debuggers.

Cancellation is cooperative: a job that never looks at `cancel` is waited for until it ends by itself. A job's log holds what
it emits and what it logs from its own thread; what it prints goes to this process's output, as in any program.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field

from semievol.launchers import entrypoint
from semievol.launchers.counted_logs import CountedLogs
from semievol.ports import JobSpec, JobState, JobStatus

MAX_LOG_LINES = 10_000  # per job; the oldest go first


class InlineLauncher(CountedLogs):
    """See `ports.Launcher`. Its memory of jobs ends with the process."""

    group_size = 0
    lasting = False

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._lock = threading.Lock()

    def submit(self, job: JobSpec) -> None:
        entrypoint.check(job)
        with self._lock:
            known = self._jobs.get(job.name)
            if known is not None:
                if entrypoint.content(known.spec) != entrypoint.content(job):
                    raise entrypoint.taken(job)
                return
            started = _Job(job)
            self._jobs[job.name] = started
            started.thread.start()

    def state(self, name: str) -> JobStatus:
        job = self._jobs.get(name)
        return job.status if job else JobStatus(JobState.UNKNOWN)

    def logs(self, name: str, start: int = 0) -> list[str]:
        job = self._jobs.get(name)
        return job.log.read(start) if job else []

    def cancel(self, name: str) -> None:
        job = self._jobs.get(name)
        if job:
            job.cancel.set()
            job.thread.join()

    def close(self) -> None:
        """Cancels all jobs and waits for them."""
        for job in self._jobs.values():
            job.cancel.set()
        for job in self._jobs.values():
            job.thread.join()


@dataclass
class _Log:
    """The last lines of a log, numbered from its beginning."""

    lines: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_LOG_LINES))
    written: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, text: str) -> None:
        with self.lock:
            for line in text.split("\n"):
                self.lines.append(line)
                self.written += 1

    def read(self, start: int) -> list[str]:
        with self.lock:
            forgotten = self.written - len(self.lines)
            return list(self.lines)[max(0, start - forgotten) :]


class _Job:
    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.cancel = threading.Event()
        self.log = _Log()
        self.status = JobStatus(JobState.RUNNING)
        self.thread = threading.Thread(target=self._run, name=f"job-{spec.name}", daemon=True)

    def _run(self) -> None:
        handler = _ThreadLog(self.log)
        logging.getLogger().addHandler(handler)
        try:
            code, message = entrypoint.run(
                self.spec.entrypoint, self.spec.args, self.cancel, lambda event: self.log.append(entrypoint.to_line(event))
            )
        finally:
            logging.getLogger().removeHandler(handler)
        self.status = JobStatus(JobState.FAILED if code else JobState.SUCCEEDED, code, message)


class _ThreadLog(logging.Handler):
    """Copies the records of the thread that made it."""

    def __init__(self, log: _Log) -> None:
        super().__init__()
        self._log = log
        self._thread = threading.get_ident()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._log.append(self.format(record))
