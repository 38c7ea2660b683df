"""The training service as any client sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from semievol.client.training import TrainingClient
from semievol.common import errors
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.launchers.fake import FakeLauncher
from semievol.ports import TrainingSpec, TrainingState
from semievol.training.backends.fake import FakeTrainer
from semievol.training.server import around, service
from semievol.training.settings import TrainingSettings
from semievol.training.v1 import training_service_pb2 as pb
from semievol.training.v1 import training_service_pb2_grpc as pb_grpc

from tests.running import running
from tests.training_runs import Bench

NAME = "semievol.training.v1.TrainingService"
KEY = "a" * 64


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, Path("some-model"))


@pytest.fixture
def trainer(bench: Bench) -> FakeTrainer:
    return FakeTrainer(bench.artifacts, updates=2)


@pytest.fixture
def channel(trainer: FakeTrainer) -> Iterator[grpc.Channel]:
    with running(around(trainer, TrainingSettings(max_watchers=2))) as address, grpc.insecure_channel(address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> pb_grpc.TrainingServiceStub:
    return pb_grpc.TrainingServiceStub(channel)


def request(bench: Bench, **changes: object) -> pb.CreateRunRequest:
    spec = pb.TrainingSpec(**({"base_model": "m", "dataset_uri": bench.dataset()} | changes))  # type: ignore[arg-type]
    return pb.CreateRunRequest(key=KEY, spec=spec)


def test_health_and_reflection_know_the_service(channel: grpc.Channel) -> None:
    response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME), timeout=5)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    assert NAME in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_the_real_service_becomes_healthy_over_its_launcher_and_store(bench: Bench) -> None:
    settings = TrainingSettings(store=bench.store, checkpoints=bench.directory / "checkpoints")
    with running(service(settings, FakeLauncher(), bench.artifacts)) as address, grpc.insecure_channel(address) as channel:
        response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME), timeout=5)
        assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_fields_that_are_not_set_take_the_documented_defaults(
    stub: pb_grpc.TrainingServiceStub, trainer: FakeTrainer, bench: Bench
) -> None:
    stub.CreateRun(request(bench, lora_rank=4))
    assert trainer._runs[KEY].spec == TrainingSpec("m", bench.dataset(), lora_rank=4, lora_alpha=8)


def test_no_warm_up_can_be_asked_for(stub: pb_grpc.TrainingServiceStub, trainer: FakeTrainer, bench: Bench) -> None:
    stub.CreateRun(request(bench, warmup_ratio=0.0))
    assert trainer._runs[KEY].spec.warmup_ratio == 0.0


def test_a_watch_ends_after_the_terminal_state(stub: pb_grpc.TrainingServiceStub, bench: Bench) -> None:
    stub.CreateRun(request(bench))
    runs = [response.run for response in stub.WatchRun(pb.WatchRunRequest(key=KEY), timeout=10)]
    assert [run.state for run in runs] == [pb.RUN_STATE_RUNNING, pb.RUN_STATE_SUCCEEDED]
    assert runs[-1].adapter_uri == f"artifact:{KEY}"


def test_a_failed_run_carries_its_reason(stub: pb_grpc.TrainingServiceStub, trainer: FakeTrainer, bench: Bench) -> None:
    trainer.fail_next = [errors.InvalidInput("Lower the learning rate.", field="spec.learning_rate")]
    stub.CreateRun(request(bench))
    run = stub.GetRun(pb.GetRunRequest(key=KEY)).run
    assert (run.state, run.error, run.error_code) == (pb.RUN_STATE_FAILED, "Lower the learning rate.", "INVALID_ARGUMENT")


def test_an_error_about_a_field_names_the_field(stub: pb_grpc.TrainingServiceStub, bench: Bench) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateRun(request(bench, lora_rank=-2))
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert any(detail.Unpack(bad) for detail in status.details)
    assert bad.field_violations[0].field == "spec.lora_rank"


def test_an_empty_request_is_refused_not_crashed(stub: pb_grpc.TrainingServiceStub) -> None:
    for call, message in ((stub.CreateRun, pb.CreateRunRequest()), (stub.GetRun, pb.GetRunRequest())):
        with pytest.raises(grpc.RpcError) as caught:
            call(message)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def test_a_client_that_goes_away_frees_its_watch(stub: pb_grpc.TrainingServiceStub, trainer: FakeTrainer, bench: Bench) -> None:
    trainer.hold = True
    stub.CreateRun(request(bench))
    for _ in range(6):  # three times as many as there are watchers
        watch = stub.WatchRun(pb.WatchRunRequest(key=KEY), timeout=10)
        assert next(watch).run.state == pb.RUN_STATE_PENDING
        watch.cancel()
        time.sleep(0.1)


def test_one_watch_too_many_is_told_to_come_back(stub: pb_grpc.TrainingServiceStub, trainer: FakeTrainer, bench: Bench) -> None:
    trainer.hold = True
    stub.CreateRun(request(bench))
    watches = [stub.WatchRun(pb.WatchRunRequest(key=KEY), timeout=10) for _ in range(2)]
    for watch in watches:
        next(watch)
    with pytest.raises(grpc.RpcError) as caught:
        next(stub.WatchRun(pb.WatchRunRequest(key=KEY), timeout=10))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    for watch in watches:
        watch.cancel()


def test_calls_are_answered_while_all_watchers_are_busy(
    stub: pb_grpc.TrainingServiceStub, trainer: FakeTrainer, bench: Bench
) -> None:
    trainer.hold = True
    stub.CreateRun(request(bench))
    watches = [stub.WatchRun(pb.WatchRunRequest(key=KEY), timeout=10) for _ in range(2)]
    for watch in watches:
        next(watch)
    assert stub.CancelRun(pb.CancelRunRequest(key=KEY), timeout=5).run.state == pb.RUN_STATE_CANCELLED
    assert [response.run.state for response in watches[0]] == [pb.RUN_STATE_CANCELLED]


def test_a_watch_through_the_client_can_be_cancelled(trainer: FakeTrainer, bench: Bench) -> None:
    cancel = threading.Event()
    trainer.create_run(KEY, bench.spec())
    with running(around(trainer, TrainingSettings())) as address:
        client = TrainingClient(address)
        seen: list[TrainingState] = []
        for state in client.watch_run(KEY, cancel=cancel):
            seen.append(state)
            cancel.set()
        client.close()
    assert len(seen) == 1


def test_an_oversized_message_is_refused_with_a_status(stub: pb_grpc.TrainingServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetRun(pb.GetRunRequest(key="a" * (MAX_MESSAGE_BYTES + 1)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
