"""Chats as rows: what is taken from them, and every chat that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from semievol.algorithm.types import Row, Task, TaskType
from semievol.common import errors
from semievol.data.intake import DataSet, Role, load

TEXT, CHOICE = Task(TaskType.TEXT), Task(TaskType.CHOICE)
SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Who?"}
ASSISTANT = {"role": "assistant", "content": "Ada"}


def jsonl(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def taken(tmp_path: Path, row: dict[str, Any], role: Role = Role.LABELED, task: Task = TEXT) -> tuple[Row, DataSet]:
    data = load(jsonl(tmp_path, row), task, role)
    return data.rows[0], data


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"messages": json.dumps([USER, ASSISTANT])},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}, ASSISTANT]},
        {"prompt": "Who?", "completion": "Ada"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "Ada"},
        {"prompt": "Who?", "answer": "Ada"},
        {"prompt": [USER], "completion": [{"role": "assistant", "content": "**Answer: Ada**"}]},
        {"messages": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ada"}]},  # ShareGPT
    ],
    ids=range(9),
)
def test_the_users_message_is_the_question_and_the_assistants_the_answer(tmp_path: Path, row: dict[str, Any]) -> None:
    found, data = taken(tmp_path, row)
    assert (found.question, found.answer, dict(found.metadata)) == ("Who?", "Ada", {})
    assert "metadata" not in data.columns.values()


def test_system_text_is_metadata(tmp_path: Path) -> None:
    for role in ("system", "developer"):
        found, _ = taken(tmp_path, {"messages": [SYSTEM | {"role": role}, USER, ASSISTANT]})
        assert (found.question, dict(found.metadata)) == ("Who?", {"system": "Be brief."})


def test_of_a_reply_that_ends_as_our_prompts_ask_the_answer_is_taken_and_the_rest_is_metadata(tmp_path: Path) -> None:
    reply = "She wrote the first program.\nAnswer: Ada"
    found, _ = taken(tmp_path, {"messages": [USER, {"role": "assistant", "content": reply}]})
    assert (found.answer, dict(found.metadata)) == ("Ada", {"assistant": reply})


def test_a_chat_can_have_options_beside_it(tmp_path: Path) -> None:
    found, _ = taken(tmp_path, {"messages": [USER, ASSISTANT], "options": ["Bob", "Ada"]}, task=CHOICE)
    assert (found.options, found.answer) == (("Bob", "Ada"), "B")


def test_a_chat_without_a_reply_is_an_unlabeled_row(tmp_path: Path) -> None:
    for row in ({"messages": [USER]}, {"prompt": "Who?"}, {"messages": [USER, {"role": "assistant", "content": ""}]}):
        found, data = taken(tmp_path, row, Role.UNLABELED)
        assert (found.question, found.answer, data.answers) == ("Who?", None, {})


def test_a_reply_in_an_unlabeled_file_is_for_reports_alone(tmp_path: Path) -> None:
    found, data = taken(tmp_path, {"messages": [USER, ASSISTANT]}, Role.UNLABELED)
    assert (found.answer, data.answers) == (None, {found.id: "Ada"})


def test_a_question_column_wins_over_a_chat_beside_it(tmp_path: Path) -> None:
    found, data = taken(tmp_path, {"question": "Where?", "answer": "here", "messages": [USER, ASSISTANT]})
    assert (found.question, found.answer) == ("Where?", "here")
    assert data.columns["messages"] == "metadata"


def test_the_same_chat_has_the_same_id_in_every_form_and_file_format(tmp_path: Path) -> None:
    path = tmp_path / "chats.parquet"
    parquet.write_table(pyarrow.table({"messages": [[USER, ASSISTANT]]}), path)
    plain, _ = taken(tmp_path, {"question": "Who?", "answer": "Ada"})
    chat, _ = taken(tmp_path, {"messages": [USER, ASSISTANT]})
    assert plain.id == chat.id == load(path, TEXT, Role.LABELED).rows[0].id


FAULTS: dict[str, tuple[Any, str]] = {
    "a text": ({"messages": "Who?"}, "'messages' is no list of messages"),
    "a number": ({"messages": 7}, "'messages' is no list of messages"),
    "empty": ({"messages": []}, "'messages' is empty"),
    "null": ({"messages": None}, "'messages' is empty"),
    "only system": ({"messages": [SYSTEM]}, "no user message"),
    "only an assistant": ({"messages": [ASSISTANT]}, "no user message"),
    "the assistant first": ({"messages": [ASSISTANT, USER]}, "the assistant speaks before the user"),
    "several turns": ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, "has 2 user messages; only chats of one question"),
    "two replies": ({"messages": [USER, ASSISTANT, ASSISTANT]}, "has 2 assistant messages"),
    "no reply": ({"messages": [USER]}, "the answer is empty"),
    "an empty reply": ({"messages": [USER, {"role": "assistant", "content": " "}]}, "the answer is empty"),
    "a tool": ({"messages": [USER, {"role": "tool", "content": "x"}]}, "message 2 of 'messages' has the role 'tool'"),
    "other keys": ({"messages": [{"speaker": "human", "text": "x"}]}, "message 1 of 'messages' is not an object with 'role' and"),
    "half of ShareGPT": ({"messages": [{"from": "human", "content": "x"}]}, "message 1 of 'messages' is not an object with"),
    "no object": ({"messages": ["Who?"]}, "message 1 of 'messages' is not an object"),
    "no text": ({"messages": [{"role": "user", "content": None}, ASSISTANT]}, "message 1 of 'messages' has no text"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ASSISTANT]},
        "message 1 of 'messages' has no text",
    ),
    "an empty question": ({"messages": [{"role": "user", "content": ""}, ASSISTANT]}, "message 1 of 'messages' is empty"),
    "an answered prompt": ({"prompt": [USER, ASSISTANT], "completion": "x"}, "the prompt ends with an assistant message"),
    "a completion by the user": ({"prompt": "x", "completion": [USER]}, "has 2 user messages"),
    "NUL": ({"messages": [{"role": "user", "content": "a\0b"}, ASSISTANT]}, "column 'question' has a NUL character"),
}


@pytest.mark.parametrize(("row", "reason"), FAULTS.values(), ids=FAULTS.keys())
def test_a_chat_that_cannot_be_used_is_named_by_line_and_reason_and_its_neighbours_are_kept(
    tmp_path: Path, row: Any, reason: str
) -> None:
    good = [{"prompt": f"Q{n}?", "completion": "x"} for n in range(2)]
    path = jsonl(tmp_path, good[0], row, good[1])
    with pytest.raises(errors.InvalidInput) as caught:
        load(path, TEXT, Role.LABELED)
    (bad,) = caught.value.rows
    assert bad.line == 2
    assert reason in bad.reason
    kept = load(path, TEXT, Role.LABELED, on_bad="quarantine", max_bad_share=1.0)
    assert [row.question for row in kept.rows] == ["Q0?", "Q1?"]


def test_a_column_of_chats_under_another_name_can_be_mapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"conversation": [USER, ASSISTANT]})
    (row,) = load(path, TEXT, Role.LABELED, names={"messages": "conversation"}).rows
    assert (row.question, row.answer) == ("Who?", "Ada")
