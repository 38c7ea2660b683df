"""Jobs in processes of their own, one directory a job.

    <directory>/<name>/job.json      what to run, and which process launched it
                       process.json  the supervisor's pid and start time
                       status.json   exit code and message, written when all has ended
                       log           everything that the job wrote

A job never outlives the process that launched it (`supervisor`); its record and its log do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semievol.common import errors
from semievol.launchers import entrypoint, processes
from semievol.launchers.counted_logs import CountedLogs
from semievol.launchers.supervisor import JOB, LOG, PROCESS, STATUS, write_record
from semievol.ports import JobSpec, JobState, JobStatus

_POLL_S = 0.02


class SubprocessLauncher(CountedLogs):
    """See `ports.Launcher`. `grace_s`: seconds between SIGTERM and SIGKILL; training saves a checkpoint meanwhile."""

    group_size = 0
    lasting = False

    def __init__(self, directory: Path, *, grace_s: float = 30.0) -> None:
        self._directory = directory.absolute()
        self._grace_s = grace_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._read: dict[str, tuple[int, int]] = {}  # name -> (lines, bytes) that `logs` has seen
        self._lock = threading.Lock()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.StorageError(f"Cannot make the job directory {self._directory}: {error.strerror}.") from error

    def submit(self, job: JobSpec) -> None:
        entrypoint.check(job)
        record = {"entrypoint": job.entrypoint, "args": list(job.args), "labels": dict(job.labels)}
        with self._lock:
            try:
                if not self._reserve(job.name, record | {"launcher": asdict(processes.current())}):
                    known = _load(self._directory / job.name / JOB) or {}
                    if {key: known.get(key) for key in record} != record:
                        raise entrypoint.taken(job)
                    return
                self._launch(job.name)
            except OSError as error:
                raise errors.Unavailable(f"Cannot start a process for job {job.name}: {error.strerror}.") from error

    def state(self, name: str) -> JobStatus:
        directory = self._directory / name
        job = _load(directory / JOB)
        if job is None:
            return JobStatus(JobState.UNKNOWN)
        running = self._running(name, job)
        status = _load(directory / STATUS)  # read after the look at the process: it may have ended in between
        if status is not None:
            code = status["exit_code"]
            return JobStatus(JobState.FAILED if code else JobState.SUCCEEDED, code, status["message"])
        if running:
            return JobStatus(JobState.RUNNING)
        return JobStatus(JobState.FAILED, entrypoint.KILLED, "The job's process died without leaving a record.")

    def logs(self, name: str, start: int = 0) -> list[str]:
        ended = self.state(name).state is not JobState.RUNNING
        lines, offset = self._read.get(name, (0, 0))
        if start < lines:
            lines, offset = 0, 0
        try:
            with (self._directory / name / LOG).open("rb") as file:
                file.seek(offset)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        found = whole.split(b"\n")[:-1]
        self._read[name] = (lines + len(found), offset + len(whole))
        if ended and len(whole) < len(data):  # the last line of a job that was killed
            found.append(data[len(whole) :])
        return [line.decode(errors="replace") for line in found[start - lines :]]

    def cancel(self, name: str) -> None:
        with self._lock:
            record = _load(self._directory / name / PROCESS)
        if record is None:
            return
        process = processes.Process(**record)
        if process.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        while process.alive():
            time.sleep(_POLL_S)
        self._reap(name)

    def close(self) -> None:
        """Cancels the jobs that this launcher started, all at once, and waits for them."""
        with self._lock:
            children = list(self._children.items())
        for _, popen in children:
            popen.terminate()
        for name, _ in children:
            self.cancel(name)

    def _reserve(self, name: str, record: dict[str, Any]) -> bool:
        """Makes the job's directory with its record, at once; False if there is one."""
        staging = self._directory / f".{uuid.uuid4().hex}"
        staging.mkdir()
        write_record(staging / JOB, record)
        try:
            staging.rename(self._directory / name)
        except OSError:
            shutil.rmtree(staging)
            if (self._directory / name / JOB).exists():
                return False
            raise
        return True

    def _launch(self, name: str) -> None:
        directory = self._directory / name
        command = [sys.executable, "-m", "semievol.launchers.supervisor", str(directory), str(self._grace_s)]
        # The new process inherits the mask and lifts it when it can take a SIGTERM: none is lost.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            with (directory / LOG).open("ab") as log:
                popen = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
        except OSError:
            shutil.rmtree(directory)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._children[name] = popen
        try:
            write_record(directory / PROCESS, asdict(processes.find(popen.pid)))
        except OSError:
            popen.kill()  # a job that nobody could find again; it dies with its supervisor
            raise

    def _running(self, name: str, job: dict[str, Any]) -> bool:
        self._reap(name)
        record = _load(self._directory / name / PROCESS)
        if record is None:  # it is being started right now, or its launcher died doing so
            return processes.Process(**job["launcher"]).alive()
        return processes.Process(**record).alive()

    def _reap(self, name: str) -> None:
        with self._lock:
            popen = self._children.get(name)
            if popen is not None and popen.poll() is not None:
                del self._children[name]


def _load(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise errors.StorageError(f"Cannot read {path}: {error}.") from error
    return record
