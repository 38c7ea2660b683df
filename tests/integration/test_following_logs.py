"""Logs that are followed while the controller behind the address is replaced by another one."""

from __future__ import annotations

import threading
from pathlib import Path

from semievol.client.controller import ControllerClient
from semievol.controller import server as controller_server
from semievol.controller.settings import ControllerSettings
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.launchers.fake import FakeLauncher
from semievol.ports import JobSpec, JobState, JobStatus

from tests.fake_suite import fake_suite, wait_for
from tests.running import running
from tests.servers import free_port

HELD = "-judge-"


def hold(job: JobSpec) -> JobStatus | None:
    return JobStatus(JobState.RUNNING) if HELD in job.name else None


def follow(heard: list[tuple[str, str]], address: str, run: str) -> None:
    with ControllerClient(address) as client:
        for entry in client.logs(run, follow=True):
            heard.append(entry)


def test_followed_logs_outlive_the_controller(tmp_path: Path) -> None:
    """Between two controllers nobody drives the run, though its record says that it goes on; the job that is held writes under each of them."""
    jobs = FakeLauncher(hold, lasting=True)
    heard: list[tuple[str, str]] = []
    written: list[str] = []
    ordinary = jobs.logs
    jobs.logs = lambda name, start=0: written[start:] if HELD in name else ordinary(name, start)  # type: ignore[method-assign]
    with fake_suite(tmp_path, jobs=jobs) as suite:
        address = f"127.0.0.1:{free_port()}"

        def controller(*, resumes: bool) -> controller_server.Service:
            settings = ControllerSettings(store=suite.store, poll_s=0.01, resume_on_start=resumes)
            return controller_server.service(settings, controller_server.controller(settings, jobs, suite.addresses))

        def held() -> list[str]:
            return [line for job, line in heard if HELD in job]

        with running(controller(resumes=False), address=address), ControllerClient(address) as client:
            run = client.submit(suite.spec()).id
            wait_for(lambda: any(HELD in job.name for job in jobs.submitted))
            follower = threading.Thread(target=follow, args=(heard, address, run))
            follower.start()
            written += ["one", "two"]
            wait_for(lambda: held() == ["one", "two"])
        written += ["three"]
        with running(controller(resumes=False), address=address):  # knows the run from its record alone
            wait_for(lambda: held() == ["one", "two", "three"])
        with running(controller(resumes=True), address=address), ControllerClient(address) as client:
            written += ["four"]
            wait_for(lambda: held() == ["one", "two", "three", "four"])
            assert client.cancel_run(run).state == pb.STATE_CANCELLED
            follower.join(20)
            assert not follower.is_alive()
            assert sorted(heard) == sorted(client.logs(run))
        assert len({job for job, _ in heard}) > 1
