"""Two replicas of the controller as servers of their own, over one store, one cluster and one Lease."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.common.kube_fake import FakeApiServer
from semievol.controller import server as controller_server
from semievol.controller.lease import Elector
from semievol.controller.settings import ControllerSettings
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.launchers.fake import FakeLauncher
from semievol.ports import JobState, JobStatus

from tests.fake_suite import fake_suite, wait_for
from tests.running import running


def test_the_run_of_a_replica_that_goes_is_taken_up_by_the_other(tmp_path: Path) -> None:
    """The standby is ready all the time, answers what can be read, and says who acts."""
    jobs = FakeLauncher(lambda job: JobStatus(JobState.RUNNING) if "-judge-" in job.name else None, group_size=10, lasting=True)
    api = FakeApiServer()
    with fake_suite(tmp_path, jobs=jobs, parallelism=4) as suite:
        settings = ControllerSettings(store=suite.store, poll_s=0.01, parallelism=4)

        def replica(name: str) -> tuple[Elector, controller_server.Service]:
            election = Elector(api.kube(), "semievol", name, duration_s=3)
            core = controller_server.controller(settings, jobs, suite.addresses, election)
            return election, controller_server.service(settings, core, election)

        first, first_service = replica("first")
        second, second_service = replica("second")
        with ExitStack() as stack:
            goes = stack.enter_context(ExitStack())
            one = ControllerClient(goes.enter_context(running(first_service)))
            other = ControllerClient(stack.enter_context(running(second_service)))
            run = one.submit(suite.spec()).id
            wait_for(lambda: any("-judge-" in job.name for job in jobs.submitted))
            assert (first.leader(), second.leader()) == ("", "first")
            assert other.get_run(run).state == pb.STATE_RUNNING
            with pytest.raises(errors.Unavailable, match="first"):
                other.cancel_run(run)
            one.close()
            goes.close()
            assert jobs.cancelled == []
            wait_for(lambda: second.leader() == "")
            assert other.cancel_run(run).state == pb.STATE_CANCELLED
            assert set(jobs.cancelled) == {job.name for job in jobs.submitted if "-judge-" in job.name}
            other.close()
