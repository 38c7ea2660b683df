"""Whole runs with a launcher as a cluster's: jobs outlive the controller, a job does many shards, and somebody may delete it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from semievol.common import errors
from semievol.controller.core import Controller
from semievol.controller.reconcile import RunDriver
from semievol.launchers import entrypoint
from semievol.launchers.fake import FakeLauncher
from semievol.ports import JobSpec, JobState, JobStatus

from tests.fake_suite import Suite, fake_suite, wait_for
from tests.manifests import manifests


def of(step: str) -> Any:
    """A script that leaves this step's jobs running until the test ends them."""
    return lambda job: JobStatus(JobState.RUNNING) if f"-{step}-" in f"{job.name}-" else None


@contextmanager
def cluster(home: Path, jobs: FakeLauncher, **options: Any) -> Iterator[Suite]:
    with fake_suite(home, jobs=jobs, **({"parallelism": 4, "backoff_s": 0.01} | options)) as suite:
        yield suite


def do(job: JobSpec) -> None:
    """What the pods of a job do."""
    for shard in job.shards or (0,):
        code, message = entrypoint.run(
            job.entrypoint, entrypoint.for_shard(job.args, shard), threading.Event(), lambda event: None
        )
        assert code == 0, message


def named(jobs: FakeLauncher, part: str) -> list[JobSpec]:
    return [job for job in jobs.submitted if f"-{part}-" in job.name]


def state(core: Controller, run: str) -> str:
    return core.get(run).state


def step(core: Controller, run: str, label: str) -> Any:
    return next(view for view in core.get(run).steps if view.step.label == label)


def test_a_run_whose_jobs_do_many_shards_gives_the_artifacts_of_one_whose_jobs_do_one(tmp_path: Path) -> None:
    with fake_suite(tmp_path / "single") as suite:
        suite.run(suite.spec())
        single = manifests(suite.home)
    jobs = FakeLauncher(group_size=100)
    with cluster(tmp_path / "groups", jobs) as suite:
        assert suite.run(suite.spec())["error"] == ""
        assert manifests(suite.home) == single
        run = suite.core.runs()[0].record.id
        assert [job.shards for job in named(jobs, "judge")] == [(0, 1, 2)]
        assert named(jobs, "judge")[0].name == f"{run}-1-judge-1"
        started = [event for event in suite.client.watch(run) if event.HasField("step_started")]
        judged = next(event.step_started for event in started if event.step_started.step == "judge")
        assert (judged.shard, list(judged.shards)) == (-1, [0, 1, 2])


def test_collaborators_answer_side_by_side_where_there_is_room(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("infer-warm"), group_size=100)
    with cluster(tmp_path, jobs, parallelism=4) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: len(named(jobs, "infer-warm")) == 2)
        assert 2 <= sum(job.parallelism for job in named(jobs, "infer-warm")) <= 4
        suite.client.cancel_run(run)


def test_a_group_that_is_bigger_than_a_job_may_be_takes_several(tmp_path: Path) -> None:
    jobs = FakeLauncher(group_size=2)
    with cluster(tmp_path, jobs) as suite:
        assert suite.run(suite.spec())["error"] == ""
        assert [job.shards for job in named(jobs, "judge")] == [(0, 1), (2,)]


def test_of_a_group_that_failed_only_what_is_missing_is_tried_again(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("judge-1"), group_size=100)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        (first,) = named(jobs, "judge")
        do(JobSpec("one of them", first.entrypoint, first.args, first.labels, shards=(1,)))
        jobs.finish(first.name, 69, "The judging service is down.")
        wait_for(lambda: state(suite.core, run) == "succeeded")
        assert [job.shards for job in named(jobs, "judge")] == [(0, 1, 2), (0, 2)]


def test_a_controller_that_goes_leaves_its_jobs_and_the_next_one_takes_them_over(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        suite.core.close()
        assert jobs.cancelled == []
        other = suite.another_core()
        other.resume_all()
        (left,) = named(jobs, "judge")
        do(left)
        jobs.finish(left.name)
        wait_for(lambda: state(other, run) == "succeeded")
        assert named(jobs, "judge") == [left]
        assert suite.trainer.created == 2
        other.close()


def test_a_job_that_would_do_something_else_by_now_is_ended_and_done_anew(tmp_path: Path) -> None:
    """The services have moved, so its arguments are others."""
    jobs = FakeLauncher(of("judge-1"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        suite.client.submit(suite.spec())
        wait_for(lambda: bool(named(jobs, "judge")))
        spec = suite.spec()
    with cluster(tmp_path, jobs) as suite:
        assert suite.run(spec)["error"] == ""
        assert [job.name.rpartition("-")[2] for job in named(jobs, "judge")] == ["1", "2"]
        assert jobs.cancelled == [named(jobs, "judge")[0].name]


def test_a_job_that_is_gone_is_asked_for_its_manifest_and_not_done_again(tmp_path: Path) -> None:
    """It ended well, and its time to live was over before anybody looked."""
    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        do(named(jobs, "judge")[0])
        jobs.lose(named(jobs, "judge")[0].name)
        wait_for(lambda: state(suite.core, run) == "succeeded")
        assert len(named(jobs, "judge")) == 1


def test_a_job_that_somebody_deleted_midway_is_done_by_another_attempt(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("judge-1"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        jobs.lose(named(jobs, "judge")[0].name)
        wait_for(lambda: state(suite.core, run) == "succeeded")
        first, second = named(jobs, "judge")
        assert first.name != second.name
        failed = next(event.step_failed for event in suite.client.watch(run) if event.HasField("step_failed"))
        assert "gone" in failed.error


def test_cancelling_ends_the_jobs_that_an_earlier_controller_left(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        suite.core.close()
        other = suite.another_core()
        assert other.cancel(run).state == "cancelled"
        assert jobs.cancelled == [named(jobs, "judge")[0].name]


def test_what_holds_a_job_up_is_in_the_status_of_its_step(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        jobs.hold(named(jobs, "judge")[0].name, "Unschedulable: 0/1 nodes are available.")
        wait_for(lambda: step(suite.core, run, "1/judge").waiting_reason != "")
        shown = next(one for one in suite.client.get_run(run).steps if one.name == "judge")
        assert shown.waiting_reason == "Unschedulable: 0/1 nodes are available."
        suite.client.cancel_run(run)
        assert not any(one.waiting_reason for one in suite.client.get_run(run).steps)


def test_a_step_that_has_to_wait_for_its_turn_is_not_shown_as_running(tmp_path: Path) -> None:
    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs, parallelism=1) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        assert [step(suite.core, run, label).state for label in ("1/judge", "1/evaluate-warm")] == ["running", "waiting"]
        suite.client.cancel_run(run)


def test_a_cluster_that_is_away_for_a_while_delays_a_run_and_no_more(tmp_path: Path) -> None:
    jobs = FakeLauncher(group_size=100, lasting=True)
    jobs.refuse_next = 3
    with cluster(tmp_path, jobs) as suite:
        result = suite.run(suite.spec())
        assert result["error"] == ""
        assert jobs.refuse_next == 0
        assert [job.name for job in jobs.submitted if "intake" in job.name] == [f"{result['run']}-0-intake-1"]


def test_a_run_that_is_resumed_where_it_is_at_work_goes_on_with_the_jobs_that_it_has(tmp_path: Path) -> None:
    """As a controller does whose hold of the Lease lapsed for a moment."""
    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        first = suite.core._driver(run)
        suite.core.resume_all()
        assert suite.core._driver(run) not in (first, None)
        (judging,) = named(jobs, "judge")
        do(judging)
        jobs.finish(judging.name)
        wait_for(lambda: state(suite.core, run) == "succeeded")
        assert jobs.cancelled == []
        assert named(jobs, "judge") == [judging]


def test_a_driver_that_no_longer_leads_stops_without_a_word(tmp_path: Path) -> None:
    from dataclasses import replace

    jobs = FakeLauncher(of("judge"), group_size=100, lasting=True)
    with cluster(tmp_path, jobs) as suite:
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: bool(named(jobs, "judge")))
        suite.core.close()
        leader = {"is": ""}
        world = replace(suite.core._world, leader=lambda: leader["is"])
        driver = RunDriver(world.runs.load(run), world)
        driver.start()
        leader["is"] = "another"
        wait_for(lambda: not driver.alive)
        assert jobs.cancelled == []
        assert suite.core.get(run).state == "running"


@pytest.mark.parametrize("call", ["submit", "retry", "add_data", "cancel", "delete", "collect_garbage"])
def test_a_replica_that_does_not_lead_refuses_what_changes_things_and_says_who_does(tmp_path: Path, call: str) -> None:
    from dataclasses import replace

    with cluster(tmp_path, FakeLauncher()) as suite:
        run = suite.run(suite.spec())["run"]
        standby = suite.another_core()
        standby._world = replace(standby._world, leader=lambda: "controller-7")
        arguments: dict[str, Any] = {
            "submit": [suite.spec()],
            "retry": [run],
            "add_data": [run, "artifact:0"],
            "cancel": [run],
            "delete": [run],
        }
        keywords = {"dry_run": False} if call == "collect_garbage" else {}
        with pytest.raises(errors.Unavailable, match="controller-7"):
            getattr(standby, call)(*arguments.get(call, []), **keywords)
        assert standby.get(run).state == "succeeded"
        assert json.dumps(standby.get(run).result)
