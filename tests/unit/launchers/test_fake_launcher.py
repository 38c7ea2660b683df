"""The scripted side of the fake; what it shares with the real ones is in tests/contract/test_launcher.py."""

from __future__ import annotations

import pytest
from semievol.common import errors
from semievol.launchers.fake import FakeLauncher
from semievol.ports import JobSpec, JobState, JobStatus

SPEC = JobSpec("a", "package.module:function")


def test_a_scripted_job_is_not_run_and_ends_as_the_script_says() -> None:
    launcher = FakeLauncher(lambda job: JobStatus(JobState.FAILED, 69, "down"))
    launcher.submit(SPEC)
    assert launcher.state("a") == JobStatus(JobState.FAILED, 69, "down")
    assert launcher.submitted == [SPEC]


def test_a_job_left_running_ends_when_the_test_says_so() -> None:
    launcher = FakeLauncher(lambda job: JobStatus(JobState.RUNNING))
    launcher.submit(SPEC)
    assert launcher.state("a").state is JobState.RUNNING
    launcher.finish("a")
    assert launcher.state("a") == JobStatus(JobState.SUCCEEDED, 0)


def test_a_scripted_running_job_can_be_cancelled() -> None:
    launcher = FakeLauncher(lambda job: JobStatus(JobState.RUNNING))
    launcher.submit(SPEC)
    launcher.cancel("a")
    assert launcher.state("a").exit_code == 130


def test_a_refused_job_is_not_recorded_and_may_be_submitted_again() -> None:
    launcher = FakeLauncher(lambda job: JobStatus(JobState.RUNNING))
    launcher.refuse_next = 1
    with pytest.raises(errors.Unavailable):
        launcher.submit(SPEC)
    assert launcher.submitted == []
    launcher.submit(SPEC)
    assert launcher.state("a").state is JobState.RUNNING


def test_a_lost_job_is_unknown() -> None:
    launcher = FakeLauncher(lambda job: JobStatus(JobState.RUNNING))
    launcher.submit(SPEC)
    launcher.lose("a")
    assert launcher.state("a") == JobStatus(JobState.UNKNOWN)
