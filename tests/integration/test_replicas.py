"""Two replicas of the controller as servers of their own, over one store, one cluster and one Lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.common.kube_fake import FakeApiServer
from semievol.common.security import Access, Protection, Tokens
from semievol.controller import server as controller_server
from semievol.controller.lease import Elector
from semievol.controller.settings import ControllerSettings
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.launchers.fake import FakeLauncher
from semievol.ports import JobSpec, JobState, JobStatus

from tests.fake_suite import Suite, fake_suite, wait_for, write_colours
from tests.running import running
from tests.servers import free_port

TOKEN = "open-sesame"


def until_judging(job: JobSpec) -> JobStatus | None:
    return JobStatus(JobState.RUNNING) if "-judge-" in job.name else None


class Pair:
    """Two replicas in front of a fake suite, both behind a token. The first one holds the Lease."""

    def __init__(self, suite: Suite, jobs: FakeLauncher) -> None:
        self.suite, self.jobs = suite, jobs
        self._api = FakeApiServer()
        self._stack = ExitStack()
        self._first = ExitStack()
        self.first, self.one, _ = self._replica("first", self._first)
        self.second, self.other, self.other_address = self._replica("second", self._stack)
        assert (self.first.leader(), self.second.leader()) == ("", "first")

    def _replica(self, name: str, stack: ExitStack) -> tuple[Elector, ControllerClient, str]:
        address = f"127.0.0.1:{free_port()}"
        settings = ControllerSettings(
            store=self.suite.store,
            poll_s=0.01,
            parallelism=4,
            models_directory=self.suite.home / "models",
            replica_address=address,
        )
        election = Elector(self._api.kube(), "semievol", name, duration_s=3, address=settings.replica_address)
        core = controller_server.controller(settings, self.jobs, self.suite.addresses, election)
        service = controller_server.service(settings, core, election)
        stack.enter_context(running(service, address=address, guard=Protection(tokens=Tokens([TOKEN], None))))
        return election, stack.enter_context(ControllerClient(address, access=Access(token=lambda: TOKEN))), address

    def first_goes(self) -> None:
        self._first.close()

    def close(self) -> None:
        self._first.close()
        self._stack.close()

    def judging(self) -> None:
        wait_for(lambda: any("-judge-" in job.name for job in self.jobs.submitted))


@pytest.fixture
def jobs() -> FakeLauncher:
    return FakeLauncher(until_judging, group_size=10, lasting=True)


@pytest.fixture
def pair(tmp_path: Path, jobs: FakeLauncher) -> Iterator[Pair]:
    with fake_suite(tmp_path, jobs=jobs, parallelism=4) as suite:
        pair = Pair(suite, jobs)
        yield pair
        pair.close()


def test_the_run_of_a_replica_that_goes_is_taken_up_by_the_other(pair: Pair) -> None:
    """The standby is ready all the time, and takes over what is at work."""
    run = pair.one.submit(pair.suite.spec()).id
    pair.judging()
    assert pair.other.get_run(run).state == pb.STATE_RUNNING
    pair.first_goes()
    assert pair.jobs.cancelled == []
    assert pair.other.get_run(run).state == pb.STATE_RUNNING  # from the record, while nobody acts
    wait_for(lambda: pair.second.leader() == "")
    assert pair.other.cancel_run(run).state == pb.STATE_CANCELLED
    assert set(pair.jobs.cancelled) == {job.name for job in pair.jobs.submitted if "-judge-" in job.name}


def test_whatever_changes_runs_may_be_asked_of_the_one_that_waits(pair: Pair) -> None:
    """Each by a client of the standby alone; what was done is done by the one that acts: only its jobs can have been cancelled."""
    run = pair.other.submit(pair.suite.spec()).id
    pair.judging()
    assert pair.other.cancel_run(run).state == pb.STATE_CANCELLED
    assert pair.jobs.cancelled != []
    more = pair.other.upload(write_colours(pair.suite.home, "more", answers=False))
    assert pair.other.add_data(run, more).iteration == 2
    assert pair.other.retry_run(run).state == pb.STATE_RUNNING
    with pytest.raises(errors.Conflict, match="is at work"):  # the one that acts says so: nobody else would know
        pair.other.collect_garbage(dry_run=True)
    pair.other.cancel_run(run)
    assert pair.other.collect_garbage(dry_run=True).object_count >= 0
    assert pair.second.leader() == "first"
    assert pair.other.delete_run(run).run == run
    assert pair.one.list_runs() == []


def test_aliases_need_nobody_that_acts(pair: Pair, jobs: FakeLauncher) -> None:
    """Each change of an alias is a record of its own, made by a conditional create."""
    jobs._script = lambda job: None
    run = pair.other.submit(pair.suite.spec()).id
    for _ in pair.other.watch(run):
        pass
    (warm, evolved) = (model.name for model in pair.other.list_models().models)
    assert pair.other.promote(warm, "prod").model == warm
    pair.first_goes()
    assert pair.other.promote(evolved, "prod").model == evolved
    assert pair.other.rollback("prod").model == warm


def test_a_watch_of_the_one_that_waits_shows_progress_and_goes_on_when_the_other_is_gone(pair: Pair, jobs: FakeLauncher) -> None:
    run = pair.other.submit(pair.suite.spec()).id
    pair.judging()
    events = pair.other.watch(run)
    seen = [next(events)]
    pair.first_goes()
    wait_for(lambda: pair.second.leader() == "")
    assert pair.other.cancel_run(run).state == pb.STATE_CANCELLED
    seen += events
    numbers = [event.number for event in seen if event.number]
    assert numbers == list(range(1, len(numbers) + 1))
    assert seen[-1].WhichOneof("event") == "run_cancelled"


def test_a_call_that_comes_while_nobody_acts_is_made_again_by_the_client(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is none that may be repeated: nothing was begun."""
    monkeypatch.setattr("semievol.controller.core.HANDOVER_S", 1.0)
    monkeypatch.setattr("semievol.controller.replicas.HANDOVER_S", 1.0)
    run = pair.other.submit(pair.suite.spec()).id
    pair.judging()
    pair.other.cancel_run(run)
    pair.first_goes()
    assert pair.other.retry_run(run).state == pb.STATE_RUNNING
    assert pair.second.leader() == ""


def test_a_caller_without_the_token_gets_nothing_passed_on(pair: Pair) -> None:
    with ControllerClient(pair.other_address) as stranger, pytest.raises(errors.NotAuthenticated):
        stranger.cancel_run("colours")
