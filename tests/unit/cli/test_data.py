"""`semievol data check | show | convert`, and data that is more than a file on its way to a controller."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import yaml
from click.testing import Result
from pyarrow import parquet
from semievol.algorithm.types import Task, TaskType
from semievol.common.runspec import RunSpec
from semievol.data.intake import Role, load

from tests.unit.cli.conftest import Served

Invoke = Callable[..., Result]
SHARED = ("labeled", "unlabeled", "test")


@pytest.fixture
def other_names(tmp_path: Path) -> Path:
    """A file in other people's words."""
    path = tmp_path / "reviews.csv"
    path.write_text("text,label,stars\nGood.,pos,5\nBad.,neg,1\nFine.,pos,4\nPoor.,neg,2\n")
    return path


def test_check_says_what_it_took_the_data_for(invoke: Invoke, run_file: Path) -> None:
    folder = run_file.parent
    result = invoke("data", "check", *(folder / f"{name}.csv" for name in SHARED))
    assert result.exit_code == 0, result.stderr
    assert f"{folder}/labeled.csv: taken as labeled (it has answers); csv file; question, options, answer." in result.stdout
    assert f"{folder}/test.csv: taken as test (its name says test); csv file;" in result.stdout
    assert "The task is multiple choice, answered by a letter (there are options)." in result.stdout
    assert result.stdout.count("\n--- ") == 3


def test_check_suggests_a_map_and_takes_it(invoke: Invoke, other_names: Path) -> None:
    result = invoke("data", "check", other_names)
    assert result.exit_code == 64
    assert "(--map question=text --map answer=label; in a run file data.map)" in result.stdout
    result = invoke("data", "check", other_names, "--map", "question=text", "--map", "answer=label", "--json")
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(result.stdout)["files"]
    assert entry["columns"] == {"text": "question", "label": "answer", "stars": "metadata"}
    assert entry["guess"].endswith("question from 'text', answer from 'label'; metadata that no prompt sees: stars")


def test_check_finds_a_classification_behind_free_text(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\n" + "".join(f"q{number},{('pos', 'neg')[number % 2]}\n" for number in range(10)))
    assert "task: {type: choice, answer: text, options: [neg, pos]}" in invoke("data", "check", path).stdout


def test_the_classes_that_check_suggests_can_be_copied_into_a_run_file(invoke: Invoke, tmp_path: Path) -> None:
    path, classes = tmp_path / "a.jsonl", ["0", "Sci, Tech", "no"]
    path.write_text("".join(json.dumps({"question": f"q{n}", "answer": classes[n % 3]}) + "\n" for n in range(15)))
    guess = json.loads(invoke("data", "check", path, "--json").stdout)["guess"]
    assert yaml.safe_load(guess[guess.index("{") : guess.rindex("}") + 1])["options"] == classes


def test_answers_that_only_have_numbers_in_them_are_taken_for_texts(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}", "answer": f"It is {n} + 1 = {n + 1}."}) + "\n" for n in range(12)))
    result = invoke("data", "check", path)
    assert (result.exit_code, "The task is free text" in result.stdout) == (0, True)


def test_solutions_that_end_with_their_number_are_taken_for_numbers(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}", "answer": f"It is {n}+1.\n#### {n + 1}"}) + "\n" for n in range(12)))
    assert "The task is a number (all answers are numbers)" in invoke("data", "check", path).stdout


def test_a_split_whose_answers_are_all_empty_is_taken_as_unlabeled(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("question,answer\nq,\nr,\n")
    assert "taken as unlabeled (its answers are empty)" in invoke("data", "check", path).stdout


def test_quarantine_is_suggested_only_where_it_would_help(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for good, helps in ((20, True), (2, False)):
        path.write_text("question,answer\nq,\n" + "".join(f"q{n},a\n" for n in range(good)))
        result = invoke("data", "check", path)
        assert (result.exit_code, "quarantine" in result.stderr) == (64, helps)


def test_check_takes_answers_that_are_all_numbers_for_numbers(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer\n" + "".join(f"q{number},{number * 7}.5\n" for number in range(12)))
    assert "The task is a number (all answers are numbers)." in invoke("data", "check", path).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--map", "label"), 2, "not OURS=THEIRS"),
        (("--map", "answer=a", "--map", "answer=b"), 2, "maps a column again"),
        (("--map", "anwser=label"), 64, "did you mean 'answer'?"),
        (("--map", "question=text", "--map", "answer=lable"), 64, "did you mean 'label'?"),
        (("--near", "2"), 2, "0<x<=1"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(
    invoke: Invoke, other_names: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    result = invoke("data", "check", other_names, *arguments)
    assert result.exit_code == code
    assert text in result.output


def test_a_run_file_has_its_own_map(invoke: Invoke, run_file: Path) -> None:
    result = invoke("data", "check", "-f", run_file, "--map", "answer=label")
    assert result.exit_code == 2
    assert "data: {map:" in result.stderr


def test_near_rows_are_reported_with_their_cosine(invoke: Invoke, run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake embedder's vectors are bags of words, so other word order is a cosine of 1."""
    monkeypatch.setenv("SEMIEVOL_EMBEDDING_BACKEND", "fake")
    folder = run_file.parent
    (folder / "test.csv").write_text('question,options,answer\n"Number 1 is where?","[""here"", ""there""]",B\n')
    result = invoke("data", "check", "-f", run_file, "--near", "0.99", "--json")
    assert result.exit_code == 0, result.stderr
    (near,) = json.loads(result.stdout)["near"]
    pair = {"first": f"{folder}/labeled.csv:3", "second": f"{folder}/test.csv:2", "cosine": 1.0}
    assert (near["examples"], near["warning"]) == ([pair], True)
    text = invoke("data", "check", "-f", run_file, "--near", "0.99").stdout
    assert f"Warning: 1 rows are near rows of labeled, being in test: {folder}/labeled.csv:3 ~ {folder}/test.csv:2 1.00." in text
    assert " near " not in invoke("data", "check", "-f", run_file).stdout


def test_show_prints_rows_as_they_are_understood_and_as_prompts(invoke: Invoke, other_names: Path) -> None:
    names = ("--map", "question=text", "--map", "answer=label")
    result = invoke("data", "show", other_names, *names, "-n", "2")
    assert result.stdout.count("--- ") == 2
    assert "Question: Good.\n=> Answer: pos" in result.stdout
    assert "metadata: {'stars': '5'}" in result.stdout
    (line,) = invoke("data", "show", other_names, *names, "--line", "4", "--json").stdout.splitlines()
    row = json.loads(line)
    assert (row["question"], row["answer"], row["line"], row["metadata"]) == ("Fine.", "pos", 4, {"stars": "4"})
    assert json.loads(invoke("data", "show", other_names, *names, "--row", row["id"], "--json").stdout) == row


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("--row", "g3"), "did you mean g2"), (("--line", "9"), "begins on line 9"), (("--line", "3"), "the question is empty")],
)
def test_show_says_why_a_row_cannot_be_shown(invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,question,answer\ng2,q,a\nx,,b\n")
    result = invoke("data", "show", path, *arguments)
    assert result.exit_code == 64
    assert text in result.stderr


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_convert_writes_the_rows_that_a_run_would_read(invoke: Invoke, run_file: Path, tmp_path: Path, ending: str) -> None:
    source, out = run_file.parent / "labeled.csv", tmp_path / f"out.{ending}"
    result = invoke("data", "convert", source, out)
    assert result.exit_code == 0, result.stderr
    assert "4 rows, columns id, question, options, answer" in result.stdout
    task = Task(TaskType.CHOICE)
    assert load(out, task, Role.LABELED).rows == load(source, task, Role.LABELED).rows


def test_convert_keeps_metadata_and_a_column_that_was_mapped_over(invoke: Invoke, tmp_path: Path) -> None:
    source, out = tmp_path / "a.csv", tmp_path / "out.csv"
    source.write_text("question,answer,label,note\nq,old,new,n\n")
    assert invoke("data", "convert", source, out, "--map", "answer=label").exit_code == 0
    (row,) = csv.DictReader(out.open())
    assert {name: row[name] for name in ("answer", "file_answer", "note")} == {"answer": "new", "file_answer": "old", "note": "n"}


def test_convert_reads_chats_and_datasets(invoke: Invoke, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada"}]
    parts = {name: datasets.Dataset.from_list([{"messages": messages}]) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "chats")
    out = tmp_path / "out.parquet"
    result = invoke("data", "convert", f"{tmp_path}/chats:train", out)
    assert result.exit_code == 0, result.stderr
    (row,) = parquet.read_table(out).to_pylist()
    assert (row["question"], row["answer"]) == ("Who?", "Ada")


def test_check_takes_a_dataset_without_a_named_split_as_all_of_them(invoke: Invoke, tmp_path: Path) -> None:
    """Roles come from the splits' names; show and convert want one split."""
    made = {
        name: datasets.Dataset.from_list([{"question": f"{name}?", "answer": "a"}]) for name in ("train", "test", "unlabeled")
    }
    datasets.DatasetDict(made).save_to_disk(tmp_path / "set")
    result = invoke("data", "check", tmp_path / "set", "--json")
    assert result.exit_code == 0, result.stderr
    found = [(entry["file"].rpartition(":")[2], entry["role"]) for entry in json.loads(result.stdout)["files"]]
    assert found == [("train", "labeled"), ("test", "test"), ("unlabeled", "unlabeled")]
    for command in (("show",), ("convert",)):
        refused = invoke("data", *command, tmp_path / "set", *([tmp_path / "out.csv"] if command[0] == "convert" else []))
        assert (refused.exit_code, "set:test" in refused.stderr) == (64, True)


def test_convert_never_overwrites_unless_told_so_and_writes_all_or_nothing(
    invoke: Invoke, run_file: Path, tmp_path: Path
) -> None:
    source, out = run_file.parent / "labeled.csv", tmp_path / "out.jsonl"
    out.write_text("mine")
    refused = invoke("data", "convert", source, out)
    assert (refused.exit_code, out.read_text()) == (73, "mine")
    assert "--yes" in refused.stderr
    assert invoke("data", "convert", source, out, "--yes").exit_code == 0
    before = out.read_bytes()
    source.write_text(source.read_text() + '"Where?","[""here"", ""there""]",nowhere\n')
    bad = invoke("data", "convert", source, out, "--yes")
    assert bad.exit_code == 64
    assert "labeled.csv:6" in bad.stderr
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []
    assert invoke("data", "convert", source, tmp_path / "out.xlsx").exit_code == 64


def test_a_dataset_directory_is_submitted_as_one_file_with_its_map(invoke: Invoke, run_file: Path, served: Served) -> None:
    folder = run_file.parent
    rows = {"text": ["p", "q"], "gold": ["here", "there"], "options": [["here", "there"]] * 2}
    parts = {"labeled": datasets.Dataset.from_dict(rows), "test": datasets.Dataset.from_dict({**rows, "text": ["r", "s"]})}
    datasets.DatasetDict(parts).save_to_disk(folder / "set")
    text = run_file.read_text().replace("labeled: labeled.csv", "labeled: set").replace("test: test.csv", "test: 'set:test'")
    run_file.write_text(text.replace("test'}", "test', map: {question: text, answer: gold}}"))
    result = invoke("submit", "-f", run_file, "--address", served.address, "--json")
    assert result.exit_code == 0, result.stderr
    (spec,) = served.servicer.submitted
    assert spec.data.map == {"question": "text", "answer": "gold"}
    assert [uri.rpartition("/")[2] for uri in (spec.data.labeled, spec.data.unlabeled, spec.data.test)] == [
        "set.jsonl",
        "unlabeled.csv",
        "set-test.jsonl",
    ]
    assert served.servicer.uploads[spec.data.test].splitlines()[0] == (
        b'{"text": "r", "gold": "here", "options": ["here", "there"]}'
    )
    assert json.loads(result.stdout)["spec"]["data"]["map"] == {"question": "text", "answer": "gold"}


def test_a_hub_dataset_without_a_network_ends_with_69_and_says_what_to_do(invoke: Invoke) -> None:
    result = invoke("data", "check", "hub:owner/name:train")
    assert result.exit_code == 69
    assert "give the directory" in result.stderr
    assert "semievol serve" not in result.stderr


def test_an_unknown_column_in_the_runs_map_is_refused_with_the_nearest(invoke: Invoke, run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("test.csv}", "test.csv, map: {anwser: label}}"))
    result = invoke("data", "check", "-f", run_file)
    assert result.exit_code == 64
    assert "data.map" in result.stderr
    assert "did you mean 'answer'?" in result.stderr


def test_a_spec_without_a_map_says_nothing_of_maps() -> None:
    """So that runs and content keys of specs from before there were maps stay what they were."""
    spec = RunSpec.model_validate({"name": "a", "model": "m", "embedding": "e", "data": {"labeled": "a", "unlabeled": "b"}})
    assert spec.model_dump(mode="json")["data"] == {"labeled": "a", "unlabeled": "b", "test": "", "dev": ""}


@pytest.mark.models
def test_the_real_embedding_finds_what_was_hardly_reworded_and_leaves_other_questions_alone(
    invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "labeled.csv").write_text(
        "question,answer\nThe streetlight outside my house has been broken for a week.,light\nWhen is the school closed?,school\n"
    )
    (tmp_path / "test.csv").write_text(
        "question,answer\nThe streetlight outside my house has been broken for two weeks.,light\nWho repairs the water pipe?,water\n"
    )
    result = invoke("data", "check", tmp_path / "labeled.csv", tmp_path / "test.csv", "--near", "0.95", "--json")
    assert result.exit_code == 0, result.stderr
    (near,) = json.loads(result.stdout)["near"]
    assert [(pair["first"], pair["second"]) for pair in near["examples"]] == [
        (f"{tmp_path}/labeled.csv:2", f"{tmp_path}/test.csv:2")
    ]
