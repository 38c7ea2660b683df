"""Datasets on disk: what the datasets library saves, directories as the hub keeps them, and what is wrong with others."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet
from semievol.algorithm.types import Task, TaskType
from semievol.common import errors
from semievol.data.formats import MAX_ROW_BYTES
from semievol.data.intake import DataSet, Role, load
from semievol.data.sources import as_file, parse

TEXT = Task(TaskType.TEXT)
FEATURES = datasets.Features({"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["no", "yes"])})


def rows(count: int, first: int = 0) -> datasets.Dataset:
    """Questions with class labels: `no` for even numbers, `yes` for odd ones."""
    numbers = range(first, first + count)
    values = {"question": [f"Is {n} odd?" for n in numbers], "answer": [n % 2 for n in numbers]}
    return datasets.Dataset.from_dict(values, features=FEATURES)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """One dataset."""
    rows(5).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """A dataset of three splits."""
    parts = {"train": rows(4), "test": rows(2, 4), "extra": rows(3, 6)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "splits")
    return tmp_path / "splits"


def write(directory: Path, **files: str) -> Path:
    """`a__csv` is a.csv."""
    for name, text in files.items():
        path = directory / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def refused(source: str | Path, role: Role = Role.LABELED) -> errors.InvalidInput:
    with pytest.raises(errors.InvalidInput) as caught:
        load(source, TEXT, role)
    assert caught.value.field == f"data.{role}"
    return caught.value


def answers(data: DataSet) -> list[str | None]:
    return [row.answer for row in data.rows]


def test_a_saved_dataset_is_read_and_its_class_labels_by_name(saved: Path) -> None:
    data = load(saved, TEXT, Role.LABELED)
    assert answers(data) == ["no", "yes", "no", "yes", "no"]
    assert data.lines[data.rows[4].id] == 5
    assert data.columns == {"question": "question", "answer": "answer"}


def test_a_split_is_named_after_a_colon(splits: Path) -> None:
    assert len(load(f"{splits}:train", TEXT, Role.LABELED).rows) == 4
    assert len(load(f"{splits}:extra", TEXT, Role.TEST).rows) == 3


def test_the_split_of_a_roles_name_is_obvious(splits: Path) -> None:
    assert len(load(splits, TEXT, Role.LABELED).rows) == 4
    assert len(load(splits, TEXT, Role.TEST).rows) == 2
    message = refused(splits, Role.UNLABELED).message
    assert "has the splits train, test, extra; name one" in message


def test_a_split_that_is_not_there_is_refused_with_those_that_are(splits: Path, saved: Path) -> None:
    assert "has no split 'tran'; there are: train, test, extra" in refused(f"{splits}:tran").message
    assert "one dataset without splits; leave out ':train'" in refused(f"{saved}:train").message


def test_a_path_with_a_colon_in_its_name_is_that_path(tmp_path: Path) -> None:
    path = tmp_path / "a:b.csv"
    path.write_text("question,answer\nq,a\n")
    assert answers(load(path, TEXT, Role.LABELED)) == ["a"]
    assert parse(str(path)).split == ""


def test_a_directory_of_parquet_files_is_read_with_its_class_labels(tmp_path: Path) -> None:
    """Two files of one split and another split, as the hub keeps them."""
    (tmp_path / "data").mkdir()
    rows(2).to_parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
    rows(3, 2).to_parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
    rows(1, 9).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    data = load(tmp_path, TEXT, Role.LABELED)
    assert answers(data) == ["no", "yes", "no", "yes", "no"]
    assert [data.lines[row.id] for row in data.rows] == [1, 2, 3, 4, 5]
    assert answers(load(f"{tmp_path}:test", TEXT, Role.LABELED)) == ["yes"]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_a_directory_of_text_files_is_read(tmp_path: Path, ending: str) -> None:
    """JSON that is no JSON lines is read by the library."""
    values = [{"question": "p", "answer": "a"}, {"question": "q", "answer": "b"}]
    if ending == "csv":
        text = "question,answer\np,a\nq,b\n"
    else:
        text = json.dumps(values) if ending == "json" else "".join(json.dumps(value) + "\n" for value in values)
    assert answers(load(write(tmp_path, **{f"train__{ending}": text}), TEXT, Role.LABELED)) == ["a", "b"]


def test_the_card_of_a_repository_says_splits_configurations_and_class_labels(tmp_path: Path) -> None:
    card = {
        "configs": [
            {"config_name": "one", "data_files": [{"split": "first", "path": "a.csv"}, {"split": "second", "path": "b.csv"}]},
            {"config_name": "two", "data_files": "b.csv"},
        ],
        "dataset_info": [
            {
                "config_name": "one",
                "features": [
                    {"name": "question", "dtype": "string"},
                    {"name": "answer", "dtype": {"class_label": {"names": {"0": "no", "1": "yes"}}}},
                ],
            },
            {"config_name": "two", "features": [{"name": name, "dtype": "string"} for name in ("question", "answer")]},
        ],
    }
    write(
        tmp_path, a__csv="question,answer\np,1\n", b__csv="question,answer\nq,0\n", README__md=f"---\n{json.dumps(card)}\n---\n"
    )
    assert answers(load(f"{tmp_path}:one/first", TEXT, Role.LABELED)) == ["yes"]
    assert answers(load(f"{tmp_path}:two/train", TEXT, Role.LABELED)) == ["0"]
    assert "has the configurations one, two; name one" in refused(tmp_path).message


def test_a_card_cannot_name_files_outside_of_its_directory(tmp_path: Path) -> None:
    write(tmp_path, secret__csv="question,answer\nq,a\n")
    inside = write(
        tmp_path / "inside",
        other__csv="question,answer\nq,a\n",
        README__md='---\n{"configs": [{"config_name": "x", "data_files": "../secret.csv"}]}\n---\n',
    )
    message = refused(inside).message
    assert "names a file outside of it" in message or "cannot be read as a dataset" in message


def test_bad_rows_in_a_directory_keep_their_file_and_line_and_the_others_are_read(tmp_path: Path) -> None:
    good = '{"question": "p", "answer": "a"}\n'
    write(tmp_path, **{"train-1__jsonl": good + "{\n", "train-2__jsonl": good + '{"question": "", "answer": "b"}\n'})
    found = [(bad.file, bad.line, bad.reason) for bad in refused(tmp_path).rows]
    assert found[0][:2] == (f"{tmp_path}/train-1.jsonl", 2)
    assert found[1] == (str(tmp_path), 4, "the question is empty")


def test_files_with_other_columns_in_one_split_are_named_row_by_row(tmp_path: Path) -> None:
    write(tmp_path, **{"train-1__csv": "question,answer\nq,a\n", "train-2__csv": "question,label\nr,b\n"})
    (bad,) = refused(tmp_path).rows
    assert (bad.line, "--map answer=label" in bad.reason) == (2, True)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "is a directory without data files"),
        ({"notes__md": "x"}, "is a directory without data files"),
        ({"state__json": "{"}, "cannot be read as a dataset"),
        ({"dataset_dict__json": "{}"}, "cannot be read as a dataset"),
        ({"dataset_dict__json": '{"splits": []}'}, "has the splits none"),
        ({"dataset_dict__json": '{"splits": ["train"]}'}, "cannot be read as a dataset"),
        ({"train__csv": ""}, "train.csv:1: the file is empty"),
        ({"train__parquet": "PAR1"}, "train.parquet:1: the file is no Parquet file"),
        ({"README__md": "---\n[\n---\n", "train__csv": "question,answer\nq,a\n"}, "cannot be read as a dataset"),
    ],
    ids=range(9),
)
def test_a_directory_that_is_no_dataset_says_what_is_wrong(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    directory = tmp_path / "thing"
    directory.mkdir()
    assert reason in refused(write(directory, **files)).message


def damaged_at(path: Path, cut: int) -> Any:
    raw = path.read_bytes()
    path.write_bytes(raw[:cut])
    return refused(path.parent)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_arrow_file_is_refused(saved: Path, share: float) -> None:
    (path,) = saved.glob("*.arrow")
    assert str(saved) in damaged_at(path, int(path.stat().st_size * share)).message


def test_an_arrow_file_whose_offsets_are_wrong_is_refused_and_not_followed(saved: Path) -> None:
    """The offsets of the first text column: 0, 9, 18 ... as 32-bit numbers. The third is made to point far outside."""
    (path,) = saved.glob("*.arrow")
    raw = bytearray(path.read_bytes())
    at = raw.find(b"".join(n.to_bytes(4, "little") for n in (0, 9, 18)))
    assert at > 0
    raw[at + 8 : at + 12] = (2**30).to_bytes(4, "little")
    path.write_bytes(raw)
    assert "damaged from here on" in refused(saved).message


def test_a_missing_arrow_file_is_refused(saved: Path) -> None:
    next(saved.glob("*.arrow")).unlink()
    assert "cannot be read as a dataset" in refused(saved).message


def test_a_dataset_becomes_one_file_whose_lines_are_its_rows(splits: Path, tmp_path: Path) -> None:
    source = f"{splits}:train"
    path = as_file(source, tmp_path, MAX_ROW_BYTES)
    assert path.name == "splits-train.jsonl"
    first, again = load(source, TEXT, Role.LABELED), load(path, TEXT, Role.LABELED)
    assert (first.rows, first.lines) == (again.rows, again.lines)
    (tmp_path / "other").mkdir()
    assert as_file(source, tmp_path / "other", MAX_ROW_BYTES).read_bytes() == path.read_bytes()


def test_a_file_is_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\nq,a\n")
    assert as_file(str(path), tmp_path, MAX_ROW_BYTES) == path


def test_class_labels_of_a_single_parquet_file_are_read_by_name_and_minus_one_is_none(tmp_path: Path) -> None:
    rows(2).to_parquet(tmp_path / "a.parquet")
    assert answers(load(tmp_path / "a.parquet", TEXT, Role.LABELED)) == ["no", "yes"]
    schema = parquet.read_schema(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"question": ["q"], "answer": [-1]}, schema=schema), tmp_path / "b.parquet")
    data = load(tmp_path / "b.parquet", TEXT, Role.UNLABELED)
    assert data.answers == {}


def test_a_row_of_a_dataset_that_cannot_be_read_is_a_bad_row_of_the_uploaded_file_too(tmp_path: Path) -> None:
    """Row 3 has a cell too many, row 4 an answer that is empty; the file that is uploaded keeps rows on their lines."""
    directory = write(tmp_path / "set", train__csv="question,answer\np,a\nq,b\nr,c,d\ns,\n" + "t,e\n" * 20)
    here = load(directory, TEXT, Role.LABELED, on_bad="quarantine")
    uploaded = as_file(str(directory), tmp_path, MAX_ROW_BYTES)
    there = load(uploaded, TEXT, Role.LABELED, on_bad="quarantine")
    assert [(bad.line, bad.reason) for bad in there.bad] == [
        (3, "train.csv:4: the row has 3 cells, the header 2"),
        (4, "the answer is empty"),
    ]
    assert len(here.bad) == len(there.bad)
    assert there.rows == here.rows
    assert str(tmp_path) not in uploaded.read_text()


@pytest.mark.parametrize("hub", ["no network", "offline mode", "a hub that never answers"])
def test_a_hub_dataset_that_cannot_be_reached_says_what_to_do_within_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: str
) -> None:
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as silent:
        if hub == "a hub that never answers":
            monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", hub == "offline mode")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        started = time.monotonic()
        with pytest.raises(
            errors.Unavailable, match=r"hf download --repo-type dataset owner/name .* give the directory"
        ) as caught:
            load("hub:owner/name:train", TEXT, Role.LABELED)
        assert caught.value.field == "data.labeled"
        assert time.monotonic() - started < 30


@pytest.mark.parametrize("reference", ["hub:name", "hub:", "hub:a/b/c", "hub:a/b:", "hub:../x", "hub:a/b@", "hub:a/b:s@v"])
def test_a_hub_reference_that_is_none_is_refused(reference: str) -> None:
    assert "write hub:owner/name" in refused(reference).message


def test_a_hub_dataset_in_the_cache_is_read_without_the_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache as the hub's client lays it out: a snapshot of a commit, of links to blobs."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "datasets--owner--name", "0" * 40
    write(repository / "refs", main=commit)
    write(repository / "blobs", abc="question,answer\nq,a\n")
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "train.csv").symlink_to("../../blobs/abc")
    data = load("hub:owner/name", TEXT, Role.LABELED)
    assert answers(data) == ["a"]
    assert as_file("hub:owner/name:train", tmp_path, MAX_ROW_BYTES).name == "owner-name-train.jsonl"


def test_a_revision_of_a_hub_dataset_is_that_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two commits in the cache: one has the branch, the other a tag."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, newer, older = tmp_path / "datasets--owner--name", "1" * 40, "0" * 40
    write(repository / "refs", main=newer)
    (repository / "refs" / "v1.0").write_text(older)
    for commit, answer in ((newer, "new"), (older, "old")):
        write(repository / "snapshots" / commit, train__csv=f"question,answer\nq,{answer}\n")
    found = {at: answers(load(f"hub:owner/name{at}:train", TEXT, Role.LABELED)) for at in ("", "@v1.0", f"@{older}")}
    assert found == {"": ["new"], "@v1.0": ["old"], f"@{older}": ["old"]}
    assert as_file("hub:owner/name@v1.0:train", tmp_path, MAX_ROW_BYTES).name == "owner-name-v1.0-train.jsonl"
    with pytest.raises(errors.Unavailable, match=r"dataset owner/name at v2; .* --revision v2 --local-dir"):
        load("hub:owner/name@v2", TEXT, Role.LABELED)
