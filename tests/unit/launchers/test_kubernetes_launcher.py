"""The launcher `kubernetes` against an API server in memory: what it asks, how often, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.kube import CONFIG_MAP, DEPLOYMENT, EVENT, JOB, Object, Response
from semievol.common.kube_fake import FakeApiServer
from semievol.launchers.kubernetes import KubernetesLauncher
from semievol.launchers.kubernetes_states import waiting_reason
from semievol.ports import JobSpec, JobState, JobStatus, LogPart

from tests.cluster import UNSCHEDULABLE, at_work, ended, held, launcher, pod, terminated

NAME = "demo-1-judge-1"
SPEC = JobSpec(NAME, "a.b:run", ("x",), {"run": "demo"})
GROUP = JobSpec(NAME, "a.b:run", ("{shard}",), {"run": "demo"}, shards=(4, 6), parallelism=2)


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasons are asked for at the first look."""
    monkeypatch.setattr("semievol.launchers.kubernetes._REASON_POLL_S", 0.0)


@pytest.fixture
def jobs(server: FakeApiServer, tmp_path: Path) -> Iterator[KubernetesLauncher]:
    made = launcher(server, tmp_path)
    yield made
    made.close()


def counted(server: FakeApiServer, act: Callable[[], object]) -> int:
    before = len(server.requests)
    act()
    return len(server.requests) - before


def test_a_run_has_one_config_map_that_the_release_owns_and_that_owns_its_jobs(server: FakeApiServer, tmp_path: Path) -> None:
    deployment = server.put(DEPLOYMENT, {"metadata": {"name": "controller", "uid": "d-1"}})
    jobs = launcher(server, tmp_path, owner="controller")
    jobs.submit(SPEC)
    jobs.submit(JobSpec("demo-1-score-1", "a.b:run", (), {"run": "demo"}))
    kube = server.kube()
    (name,) = server.names(CONFIG_MAP)
    run = kube.get(CONFIG_MAP, name)
    assert name == "semievol-run-demo"
    assert run["metadata"]["ownerReferences"][0]["uid"] == deployment["metadata"]["uid"]
    assert run["metadata"]["labels"]["app.kubernetes.io/instance"] == "release"
    for job in kube.list(JOB):
        assert job["metadata"]["ownerReferences"][0]["uid"] == run["metadata"]["uid"]
    jobs.forget_run("demo")
    assert server.names(CONFIG_MAP) == server.names(JOB) == []
    jobs.forget_run("demo")  # again


def test_two_releases_of_one_namespace_do_not_touch_each_others_runs(server: FakeApiServer, tmp_path: Path) -> None:
    """The same run file gives the same run id in both, and so the same names."""
    (tmp_path / "other").mkdir()
    launcher(server, tmp_path).submit(SPEC)
    other = launcher(server, tmp_path / "other")
    file = tmp_path / "other" / "templates.yaml"
    file.write_text(file.read_text().replace("instance: release", "instance: second"))
    with pytest.raises(errors.Conflict, match="The release release has a run demo in this namespace"):
        other.submit(JobSpec("demo-1-score-1", "a.b:run", (), {"run": "demo"}))
    other.forget_run("demo")
    assert server.names(CONFIG_MAP) == ["semievol-run-demo"]
    assert server.names(JOB) == [NAME]


def test_a_job_of_a_run_whose_config_map_was_deleted_gets_a_new_one(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    """With the old one's uid the garbage collector would take the new Job at once."""
    jobs.submit(SPEC)
    server.remove(CONFIG_MAP, "semievol-run-demo")
    jobs.submit(JobSpec("demo-1-score-1", "a.b:run", (), {"run": "demo"}))
    assert server.names(CONFIG_MAP) == ["semievol-run-demo"]


def test_states_are_what_the_jobs_conditions_say(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    at_work(server, NAME)
    assert jobs.state(NAME) == JobStatus(JobState.RUNNING)
    ended(server, NAME)
    assert jobs.state(NAME) == JobStatus(JobState.SUCCEEDED, 0)


def test_a_failed_job_has_its_pods_exit_code_and_last_words(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    pod(server, NAME, **terminated(69, "The embedding service is down.\n"))
    ended(server, NAME, failed="BackoffLimitExceeded")
    assert jobs.state(NAME) == JobStatus(JobState.FAILED, 69, "The embedding service is down.")


def test_of_a_group_the_error_that_no_retry_can_help_comes_first(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(GROUP)
    pod(server, NAME, f"{NAME}-0-a", index=0, **terminated(69, "down"))
    pod(server, NAME, f"{NAME}-1-a", index=1, **terminated(64, "no rows"))
    ended(server, NAME, failed="PodFailurePolicy")
    assert jobs.state(NAME) == JobStatus(JobState.FAILED, 64, "no rows")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (terminated(137, reason="OOMKilled"), 137, "memory"),
        (terminated(137), 137, "signal 9"),
        ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}, 137, "low on memory"),
        (
            terminated(143)
            | {"conditions": [{"type": "DisruptionTarget", "status": "True", "message": "preempted by a more important pod"}]},
            137,
            "preempted",
        ),
        (None, 137, "gone without a word"),
    ],
    ids=["memory", "killed", "evicted", "preempted", "gone"],
)
def test_a_pod_that_could_not_speak_is_spoken_for(
    server: FakeApiServer, jobs: KubernetesLauncher, status: Object | None, code: int, words: str
) -> None:
    jobs.submit(SPEC)
    if status:
        pod(server, NAME, **status)
    ended(server, NAME, failed="BackoffLimitExceeded", message="too many failures")
    found = jobs.state(NAME)
    assert (found.state, found.exit_code) == (JobState.FAILED, code)
    assert words in found.message


def test_a_job_whose_time_is_up_may_be_tried_again(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    ended(server, NAME, failed="DeadlineExceeded", message="longer than 60 s")
    assert jobs.state(NAME).exit_code == errors.DeadlineExceeded.exit_code


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (UNSCHEDULABLE, "Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."),
        (
            held("ImagePullBackOff", 'Back-off pulling image "nowhere/x:1"'),
            'ImagePullBackOff: Back-off pulling image "nowhere/x:1"',
        ),
        (held("CreateContainerConfigError", 'secret "s3" not found'), 'CreateContainerConfigError: secret "s3" not found'),
        (held("ContainerCreating"), ""),
        ({"phase": "Running"}, ""),
        (terminated(64, "no rows"), ""),
    ],
    ids=["scheduler", "image", "secret", "soon", "runs", "over"],
)
def test_what_holds_a_pod_up_is_told_in_the_clusters_own_words(status: Object, words: str) -> None:
    assert waiting_reason({"status": status}) == words


def test_a_job_that_waits_says_why_and_one_that_runs_does_not(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    at_work(server, NAME, ready=0)
    pod(server, NAME, **UNSCHEDULABLE)
    assert "Insufficient nvidia.com/gpu" in jobs.state(NAME).reason
    at_work(server, NAME)
    assert jobs.state(NAME).reason == ""


def test_a_queue_that_has_not_admitted_a_job_is_named(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    assert "suspended until its queue admits it" in jobs.state(NAME).reason


def test_a_quota_that_forbids_pods_is_told_from_the_jobs_events(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    at_work(server, NAME, active=0, ready=0)
    (job,) = server.kube().list(JOB)
    about = {"involvedObject": {"uid": job["metadata"]["uid"]}, "reason": "FailedCreate", "lastTimestamp": "2026-11-23T12:00:00Z"}
    server.put(EVENT, {"metadata": {"name": "e-1"}, "message": "Error creating: exceeded quota: small", **about})
    assert jobs.state(NAME).reason == "Error creating: exceeded quota: small"


def test_a_job_that_its_time_to_live_took_away_stays_what_it_was_and_does_not_run_again(
    server: FakeApiServer, jobs: KubernetesLauncher
) -> None:
    jobs.submit(SPEC)
    ended(server, NAME)
    jobs.state(NAME)
    server.remove(JOB, NAME)
    assert jobs.state(NAME) == JobStatus(JobState.SUCCEEDED, 0)
    jobs.submit(SPEC)
    assert server.names(JOB) == []


def test_a_deleted_job_is_unknown(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    at_work(server, NAME)
    jobs.state(NAME)
    server.remove(JOB, NAME)
    assert jobs.state(NAME) == JobStatus(JobState.UNKNOWN)


def test_a_controller_that_starts_anew_adopts_the_job_that_does_the_same_and_no_other(
    server: FakeApiServer, jobs: KubernetesLauncher, tmp_path: Path
) -> None:
    jobs.submit(SPEC)
    other = launcher(server, tmp_path)
    other.submit(SPEC)
    assert other.state(NAME).state is JobState.RUNNING
    with pytest.raises(errors.AlreadyExists):
        other.submit(JobSpec(NAME, "a.b:run", ("y",), {"run": "demo"}))
    assert server.names(JOB) == [NAME]


def test_one_list_serves_all_who_ask_within_the_interval(server: FakeApiServer, tmp_path: Path) -> None:
    jobs = launcher(server, tmp_path, poll_s=60)
    names = [f"demo-1-infer-{number}" for number in range(50)]
    for name in names:
        jobs.submit(JobSpec(name, "a.b:run", (), {}))
    assert counted(server, lambda: [jobs.state(name) for name in names]) == 1
    for name in names:
        at_work(server, name)
    assert counted(server, lambda: [jobs.state(name) for _ in range(10) for name in names]) == 0
    assert {jobs.state(name).state for name in names} == {JobState.RUNNING}


def test_while_the_api_is_away_what_ran_is_taken_to_run_on_and_says_so(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    at_work(server, NAME)
    assert jobs.state(NAME).reason == ""
    server.down = True
    assert jobs.state(NAME).state is JobState.RUNNING
    assert "does not answer" in jobs.state(NAME).reason
    with pytest.raises(errors.Unavailable):
        jobs.submit(GROUP)
    server.down = False
    ended(server, NAME)
    assert jobs.state(NAME).state is JobState.SUCCEEDED


def test_a_pod_whose_token_counts_no_more_says_nothing_about_its_jobs(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    """A pod that is deleted by force goes on for a while, and the API server knows it no more. Its runs go on with the next one."""
    jobs.submit(SPEC)
    at_work(server, NAME)
    assert jobs.state(NAME).state is JobState.RUNNING
    server.answers = [Response(401, b'{"kind": "Status", "reason": "Unauthorized", "message": "Unauthorized"}')]
    status = jobs.state(NAME)
    assert (status.state, "does not answer" in status.reason) == (JobState.RUNNING, True)
    server.answers = [Response(401, b"Unauthorized")]
    with pytest.raises(errors.NotTrusted, match="credentials"):
        jobs.submit(GROUP)


def test_what_a_role_or_a_quota_forbids_is_told_in_the_clusters_words(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    server.answers = [Response(403, b'{"kind": "Status", "reason": "Forbidden", "message": "jobs is forbidden: exceeded quota"}')]
    with pytest.raises(errors.NotAllowed, match="exceeded quota"):
        jobs.state(NAME)


def test_a_cancelled_job_is_deleted_with_its_pods_and_has_failed(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(SPEC)
    at_work(server, NAME)
    jobs.cancel(NAME)
    assert server.names(JOB) == []
    (deleted,) = [request.body for request in server.requests if request.method == "DELETE"]
    assert deleted is not None
    assert deleted["propagationPolicy"] == "Foreground"
    assert deleted["preconditions"]["uid"]
    assert jobs.state(NAME) == JobStatus(JobState.FAILED, 130, "The job was cancelled.")


def test_lines_are_numbered_as_they_come_though_the_api_counts_by_time(
    server: FakeApiServer, jobs: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semievol.launchers.kubernetes_logs._PAUSE_S", 0.0)
    jobs.submit(SPEC)
    at_work(server, NAME)
    assert jobs.logs(NAME) == []  # no pod yet
    name = pod(server, NAME)
    assert jobs.logs(NAME) == []  # not begun
    second = "2026-11-23T12:00:0"
    server.logs[name] = f"{second}0.1Z one\n{second}0.2Z two\n{second}0.3Z beg"
    assert jobs.logs(NAME) == ["one", "two"]
    server.logs[name] = f"{second}0.1Z one\n{second}0.2Z two\n{second}0.3Z began\n{second}1.1Z three\n{second}1.1Z three\n"
    assert jobs.logs(NAME, 2) == ["began", "three", "three"]
    server.logs[name] += f"{second}1.1Z four\n{second}2.0Z without an end"
    pod(server, NAME, **terminated(0))
    ended(server, NAME)
    assert jobs.logs(NAME, 5) == ["four", "without an end"]
    asked = len(server.requests)
    assert jobs.logs(NAME)[-1] == "without an end"
    assert not [request for request in server.requests[asked:] if request.path.endswith("/log")]


def test_another_process_goes_on_behind_a_position_of_this_one(
    server: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions are for pods and times: the next process reads the pods' lines in another order, and some of them are new."""
    monkeypatch.setattr("semievol.launchers.kubernetes_logs._PAUSE_S", 0.0)
    first = launcher(server, tmp_path)
    first.submit(GROUP)
    at_work(server, NAME)
    second = "2026-11-23T12:00:0"
    a, b = (pod(server, NAME, f"{NAME}-{index}-a", index=index) for index in (0, 1))
    server.logs = {b: f"{second}0.1Z b1\n"}
    assert first.log_part(NAME).lines == ["shard 6: b1"]
    server.logs |= {a: f"{second}0.2Z a1\n{second}0.2Z a2\n"}
    part = first.log_part(NAME)
    assert part.lines == ["shard 6: b1", "shard 4: a1", "shard 4: a2"]
    server.logs[a] += f"{second}0.2Z a3\n{second}1.0Z a4\n"
    server.logs[b] += f"{second}1.5Z b2\n"
    other = launcher(server, tmp_path)
    following = other.log_part(NAME, part.position)
    assert following.lines == ["shard 4: a3", "shard 4: a4", "shard 6: b2"]
    assert other.log_part(NAME, following.position).lines == []
    assert first.log_part(NAME, part.position) == following
    assert len(other.log_part(NAME).lines) == 6


def test_a_position_that_is_ahead_of_what_was_read_here_stays(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    """The pod's log cannot be read at the moment: nothing comes twice when it can."""
    jobs.submit(SPEC)
    at_work(server, NAME)
    name = pod(server, NAME)
    position = f'{{"{name}":["2026-11-23T12:00:01",2]}}'
    assert jobs.log_part(NAME, position) == LogPart([], position)
    assert jobs.log_part("another", position) == LogPart([], position)


@pytest.mark.parametrize("position", ["7", "[]", "{", '{"a":1}', '{"a":["b","c"]}'])
def test_what_is_no_position_is_refused(jobs: KubernetesLauncher, position: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        jobs.log_part(NAME, position)
    assert caught.value.field == "positions"


def test_a_log_that_is_larger_than_one_answer_is_read_to_its_end(
    server: FakeApiServer, jobs: KubernetesLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty lines of one second, and some of the next: more than an answer holds, and more than it holds of one second."""
    monkeypatch.setattr("semievol.launchers.kubernetes_logs.LOG_BYTES", 100)
    jobs.submit(SPEC)
    at_work(server, NAME)
    name = pod(server, NAME, **terminated(0))
    moments = ["2026-11-23T12:00:00.5Z"] * 20 + ["2026-11-23T12:00:01.5Z"] * 9 + ["2026-11-23T12:00:02.5Z"]
    server.logs[name] = "\n".join(f"{moment} line {number}" for number, moment in enumerate(moments))
    ended(server, NAME)
    assert jobs.logs(NAME) == [f"line {number}" for number in range(30)]


def test_lines_of_a_group_name_their_shard(server: FakeApiServer, jobs: KubernetesLauncher) -> None:
    jobs.submit(GROUP)
    for index in (1, 0):
        name = pod(server, NAME, f"{NAME}-{index}-a", index=index, **terminated(0))
        server.logs[name] = f"2026-11-23T12:00:00.1Z of index {index}\n"
    ended(server, NAME)
    assert jobs.logs(NAME) == ["shard 4: of index 0", "shard 6: of index 1"]
