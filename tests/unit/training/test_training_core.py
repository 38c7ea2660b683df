"""Runs, attempts and records over a scripted launcher."""

from __future__ import annotations

from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.artifacts import Manifest
from semievol.launchers.fake import FakeLauncher
from semievol.ports import JobState, JobStatus, TrainingSpec
from semievol.training import core
from semievol.training.core import TRAINING_LOG, TrainingService, job_name

from tests.training_runs import Bench

KEY = "c" * 64
RUNNING = JobStatus(JobState.RUNNING)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Path("some-model"))


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher(lambda job: RUNNING)


@pytest.fixture
def service(bench: Bench, launcher: FakeLauncher) -> TrainingService:
    return TrainingService(bench.artifacts, launcher, bench.options(), poll_s=0.01)


def publish(bench: Bench) -> None:
    files = {TRAINING_LOG: b'{"loss":[2.0,1.5]}'}
    bench.artifacts.publish(Manifest(KEY, "train/1", {}, {}, ()), dict(files))


def test_the_same_key_twice_is_one_job(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    spec = bench.spec()
    service.create_run(KEY, spec)
    assert service.create_run(KEY, spec).state == "pending"
    assert [job.name for job in launcher.submitted] == [f"train-{KEY[:12]}-1"]


def test_a_new_service_over_the_same_store_finds_the_job_again(
    service: TrainingService, launcher: FakeLauncher, bench: Bench
) -> None:
    service.create_run(KEY, bench.spec())
    again = TrainingService(bench.artifacts, launcher, bench.options())
    assert again.create_run(KEY, bench.spec()).state == "pending"
    assert len(launcher.submitted) == 1


def test_the_same_bytes_in_another_artifact_are_the_same_spec(
    service: TrainingService, launcher: FakeLauncher, bench: Bench
) -> None:
    service.create_run(KEY, bench.spec())
    service.create_run(KEY, bench.spec(dataset_uri=bench.dataset(name="a copy")))
    assert len(launcher.submitted) == 1


def test_a_published_adapter_is_success_whatever_became_of_the_job(
    service: TrainingService, launcher: FakeLauncher, bench: Bench
) -> None:
    service.create_run(KEY, bench.spec())
    publish(bench)
    launcher.lose(job_name(KEY, 1))
    state = service.get_run(KEY)
    assert (state.state, state.step, state.loss, state.adapter_uri) == ("succeeded", 2, 1.5, f"artifact:{KEY}")
    assert service.create_run(KEY, bench.spec()).state == "succeeded"
    assert len(launcher.submitted) == 1


def test_an_adapter_that_is_there_already_starts_no_job(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    publish(bench)
    assert service.create_run(KEY, bench.spec()).state == "succeeded"
    assert launcher.submitted == []


def test_a_lost_job_is_a_failure_and_may_be_started_again(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    service.create_run(KEY, bench.spec())
    launcher.lose(job_name(KEY, 1))
    state = service.get_run(KEY)
    assert (state.state, state.error_code) == ("failed", "UNAVAILABLE")
    assert "create the run again" in state.error
    service.create_run(KEY, bench.spec())
    assert [job.name for job in launcher.submitted] == [job_name(KEY, 1), job_name(KEY, 2)]


def test_a_failure_on_record_outlives_its_job(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    service.create_run(KEY, bench.spec())
    core.record_ending(bench.artifacts.store, KEY, 1, errors.InvalidInput("Too hot.", field="spec.learning_rate"))
    launcher.lose(job_name(KEY, 1))
    state = service.get_run(KEY)
    assert (state.state, state.error, state.error_code) == ("failed", "Too hot.", "INVALID_ARGUMENT")


def test_a_job_that_ended_well_but_published_nothing_has_failed(
    service: TrainingService, launcher: FakeLauncher, bench: Bench
) -> None:
    service.create_run(KEY, bench.spec())
    launcher.finish(job_name(KEY, 1))
    assert service.get_run(KEY).error_code == "DATA_LOSS"


def test_a_cancelled_run_is_on_record_and_a_new_attempt_has_a_new_name(
    service: TrainingService, launcher: FakeLauncher, bench: Bench
) -> None:
    service.create_run(KEY, bench.spec())
    assert service.cancel_run(KEY).state == "cancelled"
    launcher.lose(job_name(KEY, 1))
    assert service.get_run(KEY).state == "cancelled"
    assert service.create_run(KEY, bench.spec()).state == "pending"
    assert launcher.submitted[-1].name == job_name(KEY, 2)


def test_a_submission_that_is_refused_can_be_repeated(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    launcher.refuse_next = 1
    with pytest.raises(errors.Unavailable):
        service.create_run(KEY, bench.spec())
    assert service.get_run(KEY).state == "failed"
    assert service.create_run(KEY, bench.spec()).state == "pending"


def test_progress_comes_from_the_jobs_log(bench: Bench) -> None:
    class Logging(FakeLauncher):
        lines: tuple[str, ...] = ()

        def logs(self, name: str, start: int = 0) -> list[str]:
            return list(self.lines[start:])

    launcher = Logging(lambda job: RUNNING)
    service = TrainingService(bench.artifacts, launcher, bench.options())
    service.create_run(KEY, bench.spec())
    launcher.lines = ('{"progress": {"step": 1, "total_steps": 4, "loss": 2.5, "unknown": 1}}', "{not json", "INFO hello")
    assert service.get_run(KEY) == core.TrainingState(KEY, "running", step=1, total_steps=4, loss=2.5)
    launcher.lines += ('{"progress": {"step": 2, "total_steps": 4, "loss": 2.0, "tokens_per_s": 10.0, "eta_s": 3.0}}',)
    assert service.get_run(KEY) == core.TrainingState(KEY, "running", 2, 4, 2.0, 10.0, 3.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"epochs": float("nan")},
        {"learning_rate": -1},
        {"learning_rate": float("inf")},
        {"lora_rank": 513},
        {"lora_rank": 0},
        {"lora_alpha": 0},
        {"batch_size": 0},
        {"gradient_accumulation": -3},
        {"max_tokens": 0},
        {"warmup_ratio": 1.1},
        {"base_model": ""},
    ],
)
def test_a_bad_value_is_refused_with_its_fields_name(changes: dict[str, object]) -> None:
    spec = TrainingSpec(**({"base_model": "m", "dataset_uri": "d"} | changes))  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput) as caught:
        core.check(KEY, spec)
    assert caught.value.field == f"spec.{next(iter(changes))}"


def test_a_job_belongs_to_the_run_that_wants_it(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    service.create_run(KEY, bench.spec(), run="demo-1")
    service.create_run(KEY, bench.spec(), run="another")  # the same work: the same job
    assert [job.labels["run"] for job in launcher.submitted] == ["demo-1"]


def test_what_holds_a_job_up_is_told_until_it_is_at_work(service: TrainingService, launcher: FakeLauncher, bench: Bench) -> None:
    service.create_run(KEY, bench.spec())
    launcher.hold(job_name(KEY, 1), "Unschedulable: 1 Insufficient nvidia.com/gpu.")
    state = service.get_run(KEY)
    assert (state.state, state.waiting_reason) == ("pending", "Unschedulable: 1 Insufficient nvidia.com/gpu.")
    launcher.finish(job_name(KEY, 1), 69, "gone")
    assert service.get_run(KEY).waiting_reason == ""
