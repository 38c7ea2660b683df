"""What every Trainer does: the fake, the service with real jobs on a tiny model and on an endpoint that trains (a double), and the gRPC client in
front of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from semievol.client.training import TrainingClient
from semievol.common import errors
from semievol.common.artifacts import blob_path
from semievol.common.keys import content_key
from semievol.common.trained_models import naming_file
from semievol.generation.backends.fake import FakeEngine
from semievol.launchers.inline import InlineLauncher
from semievol.ports import Trainer, TrainingSpec
from semievol.training.backends.fake import FakeTrainer
from semievol.training.backends.openai import cancel_job
from semievol.training.core import TrainingService
from semievol.training.server import around
from semievol.training.settings import TrainingSettings

from tests.running import running
from tests.servers.openai_tuning import TuningDouble
from tests.training_runs import Bench
from tests.waiting import wait_until

LONG = 5000.0  # epochs: nobody waits for the end


@dataclass
class Subject:
    """A trainer over a bench; `numbers` gives fresh keys."""

    trainer: Trainer
    bench: Bench
    count: int = 0

    @property
    def elsewhere(self) -> bool:
        """Whether an endpoint trains."""
        return bool(self.bench.endpoint)

    def key(self) -> str:
        self.count += 1
        return content_key(["run", self.count])

    def begin_anew(self, key: str, spec: TrainingSpec) -> None:
        """Asks for a run whose adapter is lost. The job that published it may take a moment to end, and the run is running until then."""
        wait_until(lambda: self.trainer.create_run(key, spec).state == "pending")


@contextmanager
def backend(kind: str, bench: Bench) -> Iterator[Trainer]:
    if "fake" in kind:
        yield FakeTrainer(bench.artifacts, updates=3)
        return
    launcher = InlineLauncher()
    try:
        yield TrainingService(bench.artifacts, launcher, bench.options(), poll_s=0.02, cancel_elsewhere=cancel_job)
    finally:
        launcher.close()


@pytest.fixture(scope="module", params=["fake", "client-fake", "peft", "client-peft", "openai", "client-openai"])
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    with ExitStack() as stack:
        if request.param.endswith("openai"):
            endpoint = stack.enter_context(TuningDouble(FakeEngine(base="small-model"), max_epochs=int(LONG)).running())
            bench = Bench(tmp_path_factory.mktemp("trainer"), "small-model", endpoint.endpoint)
        else:
            bench = Bench(tmp_path_factory.mktemp("trainer"), request.getfixturevalue("word_model"))
        trainer = stack.enter_context(backend(request.param, bench))
        if request.param.startswith("client"):
            address = stack.enter_context(running(around(trainer, TrainingSettings())))
            trainer = stack.enter_context(closing(TrainingClient(address)))
        yield Subject(trainer, bench)


def test_a_run_goes_from_pending_to_succeeded_and_publishes_a_model(subject: Subject) -> None:
    key = subject.key()
    assert subject.trainer.create_run(key, subject.bench.spec()).state == "pending"
    states = list(subject.trainer.watch_run(key))
    assert states[-1].state == "succeeded"
    assert states[-1].step == states[-1].total_steps > 0
    assert states[-1].loss > 0
    assert [state.step for state in states] == sorted(state.step for state in states)
    manifest, _ = subject.bench.artifacts.resolve(states[-1].adapter_uri, field="uri")
    published = {"openai_model.json"} if subject.elsewhere else {"adapter_config.json", "adapter_model.safetensors"}
    assert published <= {file.path for file in manifest.files}


def test_the_same_key_again_is_the_same_run(subject: Subject) -> None:
    key, spec = subject.key(), subject.bench.spec()
    subject.trainer.create_run(key, spec)
    subject.trainer.create_run(key, spec)
    final = list(subject.trainer.watch_run(key))[-1]
    assert subject.trainer.create_run(key, spec) == final
    assert subject.trainer.get_run(key) == final


def test_another_spec_under_the_same_key_is_refused(subject: Subject) -> None:
    key, spec = subject.key(), subject.bench.spec()
    subject.trainer.create_run(key, spec)
    with pytest.raises(errors.AlreadyExists) as caught:
        subject.trainer.create_run(key, replace(spec, seed=7))
    assert caught.value.field == "key"


def test_equal_work_under_two_keys_gives_equal_adapters_but_an_endpoint_makes_two_models(subject: Subject) -> None:
    digests = []
    for _ in range(2):
        key = subject.key()
        subject.trainer.create_run(key, subject.bench.spec())
        state = list(subject.trainer.watch_run(key))[-1]
        manifest, _ = subject.bench.artifacts.resolve(state.adapter_uri, field="uri")
        digests.append(naming_file(manifest.files).sha256)
    assert (digests[0] == digests[1]) is not subject.elsewhere


def test_a_cancelled_run_is_cancelled_and_can_be_asked_for_again(subject: Subject) -> None:
    key, spec = subject.key(), subject.bench.spec(epochs=LONG)
    subject.trainer.create_run(key, spec)
    assert subject.trainer.cancel_run(key).state == "cancelled"
    assert subject.trainer.get_run(key).state == "cancelled"
    assert list(subject.trainer.watch_run(key))[-1].state == "cancelled"
    assert subject.trainer.create_run(key, spec).state == "pending"
    assert subject.trainer.cancel_run(key).state == "cancelled"


def test_cancelling_a_finished_run_changes_nothing(subject: Subject) -> None:
    key = subject.key()
    subject.trainer.create_run(key, subject.bench.spec())
    final = list(subject.trainer.watch_run(key))[-1]
    assert subject.trainer.cancel_run(key) == final


def test_an_adapter_that_was_taken_back_is_trained_again_to_the_same_bytes(subject: Subject) -> None:
    key, spec, artifacts = subject.key(), subject.bench.spec(), subject.bench.artifacts
    subject.trainer.create_run(key, spec)
    assert list(subject.trainer.watch_run(key))[-1].state == "succeeded"
    first = artifacts.manifest(key)
    artifacts.forget(key, None)
    subject.begin_anew(key, spec)
    assert list(subject.trainer.watch_run(key))[-1].state == "succeeded"
    assert artifacts.manifest(key) == first


def test_an_adapter_that_is_damaged_behind_our_back_is_trained_again_when_its_run_is_asked_for(subject: Subject) -> None:
    key = subject.key()
    subject.trainer.create_run(key, subject.bench.spec())
    final = list(subject.trainer.watch_run(key))[-1]
    manifest, _ = subject.bench.artifacts.resolve(final.adapter_uri, field="uri")
    blob = Path(subject.bench.store, blob_path(naming_file(manifest.files).sha256))
    intact = blob.read_bytes()
    blob.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
    subject.begin_anew(key, subject.bench.spec())
    assert list(subject.trainer.watch_run(key))[-1].state == "succeeded"
    assert blob.read_bytes() == intact


def test_a_watch_that_is_left_does_not_end_the_run(subject: Subject) -> None:
    key = subject.key()
    subject.trainer.create_run(key, subject.bench.spec())
    watch = iter(subject.trainer.watch_run(key))
    next(watch)
    watch.close()  # type: ignore[attr-defined]
    assert list(subject.trainer.watch_run(key))[-1].state == "succeeded"


@pytest.mark.parametrize("call", ["get_run", "cancel_run", "watch_run"])
def test_an_unknown_key_is_not_found(subject: Subject, call: str) -> None:
    with pytest.raises(errors.NotFound) as caught:
        list(getattr(subject.trainer, call)("f" * 64))
    assert caught.value.field == "key"


def test_a_dataset_that_is_not_there_is_not_found(subject: Subject) -> None:
    spec = subject.bench.spec(dataset_uri=f"artifact:{'e' * 64}/train.jsonl")
    with pytest.raises(errors.NotFound) as caught:
        subject.trainer.create_run(subject.key(), spec)
    assert caught.value.field == "spec.dataset_uri"


@pytest.mark.parametrize("uri", ["train.jsonl", "artifact:12/train.jsonl", ""])
def test_what_is_no_artifact_uri_is_refused(subject: Subject, uri: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        subject.trainer.create_run(subject.key(), replace(subject.bench.spec(), dataset_uri=uri))
    assert caught.value.field == "spec.dataset_uri"


def test_a_dataset_uri_without_a_file_is_refused(subject: Subject) -> None:
    spec = subject.bench.spec()
    with pytest.raises(errors.InvalidInput) as caught:
        subject.trainer.create_run(subject.key(), replace(spec, dataset_uri=spec.dataset_uri.partition("/")[0]))
    assert caught.value.field == "spec.dataset_uri"


@pytest.mark.parametrize("key", ["", "abc", "G" * 64, "A" * 64])
def test_what_is_no_content_key_is_refused(subject: Subject, key: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        subject.trainer.create_run(key, subject.bench.spec())
    assert caught.value.field == "key"


@pytest.mark.parametrize("changes", [{"epochs": 0.0}, {"lora_rank": 600}, {"learning_rate": -1.0}, {"base_model": ""}])
def test_a_bad_spec_is_refused_with_its_fields_name(subject: Subject, changes: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        subject.trainer.create_run(subject.key(), replace(subject.bench.spec(), **changes))  # type: ignore[arg-type]
    assert caught.value.field == f"spec.{next(iter(changes))}"
