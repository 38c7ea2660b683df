"""Properties of data intake: what is written is read back, and no bytes at all can bring it down."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from semievol.algorithm.types import Task, TaskType
from semievol.common import errors
from semievol.data.intake import Role, load

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=40).filter(str.strip)
_row = st.fixed_dictionaries(
    {"question": _text, "options": st.lists(_text, min_size=2, max_size=5, unique_by=str.strip), "note": _text}
)


@settings(max_examples=50, deadline=None)
@given(st.lists(_row, min_size=1, max_size=6), st.sampled_from(["csv", "jsonl"]))
def test_rows_that_are_written_are_read_back_whatever_they_contain(rows: list[dict[str, object]], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"data.{suffix}")
        with path.open("w", newline="", encoding="utf-8") as file:
            if suffix == "csv":
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["question", "options", "note"])
                writer.writerows([row["question"], json.dumps(row["options"]), row["note"]] for row in rows)
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data = load(path, Task(), Role.UNLABELED)
    assert [row.question for row in data.rows] == [str(row["question"]).strip() for row in rows]
    assert [list(row.options) for row in data.rows] == [[option.strip() for option in row["options"]] for row in rows]  # type: ignore[attr-defined]
    assert [row.metadata for row in data.rows] == [{"note": row["note"]} for row in rows]
    assert len({row.id for row in data.rows}) == len(rows)


_junk = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from([b'"', b"\n", b"\r\n", b",", b"question,answer\n", b'{"question":"q","answer":1}\n', b"\0"]),
    ),
    max_size=20,
).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(_junk, st.sampled_from(["csv", "jsonl"]), st.sampled_from(list(TaskType)), st.sampled_from(list(Role)))
def test_any_bytes_give_a_data_set_or_invalid_input(junk: bytes, suffix: str, task: TaskType, role: Role) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"data.{suffix}")
        path.write_bytes(b"question,answer\n" + junk if suffix == "csv" else junk)
        try:
            data = load(path, Task(task), role, on_bad="quarantine", max_bad_share=1, max_row_bytes=100)
        except errors.InvalidInput as error:
            str(error).encode()
        else:
            lines = junk.count(b"\n") + 3
            assert all(0 < line <= lines for line in [*data.lines.values(), *(bad.line for bad in data.bad)])
            str([data.rows, data.bad]).encode()
