"""The process between a launcher and its job: it sees that the job ends when it should, and records how it ended.

    launcher  --starts-->  supervisor  --forks-->  job (a process group of its own)  --may start-->  children of the job

- The launcher dies, even by kill -9: the supervisor sees it (pidfd) and kills the job's whole group. The parent-death signal would
  not do here: Linux sends it when the *thread* that started the child ends, and a launcher is called from worker threads.
- The supervisor dies by kill -9: the job gets the parent-death signal (its parent has one thread).
- SIGTERM is passed on to the job, which takes it as `cancel`; what still runs after the grace is killed.
- The job ends: what is left of its group is killed, then the record is written, atomically.

Run as `python -m semievol.launchers.supervisor DIRECTORY GRACE_S`; DIRECTORY/job.json says what to run and who launched it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path
from types import FrameType

from semievol.launchers import child
from semievol.launchers.entrypoint import BUG, CANCELLED, KILLED
from semievol.launchers.processes import Process

JOB, PROCESS, STATUS, LOG = "job.json", "process.json", "status.json", "log"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_MAX_MESSAGE_BYTES = 4000  # fits into the pipe, so that writing it never blocks


def write_record(path: Path, record: dict[str, object]) -> None:
    """All of it or nothing, and on disk when this returns."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class _Supervisor:
    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._worker = 0
        self._stubborn = False

    def run(self, entrypoint: str, args: list[str], launcher: Process) -> tuple[int, str]:
        """Runs the job to its end; (exit code, message). SIGTERM is blocked when this is called."""
        reader, writer = os.pipe()
        supervisor = os.getpid()
        self._worker = os.fork()
        if self._worker == 0:
            os.close(reader)
            _work(entrypoint, args, supervisor, writer)
        os.close(writer)
        with contextlib.suppress(OSError):  # the job does it as well, whoever comes first
            os.setpgid(self._worker, self._worker)
        signal.signal(signal.SIGALRM, self._kill)
        signal.signal(signal.SIGTERM, self._terminate)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        orphaned = self._wait(launcher)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._worker, signal.SIGKILL)  # before the job is reaped, so that the number is still its own
        code = os.waitstatus_to_exitcode(os.waitpid(self._worker, 0)[1])
        os.set_blocking(reader, False)
        with contextlib.suppress(BlockingIOError):
            return self._outcome(code, orphaned, os.read(reader, _MAX_MESSAGE_BYTES).decode(errors="replace"))
        return self._outcome(code, orphaned, "")

    def _wait(self, launcher: Process) -> bool:
        """Until the job has ended or the launcher is gone; whether it was the launcher."""
        job = os.pidfd_open(self._worker)
        poll = select.poll()
        poll.register(job, select.POLLIN)
        try:
            parent = os.pidfd_open(launcher.pid)
        except ProcessLookupError:
            return True
        if not launcher.alive():  # its number may be somebody else's by now
            return True
        poll.register(parent, select.POLLIN)
        return all(descriptor != job for descriptor, _ in poll.poll())

    def _outcome(self, code: int, orphaned: bool, message: str) -> tuple[int, str]:
        if orphaned:
            return KILLED, "The process that launched the job died, so the job was killed."
        if self._stubborn:
            return CANCELLED, f"The job did not stop within {self._grace_s:g} s after it was asked to, so it was killed."
        if code < 0:
            return 128 - code, f"The job was killed by {signal.Signals(-code).name}; at SIGKILL, look for a lack of memory."
        return code, message

    def _terminate(self, signum: int, frame: FrameType | None) -> None:
        os.kill(self._worker, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, max(self._grace_s, 0.001))  # 0 would switch the timer off

    def _kill(self, signum: int, frame: FrameType | None) -> None:
        self._stubborn = True
        os.killpg(self._worker, signal.SIGKILL)


def _work(entrypoint: str, args: list[str], supervisor: int, writer: int) -> None:
    """The forked process: becomes the job and does not return."""
    os.setpgid(0, 0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before the signal was asked for
        os._exit(BUG)
    code, message = child.run(entrypoint, args)
    os.write(writer, message.encode()[:_MAX_MESSAGE_BYTES])
    sys.exit(code)


def main() -> None:
    directory, grace_s = Path(sys.argv[1]), float(sys.argv[2])
    job = json.loads((directory / JOB).read_text())
    code, message = _Supervisor(grace_s).run(job["entrypoint"], job["args"], Process(**job["launcher"]))
    write_record(directory / STATUS, {"exit_code": code, "message": message})


if __name__ == "__main__":
    main()
