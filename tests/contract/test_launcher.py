"""What every launcher promises (`ports.Launcher`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.launchers.fake import FakeLauncher
from semievol.launchers.inline import InlineLauncher
from semievol.launchers.subprocess import SubprocessLauncher
from semievol.ports import JobSpec, JobState, JobStatus, Launcher

from tests.cluster import launcher as cluster_launcher
from tests.servers.kubelet import ProcessCluster

JOBS = "tests.contract.launcher_jobs"


@pytest.fixture(params=["fake", "fake-groups", "inline", "subprocess", "kubernetes"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """`kubernetes`: over an API server in memory whose pods are processes; on a real cluster the same tests are run by tests/e2e."""
    with ProcessCluster() as cluster:
        made = {
            "fake": FakeLauncher,
            "fake-groups": lambda: FakeLauncher(group_size=10),
            "inline": InlineLauncher,
            "subprocess": lambda: SubprocessLauncher(tmp_path / "jobs", grace_s=5),
            "kubernetes": lambda: cluster_launcher(cluster, tmp_path, poll_s=0.01),
        }[request.param]()
        yield made
        made.close()


def job(function: str, *args: str, name: str = "run-1-infer-0-1", labels: dict[str, str] | None = None) -> JobSpec:
    return JobSpec(name, f"{JOBS}:{function}", args, labels or {})


def ended(launcher: Launcher, name: str = "run-1-infer-0-1", timeout_s: float = 30) -> JobStatus:
    end = time.monotonic() + timeout_s
    while (status := launcher.state(name)).state is JobState.RUNNING:
        assert time.monotonic() < end, launcher.logs(name)
        time.sleep(0.01)
    return status


def progress(launcher: Launcher, name: str = "run-1-infer-0-1", timeout_s: float = 30) -> dict[str, Any]:
    """The first progress report of a job, waited for."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for line in launcher.logs(name):
            if line.startswith('{"progress"'):
                report: dict[str, Any] = json.loads(line)["progress"]
                return report
        time.sleep(0.01)
    raise AssertionError(f"no progress: {launcher.logs(name)}")


def test_a_job_that_returns_has_succeeded_with_exit_code_0(launcher: Launcher) -> None:
    launcher.submit(job("succeed"))
    assert ended(launcher) == JobStatus(JobState.SUCCEEDED, 0, "")


def test_the_log_holds_reports_and_log_records_in_order_and_can_be_read_from_any_line(launcher: Launcher) -> None:
    launcher.submit(job("succeed", "x", "y z"))
    ended(launcher)
    lines = launcher.logs("run-1-infer-0-1")
    assert [json.loads(line)["progress"]["done"] for line in (lines[0], lines[-1])] == [1, 2]
    assert any("args: x y z" in line for line in lines)
    for start in (*range(len(lines) + 2), 0):
        assert launcher.logs("run-1-infer-0-1", start) == lines[start:]


def test_an_error_of_ours_gives_its_own_exit_code_and_message(launcher: Launcher) -> None:
    launcher.submit(job("refuse_the_input"))
    assert ended(launcher) == JobStatus(JobState.FAILED, 64, "The labeled file has no rows.")


def test_any_other_error_gives_70_and_its_traceback_is_in_the_log(launcher: Launcher) -> None:
    launcher.submit(job("crash"))
    assert ended(launcher) == JobStatus(JobState.FAILED, 70, "ZeroDivisionError: nobody foresaw this")
    assert any("Traceback" in line for line in launcher.logs("run-1-infer-0-1"))


def test_an_entrypoint_that_cannot_be_imported_gives_70(launcher: Launcher) -> None:
    launcher.submit(JobSpec("run-1-infer-0-1", "semievol.no_such_module:function"))
    status = ended(launcher)
    assert (status.state, status.exit_code) == (JobState.FAILED, 70)
    assert "no_such_module" in status.message


@pytest.mark.parametrize("entrypoint", ["", "os", "os:", ":system", "os:system()", "a b:c"])
def test_what_is_no_entrypoint_is_refused_and_the_field_named(launcher: Launcher, entrypoint: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        launcher.submit(JobSpec("name", entrypoint))
    assert caught.value.field == "entrypoint"


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 201, "a\0b"])
def test_what_is_no_name_is_refused_and_the_field_named(launcher: Launcher, name: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        launcher.submit(job("succeed", name=name))
    assert caught.value.field == "name"


def test_an_unknown_job_has_no_state_and_no_log_and_cancelling_it_is_no_error(launcher: Launcher) -> None:
    assert launcher.state("nobody") == JobStatus(JobState.UNKNOWN)
    assert launcher.logs("nobody") == []
    launcher.cancel("nobody")


def test_the_same_job_again_is_adopted_and_runs_once(launcher: Launcher, tmp_path: Path) -> None:
    spec = job("append_a_line", str(tmp_path / "ran"), labels={"run": "r1"})
    for _ in range(3):
        launcher.submit(spec)
    assert ended(launcher).state is JobState.SUCCEEDED
    launcher.submit(spec)
    assert ended(launcher).state is JobState.SUCCEEDED
    assert (tmp_path / "ran").read_text() == "ran\n"


@pytest.mark.parametrize(
    "other",
    [job("crash", "a"), job("succeed", "b"), job("succeed", "a", labels={"run": "2"})],
    ids=["function", "args", "labels"],
)
def test_the_same_name_with_other_content_already_exists(launcher: Launcher, other: JobSpec) -> None:
    launcher.submit(job("succeed", "a", labels={"run": "1"}))
    with pytest.raises(errors.AlreadyExists):
        launcher.submit(other)
    assert ended(launcher).state is JobState.SUCCEEDED


def test_a_cancelled_job_no_longer_runs_when_cancel_returns(launcher: Launcher) -> None:
    launcher.submit(job("wait_until_cancelled"))
    assert launcher.state("run-1-infer-0-1").state is JobState.RUNNING
    assert progress(launcher) == {"started": True}
    launcher.cancel("run-1-infer-0-1")
    assert was_cancelled(launcher.state("run-1-infer-0-1"))


def was_cancelled(status: JobStatus) -> bool:
    """By the job's own words, or by its launcher's where a cluster takes them away with the job."""
    said = status.message in ("Stopped as asked.", "The job was cancelled.")
    return (status.state, status.exit_code) == (JobState.FAILED, 130) and said


def test_a_job_that_is_cancelled_at_once_ends_as_cancelled(launcher: Launcher) -> None:
    launcher.submit(job("wait_until_cancelled"))
    launcher.cancel("run-1-infer-0-1")
    assert was_cancelled(launcher.state("run-1-infer-0-1"))


def test_cancelling_a_finished_job_changes_nothing(launcher: Launcher) -> None:
    launcher.submit(job("succeed"))
    before = ended(launcher)
    launcher.cancel("run-1-infer-0-1")
    assert launcher.state("run-1-infer-0-1") == before


def test_an_argument_reaches_the_job_as_it_is(launcher: Launcher, tmp_path: Path) -> None:
    """Whatever a shell or a cluster would make of it."""
    words = ("$(HOME)", "$$", "$(SEMIEVOL_JOB)", "{shard}", "a b", '{"a": 1}', "*")
    launcher.submit(job("write_the_arguments", str(tmp_path / "arguments"), *words))
    assert ended(launcher).state is JobState.SUCCEEDED
    assert (tmp_path / "arguments").read_text().splitlines() == list(words)


def group(function: str, *args: str, shards: tuple[int, ...] = (3, 5, 8)) -> JobSpec:
    return JobSpec("run-1-infer-1", f"{JOBS}:{function}", args, shards=shards, parallelism=2)


def test_a_group_does_each_of_its_shards_once_and_its_log_says_which(launcher: Launcher, tmp_path: Path) -> None:
    if not launcher.group_size:
        with pytest.raises(errors.InvalidInput) as caught:
            launcher.submit(group("write_the_shard", str(tmp_path), "{shard}"))
        assert caught.value.field == "shards"
        return
    launcher.submit(group("write_the_shard", str(tmp_path), "{shard}"))
    assert ended(launcher, "run-1-infer-1") == JobStatus(JobState.SUCCEEDED, 0)
    assert {file.name: file.read_text() for file in tmp_path.glob("shard-*")} == {f"shard-{one}": "done\n" for one in (3, 5, 8)}
    assert {line.partition(": ")[0] for line in launcher.logs("run-1-infer-1")} == {"shard 3", "shard 5", "shard 8"}


def test_a_group_has_failed_where_one_of_it_has_and_the_others_are_done(launcher: Launcher, tmp_path: Path) -> None:
    if launcher.group_size:
        launcher.submit(group("write_the_shard_but_one", str(tmp_path), "{shard}", "5"))
        assert ended(launcher, "run-1-infer-1") == JobStatus(JobState.FAILED, 69, "Shard 5 has no luck.")
        assert sorted(file.name for file in tmp_path.glob("shard-*")) == ["shard-3", "shard-8"]


def test_a_group_that_is_cancelled_no_longer_runs(launcher: Launcher) -> None:
    if launcher.group_size:
        launcher.submit(group("wait_until_cancelled"))
        launcher.cancel("run-1-infer-1")
        assert was_cancelled(launcher.state("run-1-infer-1"))
