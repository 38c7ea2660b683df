"""The product tries itself: each part that is broken is named, and the others are tried all the same."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.stores.fake import FakeStore
from semievol.controller.diagnosis import Parts, diagnose
from semievol.controller.runs import RunStore
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.generation.backends.fake import FakeEngine
from semievol.judging.backends.fake import FakeJudge
from semievol.ports import NEVER, Cancel, FloatMatrix, ObjectStore
from semievol.retrieval.backends.fake import FakeVectorIndex
from semievol.training.backends.fake import FakeTrainer

from tests.fake_suite import Suite, fake_suite

PARTS = ["controller", "store", "embedding", "retrieval", "generation", "scoring", "judging", "training"]


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with fake_suite(tmp_path) as running:
        yield running


def failing(findings: Iterable[pb.Finding]) -> dict[str, int]:
    return {one.name: one.exit_code for one in findings if one.status == pb.FINDING_STATUS_FAILED}


def test_every_part_of_a_product_that_works_is_ok_and_nothing_is_left_behind(suite: Suite) -> None:
    findings = suite.client.diagnose().findings
    assert [one.name for one in findings] == PARTS
    assert {one.status for one in findings} == {pb.FINDING_STATUS_OK}
    assert not any(one.advice or one.exit_code for one in findings)
    assert suite.artifacts.store.list("") == []
    assert not any(name.startswith("doctor_") for name in suite.index._collections)
    assert suite.trainer.created == 0


def test_one_update_is_trained_where_that_is_asked_for(suite: Suite) -> None:
    training = suite.client.diagnose(train=True).findings[-1]
    assert training.status == pb.FINDING_STATUS_OK
    assert "one update on fake" in training.message
    assert suite.trainer.created == 1
    assert not [info for info in suite.artifacts.store.list("") if not info.path.startswith("blobs/")]


def test_a_training_that_fails_says_why(suite: Suite) -> None:
    suite.trainer.fail_next = [errors.Unavailable("The GPU's memory is too small.")]
    findings = suite.client.diagnose(train=True).findings
    assert failing(findings) == {"training": 69}
    assert "memory is too small" in findings[-1].message


def test_an_engine_that_is_out_of_order_fails_what_needs_it_and_nothing_else(suite: Suite) -> None:
    suite.engine.__init__(fails_after=0, base="fake")  # type: ignore[misc]
    assert failing(suite.client.diagnose().findings) == {"generation": 69, "scoring": 69, "judging": 69}


def test_a_store_that_is_gone_is_named(suite: Suite) -> None:
    shutil.rmtree(suite.home / "artifacts")
    (suite.home / "artifacts").write_text("not a directory")
    found = failing(suite.client.diagnose().findings)
    assert found["store"] == 74
    assert "embedding" not in found


def parts(store: ObjectStore | None = None) -> Parts:
    artifacts = Artifacts(store or FakeStore())
    engine = FakeEngine()
    return Parts(
        artifacts,
        RunStore(artifacts.store),
        FakeEmbedder,
        FakeVectorIndex,
        lambda: engine,
        FakeJudge,
        lambda: FakeTrainer(artifacts),
    )


class TwoWinners(FakeStore):
    """A store that tells every writer that it was the first."""

    def create(self, path: str, data: bytes) -> bool:
        super().create(path, data)
        return True


class Hanging(FakeEmbedder):
    """Answers only when nobody waits any more."""

    def embed(self, texts: object, *, cancel: Cancel = NEVER) -> FloatMatrix:
        while not cancel.is_set():
            threading.Event().wait(0.01)
        raise errors.Cancelled("Embedding was cancelled.")


class Long(FakeEmbedder):
    """Its vectors are twice as long as they ought to be."""

    def embed(self, texts: object, *, cancel: Cancel = NEVER) -> FloatMatrix:
        return 2 * super().embed(texts, cancel=cancel)  # type: ignore[arg-type]


class Scoreless(FakeEngine):
    """As an endpoint that cannot score."""

    def score(self, *args: object, **kwargs: object) -> list:  # type: ignore[type-arg]
        raise errors.NotSupported("This endpoint cannot score.")


def found(of: Parts, limit_s: float = 60.0) -> dict[str, tuple[str, str]]:
    return {one.name: (one.status, one.message) for one in diagnose(of, train=False, cancel=NEVER, limit_s=limit_s)}


def test_a_store_whose_conditional_create_has_two_winners_is_refused() -> None:
    status, message = found(parts(TwoWinners()))["store"]
    assert status == "failed"
    assert "conditional create" in message


def test_a_part_that_hangs_is_named_within_its_time_and_the_others_are_tried() -> None:
    answers = found(replace(parts(), embedder=Hanging), limit_s=0.5)
    assert answers["embedding"][0] == "failed"
    assert "has not answered" in answers["embedding"][1]
    assert answers["generation"][0] == "ok"


def test_vectors_that_are_not_unit_vectors_are_found() -> None:
    assert "length 2.000" in found(replace(parts(), embedder=Long))["embedding"][1]


def test_an_endpoint_that_cannot_score_is_a_warning() -> None:
    assert found(replace(parts(), engine=Scoreless))["scoring"] == ("warning", "This endpoint cannot score.")


def test_a_service_that_is_not_there_is_named() -> None:
    def nowhere() -> FakeEmbedder:
        raise errors.Unavailable("The embedding service is not at work here.")

    assert found(replace(parts(), embedder=nowhere))["embedding"] == ("failed", "The embedding service is not at work here.")


def test_a_bug_in_a_part_shows_no_insides() -> None:
    class Buggy(FakeEmbedder):
        def info(self) -> None:  # type: ignore[override]
            raise KeyError("secret")

    status, message = found(replace(parts(), embedder=Buggy))["embedding"]
    assert status == "failed"
    assert "secret" not in message
