"""What only real processes can get wrong: orphans, kill -9, restarts, logs of the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from semievol.launchers import processes
from semievol.launchers.subprocess import SubprocessLauncher
from semievol.ports import JobState, JobStatus

from tests.contract.test_launcher import ended, job, progress

NAME = "run-1-infer-0-1"


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[SubprocessLauncher]:
    made = SubprocessLauncher(tmp_path / "jobs", grace_s=1)
    yield made
    made.close()


def gone(pid: int) -> bool:
    try:
        return not processes.find(pid).alive()
    except ProcessLookupError:
        return True


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_everything_that_a_job_writes_is_in_its_log(launcher: SubprocessLauncher) -> None:
    launcher.submit(job("print_everywhere"))
    ended(launcher)
    lines = "\n".join(launcher.logs(NAME))
    for text in ("to stdout", "to stderr", "to the log", "from a command", "no newline at the end"):
        assert text in lines


def test_a_job_that_ignores_the_cancellation_is_killed_with_its_children_after_the_grace(launcher: SubprocessLauncher) -> None:
    launcher.submit(job("ignore_the_cancellation"))
    pids = progress(launcher)
    started = time.monotonic()
    launcher.cancel(NAME)
    assert 0.9 < time.monotonic() - started < 10
    status = launcher.state(NAME)
    assert (status.state, status.exit_code) == (JobState.FAILED, 130)
    assert "1 s" in status.message
    assert gone(pids["job"])
    assert gone(pids["child"])


def test_children_that_a_job_leaves_behind_end_with_it(launcher: SubprocessLauncher) -> None:
    launcher.submit(job("leave_a_child_behind"))
    pids = progress(launcher)
    assert ended(launcher).state is JobState.SUCCEEDED
    until(lambda: gone(pids["child"]))


def test_a_job_that_is_killed_has_failed_and_the_signal_is_named(launcher: SubprocessLauncher) -> None:
    launcher.submit(job("kill_itself"))
    status = ended(launcher)
    assert (status.state, status.exit_code) == (JobState.FAILED, 137)
    assert "SIGKILL" in status.message


def test_a_job_dies_with_its_supervisor_and_has_failed(launcher: SubprocessLauncher, tmp_path: Path) -> None:
    launcher.submit(job("wait_until_cancelled"))
    progress(launcher)
    supervisor = json.loads((tmp_path / "jobs" / NAME / "process.json").read_text())["pid"]
    worker = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text())
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: gone(worker))
    status = launcher.state(NAME)
    assert (status.state, status.exit_code) == (JobState.FAILED, 137)


def test_a_job_outlives_the_thread_that_submitted_it(launcher: SubprocessLauncher) -> None:
    thread = threading.Thread(target=launcher.submit, args=(job("wait_until_cancelled"),))
    thread.start()
    thread.join()
    progress(launcher)
    time.sleep(0.2)
    assert launcher.state(NAME).state is JobState.RUNNING


def test_a_record_survives_the_launcher_and_a_running_job_is_adopted_by_another(
    launcher: SubprocessLauncher, tmp_path: Path
) -> None:
    launcher.submit(job("succeed", name="done"))
    ended(launcher, "done")
    launcher.submit(job("wait_until_cancelled"))
    other = SubprocessLauncher(tmp_path / "jobs")
    assert other.state("done") == JobStatus(JobState.SUCCEEDED, 0)
    assert other.logs("done") == launcher.logs("done")
    other.submit(job("wait_until_cancelled"))
    progress(other)
    other.cancel(NAME)
    assert launcher.state(NAME) == JobStatus(JobState.FAILED, 130, "Stopped as asked.")


def test_kill_9_of_the_launching_process_leaves_no_process_and_a_failed_job(tmp_path: Path) -> None:
    """A real parent process, killed while its job and the job's child run; then the launcher of the next start looks."""
    program = f"""
import sys, time
from pathlib import Path
from semievol.launchers.subprocess import SubprocessLauncher
from semievol.ports import JobSpec
launcher = SubprocessLauncher(Path({str(tmp_path / "jobs")!r}))
launcher.submit(JobSpec({NAME!r}, "tests.contract.launcher_jobs:ignore_the_cancellation"))
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        later = SubprocessLauncher(tmp_path / "jobs")
        pids = progress(later)
        assert not gone(pids["child"])
    finally:
        parent.kill()
        parent.wait()
    until(lambda: gone(pids["job"]) and gone(pids["child"]))
    until(lambda: later.state(NAME).state is not JobState.RUNNING)
    assert later.state(NAME).exit_code == 137
    assert "launched the job died" in later.state(NAME).message


def test_a_start_that_was_interrupted_before_the_process_was_recorded_has_failed(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    launcher_process = processes.find(dead.pid)
    dead.wait()
    directory = tmp_path / "jobs" / "half"
    directory.mkdir(parents=True)
    record = {"pid": launcher_process.pid, "start_ticks": launcher_process.start_ticks}
    (directory / "job.json").write_text(json.dumps({"entrypoint": "a:b", "args": [], "labels": {}, "launcher": record}))
    assert SubprocessLauncher(tmp_path / "jobs").state("half").state is JobState.FAILED


def test_a_pid_that_now_belongs_to_another_process_is_not_the_job(tmp_path: Path) -> None:
    me = processes.current()
    assert me.alive()
    assert not processes.Process(me.pid, me.start_ticks - 1).alive()


def test_the_command_line_of_a_child_exits_with_the_jobs_code() -> None:
    command = [sys.executable, "-m", "semievol.launchers.child", "tests.contract.launcher_jobs:refuse_the_input"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 64
    assert "no rows" in done.stderr
