"""What a home remembers of its backends, and what counts when it is told something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from semievol import homes
from semievol.common import errors
from semievol.homes import Backends

BUCKET = "s3://bucket/team?endpoint=http://127.0.0.1:9000"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def started(home: Path, **asked: str) -> Backends:
    used = homes.backends(home, **asked)
    homes.remember(home, used)
    return used


def test_a_home_keeps_everything_itself_unless_it_is_told_otherwise(home: Path) -> None:
    used = started(home)
    assert used.store_uri(home) == (home / "artifacts").as_uri()
    assert used.milvus_uri(home) == str(home / "milvus.db")
    assert list(home.iterdir()) == []


def test_what_it_was_started_with_is_remembered_until_it_is_started_with_something_else(home: Path) -> None:
    started(home, store=BUCKET, milvus="http://127.0.0.1:19530")
    assert homes.backends(home) == Backends(BUCKET, "http://127.0.0.1:19530")
    started(home, store=str(home / "elsewhere"))
    assert homes.backends(home) == Backends((home / "elsewhere").as_uri(), "http://127.0.0.1:19530")
    started(home, store="embedded", milvus="embedded")
    assert homes.backends(home) == Backends()


def test_the_homes_own_directory_is_the_embedded_store_by_another_name(home: Path) -> None:
    assert homes.backends(home, store=str(home / "artifacts"), milvus=str(home / "milvus.db")) == Backends()


def test_an_s3_server_that_only_the_environment_names_is_remembered_and_may_move(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIEVOL_S3_ENDPOINT", "http://127.0.0.1:9000")
    monkeypatch.setenv("SEMIEVOL_S3_REGION", "here")
    assert started(home, store="s3://bucket/team").store == f"{BUCKET}&region=here"
    monkeypatch.delenv("SEMIEVOL_S3_REGION")
    monkeypatch.delenv("SEMIEVOL_S3_ENDPOINT")
    assert homes.backends(home).store == f"{BUCKET}&region=here"
    monkeypatch.setenv("SEMIEVOL_S3_ENDPOINT", "https://s3.example")
    assert homes.backends(home).store == "s3://bucket/team?endpoint=https://s3.example&region=here"
    assert homes.backends(home, store=BUCKET).store == BUCKET


def test_a_change_is_told_in_words_and_what_stays_is_not(home: Path) -> None:
    assert homes.changes(home, {"store": BUCKET}) == []  # a new home: nothing to compare with
    started(home, store=BUCKET)
    assert homes.changes(home, {"store": BUCKET}) == []
    (said,) = homes.changes(home, {"store": "s3://other"})
    assert said == f"The artifact store is s3://other; so far {home} used {BUCKET}."
    (said,) = homes.changes(home, {"milvus": "http://127.0.0.1:19530"})
    assert said == f"Milvus is http://127.0.0.1:19530; so far {home} used embedded."


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"store": "s3://key:secret@bucket"}, "store"),
        ({"store": "s3://bucket?endpoint=http://key:secret@127.0.0.1"}, "store"),
        ({"milvus": "http://key:secret@127.0.0.1:19530"}, "milvus"),
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(home: Path, asked: dict[str, str], field: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        homes.backends(home, **asked)
    assert caught.value.field == field
    assert "secret@" not in caught.value.message
    assert "key:secret" not in caught.value.message


@pytest.mark.parametrize(
    "uri",
    ["s3://", "s3:///prefix", "s3://Bucket", "s3://b", "s3://bucket/../x", "s3://bucket?acl=1", "s3://bucket?endpoint=host:9000"],
)
def test_what_is_no_s3_store_is_refused(home: Path, uri: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        homes.backends(home, store=uri)
    assert caught.value.field == "store"


def test_a_damaged_record_is_no_record(home: Path) -> None:
    (home / "backends.json").write_text('["damaged')
    assert homes.recall(home) == Backends()
