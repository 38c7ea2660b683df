"""What a release is tried and prepared with, on the suite with fake models and on a real MinIO."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from semievol.cluster import check, prepare
from semievol.common import errors
from semievol.common.stores import open_store

from tests.fake_suite import Suite, fake_suite
from tests.servers import free_port
from tests.servers.s3 import S3Server

NOBODY = "127.0.0.1:1"


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with fake_suite(tmp_path, script=lambda model, messages, seed: "Answer: A") as running:
        yield running


def tried(suite: Suite, **other: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    at = suite.addresses | other
    code = check.run(at["embedding"], at["retrieval"], at["judging"], at["router"], at.get("store", suite.store), lines.append)
    return code, lines


def test_a_release_that_works_passes_in_five_lines_and_is_as_it_was(suite: Suite) -> None:
    code, lines = tried(suite)
    assert code == 0, lines
    assert [line.split(":")[0].split() for line in lines] == [
        ["ok", part] for part in ("embedding", "retrieval", "generation", "judging", "store")
    ]
    assert open_store(suite.store).list("probe/") == []


def test_four_rows_go_through_every_part(suite: Suite) -> None:
    _, lines = tried(suite)
    embedding, retrieval, generation, judging, _ = lines
    assert embedding.startswith("ok      embedding: 4 vectors of ")
    assert "each of 4 rows finds itself first" in retrieval
    assert "8 tokens in 4 replies" in generation  # two words each
    assert "4 verdicts, 4 with an answer" in judging


def test_the_check_leaves_no_collection(suite: Suite) -> None:
    made: list[str] = []
    create = suite.index.create

    def remember(spec: object) -> None:
        made.append(spec.name)  # type: ignore[attr-defined]
        create(spec)  # type: ignore[arg-type]

    suite.index.create = remember  # type: ignore[method-assign, assignment]
    assert tried(suite)[0] == 0
    assert len(made) == 1
    with pytest.raises(errors.NotFound):
        suite.index.describe(made[0])


@pytest.mark.parametrize("part", ["embedding", "retrieval", "judging"])
def test_a_service_that_is_away_is_named_and_the_others_are_tried_all_the_same(suite: Suite, part: str) -> None:
    code, lines = tried(suite, **{part: NOBODY})
    assert code == errors.Unavailable.exit_code
    failed = [line for line in lines if line.startswith("FAILED")]
    assert len(lines) == 5
    assert len(failed) == 1
    assert part in failed[0]
    assert NOBODY in failed[0]


def test_a_store_that_is_not_there_fails_the_check(suite: Suite, minio_server: S3Server) -> None:
    code, lines = tried(suite, store=minio_server.uri("no-such-bucket"))
    assert code == errors.StorageError.exit_code
    assert "There is no bucket no-such-bucket" in lines[-1]


def test_a_bucket_is_made_once_and_again_is_no_error(minio_server: S3Server) -> None:
    uri = minio_server.uri(f"made-{uuid.uuid4().hex[:8]}", "prefix")
    assert prepare.main(["--make-bucket", uri]) == 0
    open_store(uri).put("kept", b"1")
    assert prepare.main(["--make-bucket", uri]) == 0
    assert open_store(uri).size("kept") == 1


def test_a_server_that_does_not_come_is_waited_for_until_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"s3://bucket?endpoint=http://127.0.0.1:{free_port()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
        assert prepare.main(["--make-bucket", uri, "--timeout", "0"]) == errors.Unavailable.exit_code
    assert "cannot be reached" in capsys.readouterr().err


def test_waiting_ends_with_the_first_success() -> None:
    failures = [errors.Unavailable("not yet"), errors.StorageError("still starting")]

    def attempt() -> None:
        if failures:
            raise failures.pop(0)

    prepare.until("it", attempt, 30.0, pause_s=0.0)
    assert failures == []


def test_what_no_waiting_mends_is_said_at_once() -> None:
    def attempt() -> None:
        raise errors.NotAllowed("wrong credentials")

    with pytest.raises(errors.NotAllowed):
        prepare.until("it", attempt, timeout_s=time.monotonic() + 3600, pause_s=3600)
