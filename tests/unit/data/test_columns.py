"""Columns under other names: the map, what is suggested without one, and what becomes of a column that is mapped over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from semievol.algorithm.types import Task, TaskType
from semievol.common import errors
from semievol.data.columns import ColumnReader
from semievol.data.intake import DataSet, Role, load

TEXT, CHOICE = Task(TaskType.TEXT), Task(TaskType.CHOICE)


def csv(tmp_path: Path, text: str, name: str = "data.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def jsonl(tmp_path: Path, *rows: object) -> Path:
    return csv(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "data.jsonl")


def refused(path: Path, task: Task = TEXT, role: Role = Role.LABELED, **names: str) -> str:
    with pytest.raises(errors.InvalidInput) as caught:
        load(path, task, role, names=names)
    assert caught.value.field == f"data.{role}"
    return caught.value.message


def one(data: DataSet) -> tuple[str, str | None]:
    (row,) = data.rows
    return row.question, row.answer


def test_mapped_columns_are_taken_under_our_names_and_are_no_metadata(tmp_path: Path) -> None:
    data = load(
        csv(tmp_path, "text,label,note\nwhat?,that,n\n"), TEXT, Role.LABELED, names={"question": "text", "answer": "label"}
    )
    assert one(data) == ("what?", "that")
    assert data.rows[0].metadata == {"note": "n"}
    assert data.columns == {"text": "question", "label": "answer", "note": "metadata"}


def test_a_column_that_another_one_is_mapped_over_is_kept_as_metadata(tmp_path: Path) -> None:
    data = load(csv(tmp_path, "question,answer,label\nwhat?,old,new\n"), TEXT, Role.LABELED, names={"answer": "label"})
    assert one(data) == ("what?", "new")
    assert data.rows[0].metadata == {"answer": "old"}
    assert data.columns == {"question": "question", "answer": "metadata", "label": "answer"}


def test_two_of_our_columns_can_change_places(tmp_path: Path) -> None:
    names = {"question": "answer", "answer": "question"}
    assert one(load(csv(tmp_path, "question,answer\na,q\n"), TEXT, Role.LABELED, names=names)) == ("q", "a")


def test_a_column_that_is_mapped_elsewhere_is_not_taken_under_its_own_name_too(tmp_path: Path) -> None:
    assert "no column 'answer'" in refused(csv(tmp_path, "answer,x\nq,y\n"), question="answer")


def test_a_file_that_has_our_name_and_not_the_mapped_one_is_taken_as_it_is(tmp_path: Path) -> None:
    assert one(load(csv(tmp_path, "question,answer\nq,a\n"), TEXT, Role.LABELED, names={"answer": "label"})) == ("q", "a")


def test_an_unlabeled_file_needs_no_mapped_answers(tmp_path: Path) -> None:
    data = load(csv(tmp_path, "text\nq\n"), TEXT, Role.UNLABELED, names={"question": "text", "answer": "label"})
    assert one(data) == ("q", None)


def test_mapped_answers_of_an_unlabeled_file_are_for_reports_alone(tmp_path: Path) -> None:
    data = load(csv(tmp_path, "question,label\nq,a\n"), TEXT, Role.UNLABELED, names={"answer": "label"})
    assert one(data) == ("q", None)
    assert list(data.answers.values()) == ["a"]
    assert data.rows[0].metadata == {}


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"anwser": "label"}, "do not have; did you mean 'answer'?"),
        ({"label": "answer"}, "our name stands on the left: answer=label"),
        ({"x": "y"}, "there are: question, options, answer, id, category, messages, prompt, completion"),
        ({"answer": ""}, "names no column for 'answer'"),
        ({"answer": "lable"}, "no column 'lable', which is mapped to 'answer'; did you mean 'label'?"),
        ({"answer": "label", "category": "Topc"}, "no column 'Topc', which is mapped to 'category'; did you mean 'topic'?"),
    ],
    ids=lambda value: str(value)[:24],
)
@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_wrong_map_is_refused_with_the_name_that_was_meant(
    tmp_path: Path, format: str, names: dict[str, str], reason: str
) -> None:
    row = {"question": "q", "label": "a", "topic": "t"}
    path = jsonl(tmp_path, row) if format == "jsonl" else csv(tmp_path, ",".join(row) + "\n" + ",".join(row.values()) + "\n")
    assert reason in refused(path, **names)


def test_json_rows_may_lack_an_optional_mapped_column_as_long_as_one_has_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"question": "p", "answer": "a"}, {"question": "q", "answer": "b", "topic": "t"})
    data = load(path, TEXT, Role.LABELED, names={"category": "topic"})
    assert [row.category for row in data.rows] == ["", "t"]


@pytest.mark.parametrize(
    ("header", "suggested"),
    [
        ("text,label", "--map question=text --map answer=label"),
        ("Question,Answer", "--map question=Question --map answer=Answer"),
        ("sentence,gold", "--map question=sentence --map answer=gold"),
        ("question,label", "--map answer=label"),
        ("input,output", "--map question=input --map answer=output"),
        ("input,instruction,output", "--map question=instruction --map answer=output"),
        ("Frage,label", "--map question=COLUMN --map answer=label"),
        ("Frage,Antwort", "--map question=COLUMN --map answer=Antwort"),
    ],
)
def test_other_well_known_names_are_suggested_as_a_map(tmp_path: Path, header: str, suggested: str) -> None:
    assert f"({suggested}; in a run file data.map)" in refused(csv(tmp_path, f"{header}\nq,a\n"))


def test_names_in_other_case_are_suggested_beside_what_is_there(tmp_path: Path) -> None:
    """What `data check` says of a file that lacks nothing it needs: mapped by its question alone, it would be taken as unlabeled."""
    assert ColumnReader({"question": "Question"}).suggested(("Question", "Answer")) == {"answer": "Answer"}


def test_only_the_separator_is_named_where_it_is_another(tmp_path: Path) -> None:
    message = refused(csv(tmp_path, "question;answer\nq;a\n"))
    assert "separated by ';', a comma is expected" in message
    assert "--map" not in message


def test_choices_are_suggested_for_options(tmp_path: Path) -> None:
    assert "--map options=choices --map answer=answerKey" in refused(csv(tmp_path, "question,choices,answerKey\nq,x,A\n"), CHOICE)


def test_a_column_of_conversations_is_suggested_for_messages(tmp_path: Path) -> None:
    assert "--map messages=conversations" in refused(jsonl(tmp_path, {"conversations": []}))


def test_options_may_be_an_object_of_texts_and_labels(tmp_path: Path) -> None:
    """As the ARC data set has them on the hub; its labels are letters in most rows and numbers in some."""
    names = {"options": "choices", "answer": "answerKey"}
    rows = [
        {"question": "p", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
        {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "1"},
    ]
    data = load(jsonl(tmp_path, *rows), CHOICE, Role.LABELED, names=names)
    assert [(row.options, row.answer) for row in data.rows] == [(("x", "y"), "B"), (("x", "y"), "A")]
    rows[0]["choices"] = {"text": ["x", "y"], "label": ["C", "D"]}
    assert "the options' labels are C, D" in refused(jsonl(tmp_path, *rows), CHOICE, **names)


def test_options_may_have_a_column_each(tmp_path: Path) -> None:
    """As school tests have them; a row with fewer options than others leaves the last columns empty."""
    path = csv(tmp_path, "question,A,B,C,answer\np,x,y,z,C\nq,x,y,,B\n")
    data = load(path, CHOICE, Role.LABELED, names={"options": "A, B,C"})
    assert [(row.options, row.answer, row.metadata) for row in data.rows] == [(("x", "y", "z"), "C", {}), (("x", "y"), "B", {})]
    assert data.columns == {"question": "question", "A": "options", "B": "options", "C": "options", "answer": "answer"}


def test_an_option_between_others_cannot_be_left_out(tmp_path: Path) -> None:
    """Its neighbour would get its letter."""
    path = jsonl(
        tmp_path,
        {"question": "p", "A": "x", "B": "y", "C": "z", "answer": "A"},
        {"question": "q", "A": "x", "C": "z", "answer": "C"},
    )
    assert "data.jsonl:2: option B is empty" in refused(path, CHOICE, options="A,B,C")


def test_a_misspelt_one_of_the_columns_of_options_is_named(tmp_path: Path) -> None:
    path = csv(tmp_path, "question,opa,opb,answer\nq,x,y,A\n")
    reason = "there is no column 'opc', which is mapped to 'options'; did you mean 'opb'?"
    assert reason in refused(path, CHOICE, options="opa,opc")


def test_a_column_with_a_comma_in_its_name_is_one_column(tmp_path: Path) -> None:
    data = load(
        jsonl(tmp_path, {"question": "q", "A,B": ["x", "y"], "answer": "B"}), CHOICE, Role.LABELED, names={"options": "A,B"}
    )
    assert data.rows[0].options == ("x", "y")


@pytest.mark.parametrize(
    ("columns", "suggested"),
    [
        (("B", "A", "D", "C"), "A,B,C,D"),
        (("opa", "opb"), "opa,opb"),
        (("Option 1", "Option 2"), "Option 1,Option 2"),
        (("ending0", "ending1", "ending2"), "ending0,ending1,ending2"),
        (("A", "C"), None),  # it is not known what B is
        (("a",), None),
        (("1", "2"), None),
        (("sentence1", "sentence2"), None),
    ],
)
def test_columns_of_an_option_each_are_suggested(columns: tuple[str, ...], suggested: str | None) -> None:
    assert ColumnReader().suggested(("question", "answer", *columns)).get("options") == suggested


def test_columns_of_an_option_each_are_suggested_where_options_lack(tmp_path: Path) -> None:
    path = csv(tmp_path, "question,option_a,option_b,answer\nq,x,y,A\n")
    assert "--map options=option_a,option_b;" in refused(path, CHOICE)
