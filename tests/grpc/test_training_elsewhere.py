"""Training by an endpoint, as a client of the training service sees it: one job a key, whatever happens. The endpoint is a double of its
public API (tests/servers/openai_tuning.py)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from semievol.client.training import TrainingClient
from semievol.common import errors
from semievol.common.artifacts import blob_path
from semievol.generation.backends.fake import FakeEngine
from semievol.launchers.inline import InlineLauncher
from semievol.ports import TrainingState
from semievol.training.backends.openai import cancel_job
from semievol.training.core import TrainingService
from semievol.training.server import around
from semievol.training.settings import TrainingSettings

from tests.fake_suite import wait_for
from tests.running import running
from tests.servers.openai_tuning import EXPIRED, JOBS, TuningDouble, refusal
from tests.servers.web import Answer, Call
from tests.training_runs import Bench, records

KEY = "a" * 64
FIRST = f"{JOBS}/ftjob-1"
JOB_RECORD = f"training/{KEY}/remote-1.job.json"


@pytest.fixture
def endpoint() -> Iterator[TuningDouble]:
    with TuningDouble(FakeEngine(base="small-model")).running() as double:
        yield double


@pytest.fixture
def bench(tmp_path: Path, endpoint: TuningDouble) -> Bench:
    return Bench(tmp_path, "small-model", endpoint.endpoint)


@contextmanager
def service(bench: Bench, **options: Any) -> Iterator[TrainingClient]:
    """A client of a training service over the bench's store; entered again, it is the service after a restart."""
    launcher = InlineLauncher()
    trainer = TrainingService(bench.artifacts, launcher, bench.options(**options), poll_s=0.02, cancel_elsewhere=cancel_job)
    try:
        with running(around(trainer, TrainingSettings())) as address:
            client = TrainingClient(address)
            yield client
            client.close()
    finally:
        launcher.close()


@pytest.fixture
def client(bench: Bench) -> Iterator[TrainingClient]:
    with service(bench) as client:
        yield client


def train(client: TrainingClient, bench: Bench, **changes: object) -> TrainingState:
    """Asks for the key and waits for the end."""
    client.create_run(KEY, bench.spec(**changes))
    return list(client.watch_run(KEY))[-1]


def published(bench: Bench, path: str) -> Any:
    manifest = bench.artifacts.manifest(KEY)
    assert manifest is not None
    return json.loads(bench.artifacts.read(manifest.file(path)))


# ---------------------------------------------------------------- what is asked and what is published


def test_the_examples_go_there_as_chats_and_the_models_name_comes_back(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    state = train(client, bench, seed=2**40 + 7)
    assert (state.state, state.step, state.total_steps) == ("succeeded", 3, 3)
    assert state.loss == pytest.approx(1 / 3)
    manifest = bench.artifacts.manifest(KEY)
    assert manifest is not None
    assert {file.path for file in manifest.files} == {"openai_model.json", "training_log.json", "README.md"}
    model = f"ft:small-model:tests:semievol-{KEY[:8]}:1"
    told = {"model": model, "base": "small-model", "job": "ftjob-1", "endpoint": endpoint.endpoint}
    assert published(bench, "openai_model.json") == told
    (chats,) = endpoint.files.values()
    first, record = json.loads(chats.splitlines()[0])["messages"], records(1)[0]
    assert first == [*record["prompt"], {"role": "assistant", "content": record["completion"]}]  # type: ignore[misc]
    (asked,) = [call.json() for call in endpoint.called(JOBS)]
    assert asked["metadata"] == {"semievol_key": KEY, "semievol_number": "1"}
    assert (asked["model"], asked["training_file"], asked["seed"]) == ("small-model", "file-1", 7)
    hyperparameters = asked["method"]["supervised"]["hyperparameters"]
    assert hyperparameters == {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 100.0}


def test_at_the_papers_rate_the_endpoint_chooses(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    assert train(client, bench, learning_rate=1e-4).state == "succeeded"
    (asked,) = [call.json() for call in endpoint.called(JOBS)]
    assert asked["method"]["supervised"]["hyperparameters"] == {"n_epochs": 2, "batch_size": 8}


def test_updates_and_loss_are_told_as_they_come(client: TrainingClient, bench: Bench) -> None:
    client.create_run(KEY, bench.spec())
    states = list(client.watch_run(KEY))
    told = [(state.step, round(state.loss, 2)) for state in states if state.state == "running"]
    assert told == sorted(told)
    assert set(told) <= {(1, 1.0), (2, 0.5), (3, 0.33)}
    assert states[-1].state == "succeeded"


def test_a_model_that_is_not_served_at_once_is_waited_for(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.late_listings = 3
    assert train(client, bench).state == "succeeded"
    assert len(endpoint.called("/v1/models")) >= 3


# ---------------------------------------------------------------- one key, one job


def test_a_service_that_is_started_again_finds_its_job(bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.hold = True
    with service(bench) as before:
        before.create_run(KEY, bench.spec())
        wait_for(lambda: endpoint.created == 1 and bench.artifacts.store.size(JOB_RECORD) is not None)
    assert endpoint.jobs["ftjob-1"].body["status"] != "cancelled"  # it costs money, and nobody wanted it cancelled
    endpoint.hold = False
    with service(bench) as after:
        assert train(after, bench).state == "succeeded"
    assert (endpoint.created, endpoint.uploads) == (1, 1)


@pytest.mark.parametrize("keeps_metadata", [True, False])
def test_a_crash_between_creating_the_job_and_recording_it_makes_no_second_one(
    bench: Bench, endpoint: TuningDouble, keeps_metadata: bool
) -> None:
    endpoint.hold, endpoint.keeps_metadata = True, keeps_metadata
    with service(bench) as before:
        before.create_run(KEY, bench.spec())
        wait_for(lambda: bench.artifacts.store.size(JOB_RECORD) is not None)
    bench.artifacts.store.delete(JOB_RECORD)  # as if the process had died before it wrote this
    endpoint.hold = False
    with service(bench) as after:
        assert train(after, bench).state == "succeeded"
    assert (endpoint.created, endpoint.uploads) == (1, 1)
    assert published(bench, "openai_model.json")["job"] == "ftjob-1"


def test_a_job_whose_creation_was_not_answered_is_found(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.lost_answers = 1
    assert train(client, bench).state == "succeeded"
    assert endpoint.created == 1


def test_of_two_attempts_that_create_a_job_one_counts_and_the_other_cancels_its_own(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    right = endpoint.answer

    def raced(call: Call) -> Answer:
        if (call.method, call.path) == ("POST", JOBS) and endpoint.created == 0:
            right(call)  # the other's, recorded just before ours
            bench.artifacts.store.create(JOB_RECORD, json.dumps({"job": "ftjob-1"}).encode())
        return right(call)

    endpoint.answer = raced  # type: ignore[method-assign]
    assert train(client, bench).state == "succeeded"
    assert [job.body["status"] for job in endpoint.jobs.values()] == ["succeeded", "cancelled"]
    assert published(bench, "openai_model.json")["job"] == "ftjob-1"


def test_a_result_that_is_damaged_is_told_again_without_another_job(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    train(client, bench)
    first = bench.artifacts.manifest(KEY)
    assert first is not None
    Path(bench.store, blob_path(first.file("openai_model.json").sha256)).write_bytes(b"{}")
    assert train(client, bench).state == "succeeded"
    bench.artifacts.distrust()
    assert bench.artifacts.manifest(KEY) == first
    assert endpoint.created == 1


def test_a_model_that_was_deleted_there_is_trained_anew_when_its_step_is_done_again(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    train(client, bench)
    endpoint.forget(published(bench, "openai_model.json")["model"])
    endpoint.jobs["ftjob-1"].body["finished_at"] = 2  # in 1970
    bench.artifacts.forget(KEY, None)
    assert train(client, bench).state == "succeeded"
    assert (endpoint.created, published(bench, "openai_model.json")["job"]) == (2, "ftjob-2")


def test_a_model_that_is_still_not_served_is_no_reason_for_another_job(bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.late_listings = 10**6
    with service(bench, endpoint_patience_s=2.0) as client:
        state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "UNAVAILABLE")
    assert "does not serve it yet" in state.error
    endpoint.names.append(f"ft:small-model:tests:semievol-{KEY[:8]}:1")
    with service(bench) as client:
        assert train(client, bench).state == "succeeded"
    assert endpoint.created == 1


# ---------------------------------------------------------------- cancelling


def test_cancelling_the_run_cancels_the_job_there(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.hold = True
    client.create_run(KEY, bench.spec())
    wait_for(lambda: endpoint.created == 1)
    assert client.cancel_run(KEY).state == "cancelled"
    assert endpoint.jobs["ftjob-1"].body["status"] == "cancelled"
    endpoint.hold = False
    assert train(client, bench).state == "succeeded"
    assert (endpoint.created, published(bench, "openai_model.json")["job"]) == (2, "ftjob-2")


def test_a_job_that_somebody_cancelled_there_is_not_created_again_unasked(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    endpoint.hold = True
    client.create_run(KEY, bench.spec())
    wait_for(lambda: endpoint.created == 1)
    endpoint.jobs["ftjob-1"].body["status"] = "cancelled"
    state = list(client.watch_run(KEY))[-1]
    assert (state.state, state.error_code) == ("failed", "FAILED_PRECONDITION")
    assert "ftjob-1" in state.error
    assert "was cancelled there" in state.error
    endpoint.hold = False
    assert train(client, bench).state == "succeeded"
    assert endpoint.created == 2


def test_a_job_that_vanishes_is_named_and_not_created_again_unasked(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    endpoint.fail(FIRST, refusal(404, "No fine-tuning job: ftjob-1", None, "fine_tune_id"))
    state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "FAILED_PRECONDITION")
    assert f"ftjob-1 at {endpoint.endpoint} is gone" in state.error
    assert endpoint.created == 1
    assert train(client, bench).state == "succeeded"
    assert endpoint.created == 2


# ---------------------------------------------------------------- what goes wrong there


def test_a_failed_job_gives_its_own_reason_and_another_try_is_another_job(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    endpoint.errors.append({"code": "unsafe_content", "message": "The training data was flagged.", "param": None})
    state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "INVALID_ARGUMENT")
    assert "ftjob-1" in state.error
    assert "The training data was flagged (unsafe_content)" in state.error
    assert train(client, bench).state == "succeeded"
    assert endpoint.created == 2


def test_a_failure_of_the_endpoints_own_may_be_tried_again(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.errors.append({"code": "server_error", "message": "The job failed due to an internal error.", "param": None})
    assert train(client, bench).error_code == "UNAVAILABLE"


@pytest.mark.parametrize("again", [1, 2])
def test_a_training_file_that_is_gone_is_uploaded_again_once(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble, again: int
) -> None:
    endpoint.lost_files = again
    state = train(client, bench)
    assert endpoint.uploads == 2
    if again == 1:
        assert (state.state, endpoint.created) == ("succeeded", 1)
    else:
        assert (state.state, state.error_code, endpoint.created) == ("failed", "FAILED_PRECONDITION", 0)
        assert "twice, at last the training file file-2" in state.error


def test_a_training_file_that_expires_before_it_is_read_is_uploaded_again(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    endpoint.errors.append(EXPIRED)
    assert train(client, bench).state == "succeeded"
    assert (endpoint.uploads, endpoint.created) == (2, 2)


def test_a_training_file_that_is_refused_is_bad_input_with_the_reason(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    state = train(client, bench, dataset_uri=bench.dataset(records(3), name="few"))
    assert (state.state, state.error_code) == ("failed", "INVALID_ARGUMENT")
    assert "has 3 example(s), but must have at least 10 examples (invalid_n_examples, training_file)" in state.error
    assert endpoint.uploads == 1


def test_a_parameter_that_is_refused_is_named_by_its_key(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    state = train(client, bench, epochs=90.0)
    assert (state.state, state.error_code) == ("failed", "INVALID_ARGUMENT")
    assert "refuses to create the fine-tuning job (train.epochs): 90 is greater than the maximum of 50" in state.error
    assert endpoint.created == 0


def test_a_model_that_cannot_be_trained_is_named(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.trains = ["another"]
    state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "NOT_FOUND")
    assert "cannot fine-tune this model: Model small-model is not available" in state.error


def test_a_wrong_key_is_not_allowed_and_not_shown(bench: Bench, endpoint: TuningDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.api_key = "right"
    monkeypatch.setenv("SEMIEVOL_OPENAI_API_KEY", "hidden")
    with service(bench) as client:
        state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "PERMISSION_DENIED")
    assert "SEMIEVOL_OPENAI_API_KEY_FILE" in state.error
    assert "hidden" not in state.error


def test_an_endpoint_that_is_overloaded_is_asked_again_when_it_says(
    client: TrainingClient, bench: Bench, endpoint: TuningDouble
) -> None:
    busy = refusal(429, "Rate limit reached: 3 active fine-tuning jobs", "rate_limit_exceeded", Retry_After="0.3")
    endpoint.fail(JOBS, busy, busy)
    endpoint.fail(FIRST, busy)
    endpoint.fail("/v1/files", busy)
    assert train(client, bench).state == "succeeded"
    assert (endpoint.created, endpoint.uploads) == (1, 1)
    assert len(endpoint.called(JOBS)) == 3


def test_an_endpoint_that_stays_overloaded_says_so(bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.fail(JOBS, refusal(429, "Too many jobs", "rate_limit_exceeded", Retry_After="60"))
    with service(bench, endpoint_patience_s=1.0) as client:
        state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "RESOURCE_EXHAUSTED")
    assert "Too many jobs" in state.error


def test_a_key_without_money_is_told_at_once(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.fail(JOBS, refusal(429, "You exceeded your current quota", "insufficient_quota"))
    state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "PERMISSION_DENIED")
    assert "insufficient_quota" in state.error


def test_errors_of_the_server_do_not_end_the_run(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.fail(FIRST, *[Answer(500, {"error": {"message": "oops"}})] * 5)  # one more than the client itself outlives
    endpoint.fail(JOBS, Answer(503))
    assert train(client, bench).state == "succeeded"
    assert endpoint.created == 1


def test_an_endpoint_that_goes_away_for_a_while_is_waited_for(bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.hold = True
    with service(bench) as client:
        client.create_run(KEY, bench.spec())
        wait_for(lambda: endpoint.created == 1)
        endpoint.die()
        endpoint.hold = False
        threading.Timer(0.5, endpoint.start).start()
        assert list(client.watch_run(KEY))[-1].state == "succeeded"
    assert endpoint.created == 1


def test_what_is_no_fine_tuning_api_is_told(client: TrainingClient, bench: Bench, endpoint: TuningDouble) -> None:
    endpoint.fail("/v1/files", Answer(404, {"detail": "Not Found"}))
    state = train(client, bench)
    assert (state.state, state.error_code) == ("failed", "NOT_FOUND")
    assert "was asked to take the training file, and has no such path or object: Not Found" in state.error


# ---------------------------------------------------------------- what the service refuses by itself


def test_another_endpoint_than_the_services_is_refused(client: TrainingClient, bench: Bench) -> None:
    with pytest.raises(errors.Conflict, match="SEMIEVOL_TRAINING_ENDPOINT=http://elsewhere/v1") as caught:
        client.create_run(KEY, bench.spec(endpoint="http://elsewhere/v1"))
    assert caught.value.field == "spec.endpoint"


def test_a_service_without_an_endpoint_trains_nowhere_else(bench: Bench) -> None:
    with service(bench, endpoint="") as client, pytest.raises(errors.Conflict, match="this training service trains here"):
        client.create_run(KEY, bench.spec())


def test_a_part_of_an_epoch_is_refused(client: TrainingClient, bench: Bench) -> None:
    with pytest.raises(errors.InvalidInput, match="whole epochs") as caught:
        client.create_run(KEY, bench.spec(epochs=1.5))
    assert caught.value.field == "spec.epochs"
