"""Data intake (R7): every planted fault gets the right verdict on the right line, and its neighbours are unaffected."""

from __future__ import annotations

import json
import tracemalloc
from datetime import datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from semievol.algorithm.types import AnswerForm, Task, TaskType
from semievol.common import errors
from semievol.data.intake import DataSet, Role, load

CHOICE, NUMBER, TEXT = (Task(type) for type in (TaskType.CHOICE, TaskType.NUMBER, TaskType.TEXT))
OPTIONS = '"[""red"", ""green"", ""blue""]"'
HEADER = "id,question,options,answer\n"
GOOD_1, GOOD_2 = f"g1,Which one is first?,{OPTIONS},A\n", f"g2,Which one is last?,{OPTIONS},blue\n"


def csv_file(tmp_path: Path, text: str | bytes, name: str = "data.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl_file(tmp_path: Path, *rows: object) -> Path:
    return csv_file(tmp_path, "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "data.jsonl")


def refused(path: Path, task: Task = CHOICE, role: Role = Role.LABELED) -> errors.InvalidInput:
    with pytest.raises(errors.InvalidInput) as caught:
        load(path, task, role)
    assert caught.value.field == f"data.{role}"
    return caught.value


def kept(path: Path, task: Task = CHOICE, role: Role = Role.LABELED) -> DataSet:
    return load(path, task, role, on_bad="quarantine", max_bad_share=1.0)


# A fault in a CSV row that stands on line 3, between two good rows: what the row is, and what its verdict says.
CSV_FAULTS = {
    "empty question": (f"x, ,{OPTIONS},A\n", "question is empty"),
    "empty answer": (f"x,Q?,{OPTIONS},\n", "answer is empty"),
    "answer outside the options": (f"x,Q?,{OPTIONS},D\n", "neither a letter A-C nor one of the options"),
    "answer of two letters": (f"x,Q?,{OPTIONS},AB\n", "neither a letter"),
    "one option": ('x,Q?,"[""red""]",A\n', "at least 2 options, this has 1"),
    "no options": ("x,Q?,,A\n", "at least 2 options, this has 0"),
    "27 options": (f'x,Q?,"{list(range(27))}",A\n', "can have 26 options, this has 27"),
    "options that are no list": ("x,Q?,red; green,A\n", "neither a JSON list nor a Python list"),
    "options that are code": ("x,Q?,\"[__import__('os').getcwd(), 'b']\",A\n", "neither a JSON list nor a Python list"),
    "an array printed without commas": ("x,Q?,['red' 'green'],A\n", "at least 2 options, this has 1"),
    "nested beyond reason": (f"x,Q?,{'[' * 9000},A\n", "neither a JSON list nor a Python list"),
    "duplicate options": ('x,Q?,"[""red"", ""green"", ""red ""]",A\n', "options A and C are the same"),
    "an empty option": ('x,Q?,"[""red"", """"]",A\n', "option B is empty"),
    "an option that is a list": ('x,Q?,"[""red"", [1]]",A\n', "option B is neither a text nor a number"),
    "duplicate id": (f"g1,Q?,{OPTIONS},A\n", "the id 'g1' is that of line 2"),
    "empty id": (f",Q?,{OPTIONS},A\n", "the id is empty"),
    "id with a line end": (f'"x\ny",Q?,{OPTIONS},A\n', "control characters"),
    "too few cells": (f"x,Q?,{OPTIONS}\n", "the row has 3 cells, the header 4"),
    "too many cells": (f"x,Q?,{OPTIONS},A,more\n", "the row has 5 cells, the header 4"),
    "a quote that does not end": (f'x,"Q?,{OPTIONS},A\n', "not valid CSV"),
    "text after a quote": (f'x,"Q"?,{OPTIONS},A\n', "text after a closing quote"),
    "a carriage return inside": (f"x,Q\rR,{OPTIONS},A\n", "carriage return"),
    "NUL": (f"x,Q\0?,{OPTIONS},A\n", "column 'question' has a NUL character"),
    "Latin-1": (f"x,Caf\xe9?,{OPTIONS},A\n".encode("latin-1"), "column 'question' has bytes or characters that are no UTF-8"),
}


@pytest.mark.parametrize(("row", "reason"), CSV_FAULTS.values(), ids=CSV_FAULTS.keys())
def test_a_bad_csv_row_is_named_by_line_and_reason_and_its_neighbours_are_kept(
    tmp_path: Path, row: str | bytes, reason: str
) -> None:
    row = row if isinstance(row, bytes) else row.encode()
    path = csv_file(tmp_path, (HEADER + GOOD_1).encode() + row + GOOD_2.encode())
    (bad,) = refused(path).rows
    assert (bad.file, bad.line) == (str(path), 3)
    assert reason in bad.reason
    assert [row.id for row in kept(path).rows] == ["g1", "g2"]


JSON_GOOD = [{"id": f"g{n}", "question": f"Q{n}?", "options": ["x", "y"], "answer": "A"} for n in (1, 2)]
JSON_FAULTS = {
    "an array": ("[1]", "this is an array"),
    "a number": ("7", "this is a number"),
    "a text": ('"x"', "this is a string"),
    "null": ("null", "this is null"),
    "cut off": ('{"id": "x", "question": "Q', "not valid JSON: Unterminated string"),
    "NaN": ('{"id": NaN}', "NaN is no JSON number"),
    "a key twice": ('{"id": 1, "id": 2}', "a key occurs twice"),
    "nested beyond reason": ("[" * 100_000, "nested too deeply"),
    "a misspelt column": ({"qestion": "Q", "options": ["x", "y"], "answer": "A"}, "did you mean 'question' by 'qestion'?"),
    "no question": ({"options": ["x", "y"], "answer": "A"}, "there is no column 'question'"),
    "a question that is a number": ({"question": 3, "options": ["x", "y"], "answer": "A"}, "'question' is not a text"),
    "options that are an object": ({"question": "Q", "options": {"a": 1}, "answer": "A"}, "neither a JSON list"),
    "an answer that is a list": ({"question": "Q", "options": ["x", "y"], "answer": ["A"]}, "'answer' is neither"),
    "an answer that is true": ({"question": "Q", "options": ["x", "y"], "answer": True}, "the answer 'true' is neither a letter"),
    "an id that is a list": ({"id": [1], "question": "Q", "options": ["x", "y"], "answer": "A"}, "'id' is neither"),
    "an escaped NUL": ('{"question": "Q\\u0000", "options": ["x", "y"], "answer": "A"}', "NUL"),
    "an escaped NUL in an option": ('{"question": "Q", "options": ["x\\u0000", "y"], "answer": "A"}', "NUL"),
    "half a character": ('{"question": "Q\\ud800", "options": ["x", "y"], "answer": "A"}', "no UTF-8"),
    "half a character in metadata": ('{"question": "Q", "options": ["x", "y"], "answer": "A", "z": "\\ud800"}', "no UTF-8"),
}


@pytest.mark.parametrize(("row", "reason"), JSON_FAULTS.values(), ids=JSON_FAULTS.keys())
def test_a_bad_json_row_is_named_by_line_and_reason_and_its_neighbours_are_kept(tmp_path: Path, row: object, reason: str) -> None:
    path = jsonl_file(tmp_path, JSON_GOOD[0], row, JSON_GOOD[1])
    (bad,) = refused(path).rows
    assert bad.line == 2
    assert reason in bad.reason
    assert [row.id for row in kept(path).rows] == ["g1", "g2"]


# A fault of the file as a whole: its bytes, and what the message says.
FILE_FAULTS = {
    "empty": (b"", "is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "header only": (HEADER.encode(), "has no rows"),
    "UTF-16 with mark": ((HEADER + GOOD_1).encode("utf-16"), "UTF-16"),
    "UTF-16 without mark": ((HEADER + GOOD_1).encode("utf-16-le"), "UTF-16"),
    "UTF-32": ((HEADER + GOOD_1).encode("utf-32"), "UTF-32"),
    "gzip": (b"\x1f\x8b\x08\x00", "gzip"),
    "a spreadsheet": (b"PK\x03\x04", "spreadsheet"),
    "Parquet": (b"PAR1....", "Parquet"),
    "a missing column": (b"id,options,answer\n", "there is no column 'question'"),
    "a misspelt column": (b"id,Questions,options,answer\n", "did you mean 'question' by 'Questions'?"),
    "no answers": (b"id,question,options\n", "there is no column 'answer'"),
    "a column twice": (b"id,question,question,options,answer\n", "names column 'question' twice"),
    "columns without a name": (b"id,question,options,answer,,\n", "names 2 columns without a name"),
    "semicolons": (b"id;question;options;answer\n", "separated by ';'"),
    "a header in Latin-1": (b"id,question,options,answer,caf\xe9\n", "header"),
    "a header that does not end": (b'id,"question,options,answer\n', "header"),
    "only carriage returns": (b"id,question,options,answer\rx,y,z,A\r", "carriage return"),
}


@pytest.mark.parametrize(("content", "message"), FILE_FAULTS.values(), ids=FILE_FAULTS.keys())
def test_a_file_that_no_row_can_be_had_from_is_refused_in_either_mode(tmp_path: Path, content: bytes, message: str) -> None:
    path = csv_file(tmp_path, content)
    assert message in refused(path).message
    with pytest.raises(errors.InvalidInput, match=r"data\.csv"):
        kept(path)


def test_an_unknown_suffix_names_the_known_ones(tmp_path: Path) -> None:
    assert ".csv, .tsv, .jsonl" in refused(csv_file(tmp_path, "x", "data.xlsx")).message
    assert "jq -c" in refused(csv_file(tmp_path, "[]", "data.json")).message


def test_cells_of_a_tsv_file_are_separated_by_tabs(tmp_path: Path) -> None:
    rows = kept(csv_file(tmp_path, 'question\tanswer\nthis, or that?\t"a\tb"\n', "data.tsv"), TEXT).rows
    assert [(row.question, row.answer) for row in rows] == [("this, or that?", "a\tb")]


def test_ndjson_is_another_ending_of_json_lines(tmp_path: Path) -> None:
    path = jsonl_file(tmp_path, {"question": "Q", "answer": "a"})
    assert kept(path.rename(path.with_suffix(".ndjson")), TEXT).rows[0].answer == "a"


def test_a_file_that_is_not_there_and_a_directory_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound) as caught:
        load(tmp_path / "none.csv", CHOICE, Role.TEST)
    assert caught.value.field == "data.test"
    assert "directory" in refused(tmp_path).message


def test_the_line_of_a_row_is_where_it_begins_even_after_quoted_line_ends(tmp_path: Path) -> None:
    text = HEADER + f'a,"One\ntwo\nthree?",{OPTIONS},A\n\nb,"Four\nfive?",{OPTIONS},Z\nc,Six?,{OPTIONS},B\n'
    path = csv_file(tmp_path, text)
    assert [bad.line for bad in refused(path).rows] == [6]
    assert kept(path).lines == {"a": 2, "c": 8}


def test_a_missing_quote_costs_its_own_row_only_even_when_no_quote_follows(tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'question,answer\none,1\n"two,2\nthree,3\nfour,4\n')
    data = kept(path, NUMBER)
    assert [row.question for row in data.rows] == ["one", "three", "four"]
    assert [(bad.line, bad.reason) for bad in data.bad] == [(3, "not valid CSV: a quoted cell does not end")]


def test_a_100_mb_line_is_refused_in_bounded_memory_and_the_rows_around_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.write(b"question,answer\none,1\n")
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b",2\nthree,3\n")
    tracemalloc.start()
    data = kept(path, NUMBER)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.question for row in data.rows] == ["one", "three"]
    assert [(bad.line, bad.reason) for bad in data.bad] == [(3, "the row is longer than 4194304 bytes")]
    assert peak < 32e6


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_row_limit_is_a_setting(tmp_path: Path, suffix: str) -> None:
    text = {
        "csv": "question,answer\n" + "x" * 300 + ",1\ny,2\n",
        "jsonl": '{"question": "%s", "answer": 1}\n{"question": "y", "answer": 2}\n',
    }
    path = csv_file(tmp_path, text[suffix].replace("%s", "x" * 300), f"data.{suffix}")
    data = load(path, NUMBER, Role.LABELED, on_bad="quarantine", max_bad_share=1, max_row_bytes=200)
    assert [row.question for row in data.rows] == ["y"]
    assert "longer than 200 bytes" in data.bad[0].reason


def test_a_record_of_many_lines_that_passes_the_limit_hints_at_a_missing_quote(tmp_path: Path) -> None:
    path = csv_file(tmp_path, 'question,answer\n"one,1\n' + "two,2\n" * 100)
    data = load(path, NUMBER, Role.LABELED, on_bad="quarantine", max_row_bytes=100)
    assert len(data.rows) == 100
    assert [(bad.line, bad.reason) for bad in data.bad] == [(2, "the row is longer than 100 bytes; a quote may be missing")]


def test_a_cell_of_more_than_128_kib_is_read(tmp_path: Path) -> None:
    path = csv_file(tmp_path, f"question,answer\n{'x' * 200_000},1\n")
    assert len(load(path, NUMBER, Role.LABELED).rows[0].question) == 200_000


def test_byte_order_mark_crlf_blank_lines_and_a_missing_last_line_end_change_nothing(tmp_path: Path) -> None:
    plain = HEADER + f'a,"One\ntwo?",{OPTIONS},A\n' + GOOD_2
    odd = b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").replace("g2", "\r\n\r\ng2").removesuffix("\r\n").encode()
    assert load(csv_file(tmp_path, odd), CHOICE, Role.TEST).rows == load(csv_file(tmp_path, plain), CHOICE, Role.TEST).rows


def test_csv_and_jsonl_of_the_same_rows_give_the_same_rows(tmp_path: Path) -> None:
    rows = [{"id": "1", "question": "Q?", "options": ["x", "y"], "answer": "y", "category": "c", "source_page": "7"}]
    text = 'id,question,options,answer,category,source_page\n1,Q?,"[""x"", ""y""]",y,c,7\n'
    from_csv, from_json = load(csv_file(tmp_path, text), CHOICE, Role.TEST), load(jsonl_file(tmp_path, *rows), CHOICE, Role.TEST)
    assert from_csv.rows == from_json.rows
    assert (from_csv.format, from_json.format) == ("csv", "jsonl")
    assert from_csv.rows[0].category == "c"
    assert from_csv.rows[0].metadata == {"source_page": "7"}
    assert from_csv.columns["source_page"] == "metadata"
    assert from_csv.columns["question"] == "question"


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["red", "green", "blue"], "B", "B"),
        (["red", "green", "blue"], "b", "B"),
        (["red", "green", "blue"], "B.", "B"),
        (["red", "green", "blue"], "(b)", "B"),
        (["red", "green", "blue"], "green", "B"),
        (["red", "green", "blue"], " Green ", "B"),
        (["red", "green", "blue"], "2", "B"),
        (["B", "C", "A"], "A", "A"),  # a lone letter is a label
        (["Co", "CO", "co"], "CO", "B"),  # told apart by case alone
        (["3", "4"], "4", "B"),
        ([3, 4], 4, "B"),
    ],
)
def test_the_answer_of_a_choice_is_a_letter_a_position_or_the_words_of_an_option(
    tmp_path: Path, options: list[str], answer: str, letter: str
) -> None:
    path = jsonl_file(tmp_path, {"question": "Q", "options": options, "answer": answer})
    assert load(path, CHOICE, Role.LABELED).rows[0].answer == letter


@pytest.mark.parametrize("cell", ["['red', 'green']", '["red", "green"]', "('red', 'green')", " [ 'red' , \"green\" ] "])
def test_options_may_be_a_json_or_a_python_list(tmp_path: Path, cell: str) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    path = csv_file(tmp_path, f"question,options,answer\nQ,{quoted},A\n")
    assert load(path, CHOICE, Role.LABELED).rows[0].options == ("red", "green")


@pytest.mark.parametrize("answer", ["12", "-3.5", "1,234.50", "$5", "1e-3", "12%", ".5", "5."])
def test_a_number_is_kept_as_it_is_written(tmp_path: Path, answer: str) -> None:
    path = jsonl_file(tmp_path, {"question": "Q", "answer": answer})
    assert load(path, NUMBER, Role.LABELED).rows[0].answer == answer


@pytest.mark.parametrize("answer", ["twelve", "1,23", "5 or 6", "nan", "inf", "-", "1e9999", "0x10"])
def test_what_is_no_number_is_a_bad_row_of_a_number_task(tmp_path: Path, answer: str) -> None:
    assert "is not a number" in refused(jsonl_file(tmp_path, {"question": "Q", "answer": answer}), NUMBER).message


@pytest.mark.parametrize(
    ("solution", "number"), [("2 + 3 = <<2+3=5>>5\n#### 5", "5"), ("#### 1\n#### -1,200", "-1,200"), ("####$7", "$7")]
)
def test_the_number_after_a_solution_is_the_answer(tmp_path: Path, solution: str, number: str) -> None:
    path = jsonl_file(tmp_path, {"question": "Q", "answer": solution})
    assert load(path, NUMBER, Role.LABELED).rows[0].answer == number
    assert load(path, TEXT, Role.LABELED).rows[0].answer == solution


def test_a_solution_without_a_number_is_shown_whole(tmp_path: Path) -> None:
    assert (
        "'so #### many' is not a number"
        in refused(jsonl_file(tmp_path, {"question": "Q", "answer": "so #### many"}), NUMBER).message
    )


def test_a_text_answer_needs_words(tmp_path: Path) -> None:
    assert load(jsonl_file(tmp_path, {"question": "Q", "answer": "Paris."}), TEXT, Role.TEST).rows[0].answer == "Paris."
    assert "has no words" in refused(jsonl_file(tmp_path, {"question": "Q", "answer": "?!"}), TEXT).message


def test_options_in_a_task_that_has_none_point_to_the_task_type(tmp_path: Path) -> None:
    row = {"question": "Q", "options": ["1", "2"], "answer": "1"}
    assert "the task's type is number" in refused(jsonl_file(tmp_path, row), NUMBER).message


def test_an_unlabeled_file_needs_no_answers_and_its_rows_never_have_one(tmp_path: Path) -> None:
    with_answers = [
        {"question": f"Q{n}", "options": ["x", "y"], "answer": answer} for n, answer in enumerate(["A", "", "nonsense"])
    ]
    without = [{"question": row["question"], "options": row["options"]} for row in with_answers]
    labeled = load(jsonl_file(tmp_path, *with_answers), CHOICE, Role.UNLABELED)
    plain = load(jsonl_file(tmp_path, *without), CHOICE, Role.UNLABELED)
    assert labeled.rows == plain.rows
    assert all(row.answer is None and not row.metadata for row in labeled.rows)
    assert labeled.answers == {labeled.rows[0].id: "A"}
    assert (labeled.ignored_answers, plain.answers) == (1, {})


def test_content_ids_depend_on_question_and_options_alone_and_duplicates_are_numbered(tmp_path: Path) -> None:
    def row(question: str, **more: str) -> dict[str, object]:
        return {"question": question, "options": ["x", "y"], "answer": "A", **more}

    first = load(jsonl_file(tmp_path, row("Q"), row("R"), row("Q", answer="B", note="z"), row("Q")), CHOICE, Role.LABELED)
    ids = [row.id for row in first.rows]
    assert ids[2:] == [f"{ids[0]}-2", f"{ids[0]}-3"]
    assert first.duplicates == 2
    second = load(jsonl_file(tmp_path, row("R", answer="B")), CHOICE, Role.TEST)
    assert second.rows[0].id == ids[1]
    assert len(ids[0]) == 16


def test_fail_names_the_first_five_bad_rows_and_the_count_and_carries_all(tmp_path: Path) -> None:
    path = csv_file(tmp_path, HEADER + GOOD_1 + f"x,Q?,{OPTIONS},D\n" * 8)
    error = refused(path)
    assert [bad.line for bad in error.rows] == list(range(3, 11))
    assert error.message.count(str(path)) == 6
    assert "8 of 9 rows" in error.message
    assert "and 3 more" in error.message


def test_quarantine_leaves_bad_rows_out_up_to_the_share(tmp_path: Path) -> None:
    path = csv_file(tmp_path, HEADER + GOOD_1 + GOOD_2 + f"x,Q?,{OPTIONS},D\n")
    assert len(load(path, CHOICE, Role.LABELED, on_bad="quarantine", max_bad_share=0.34).bad) == 1
    with pytest.raises(errors.InvalidInput, match=r"at most 33% may be left out") as caught:
        load(path, CHOICE, Role.LABELED, on_bad="quarantine", max_bad_share=0.33)
    assert len(caught.value.rows) == 1


def test_reading_stops_after_ten_thousand_bad_rows(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "question,answer\n" + "x,y\n" * 20_000)
    error = refused(path, NUMBER)
    assert len(error.rows) == 10_000
    assert "up to line 10001" in error.message


# ---------------------------------------------------------------- options of the task

TEAMS = Task(TaskType.CHOICE, AnswerForm.TEXT, "", ("Roads", "Water"))


def test_with_options_of_the_task_no_column_is_needed(tmp_path: Path) -> None:
    data = load(csv_file(tmp_path, "id,question,answer\na,It leaks.,Water\nb,A hole.,roads\nc,Both?,2\n"), TEAMS, Role.LABELED)
    assert [(row.options, row.answer) for row in data.rows] == [((), "B"), ((), "A"), ((), "B")]


def test_a_row_may_repeat_the_options_of_the_task_but_have_no_others(tmp_path: Path) -> None:
    header, same, other = "id,question,options,answer\n", '"[""Roads"", ""Water""]"', '"[""Water"", ""Roads""]"'
    data = load(csv_file(tmp_path, f"{header}a,It leaks.,{same},B\n"), TEAMS, Role.LABELED)
    assert data.rows[0].options == ()
    error = refused(csv_file(tmp_path, f"{header}a,It leaks.,{other},A\n"), TEAMS)
    assert "not those of task.options" in error.rows[0].reason


def test_an_answer_outside_the_options_of_the_task_is_refused(tmp_path: Path) -> None:
    error = refused(csv_file(tmp_path, "id,question,answer\na,It leaks.,Parks\n"), TEAMS)
    assert "neither a letter A-B nor one of the options" in error.rows[0].reason


# ---------------------------------------------------------------- Parquet


def parquet_file(tmp_path: Path, rows: list[dict[str, object]], name: str = "data.parquet") -> Path:
    path = tmp_path / name
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_a_parquet_file_gives_the_rows_of_the_same_jsonl_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "question": "Which?", "options": ["red", "green"], "answer": "B", "year": 1999, "note": None},
        {
            "id": "b",
            "question": "Whose \u00fc?\nTwo lines.",
            "options": ["his", "hers"],
            "answer": "his",
            "year": 2001,
            "note": "x",
        },
    ]
    first = load(parquet_file(tmp_path, rows), CHOICE, Role.LABELED)
    second = load(jsonl_file(tmp_path, *rows), CHOICE, Role.LABELED)
    assert first.rows == second.rows
    assert (first.format, first.lines) == ("parquet", {"a": 1, "b": 2})


def test_missing_numbers_dates_and_bytes_of_parquet_are_taken_as_json_would_have_them(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": "How many?", "answer": 2.5, "at": datetime(2026, 1, 2), "score": float("nan"), "raw": b"ab"},
        {"question": "How few?", "answer": 1.0, "at": None, "score": 0.5, "raw": b"\xff"},
    ]
    data = kept(parquet_file(tmp_path, rows), NUMBER)
    assert data.rows[0].metadata == {"at": "2026-01-02 00:00:00", "score": "", "raw": "ab"}
    assert [(bad.line, "no UTF-8" in bad.reason) for bad in data.bad] == [(2, True)]


def test_a_parquet_file_without_a_needed_column_says_which(tmp_path: Path) -> None:
    assert "no column 'answer'" in refused(parquet_file(tmp_path, [{"question": "Q?"}]), TEXT).message


@pytest.mark.parametrize("cut", [0, 3, 40, -9])
def test_a_damaged_parquet_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = parquet_file(tmp_path, [{"question": f"Q{i}?", "answer": "a"} for i in range(50)])
    path.write_bytes(path.read_bytes()[:cut])
    assert "no Parquet file, or a damaged one" in refused(path, TEXT).message


def test_a_parquet_file_under_another_name_is_named(tmp_path: Path) -> None:
    assert "Parquet" in refused(parquet_file(tmp_path, [{"question": "Q?", "answer": "a"}], "data.csv"), TEXT).message


def test_a_parquet_row_over_the_limit_costs_itself_alone(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"question": "Q?" * 100, "answer": "a"}, {"question": "Short?", "answer": "a"}]
    data = load(parquet_file(tmp_path, rows), TEXT, Role.LABELED, on_bad="quarantine", max_bad_share=1.0, max_row_bytes=100)
    assert [row.question for row in data.rows] == ["Short?"]
    assert "longer than 100 bytes" in data.bad[0].reason


FROM_ZERO = [{"id": f"r{n}", "question": f"Q{n}?", "options": list("wxyz"), "answer": int(n > 0)} for n in range(20)]


def test_answers_that_count_from_0_refuse_a_file_even_where_few_rows_show_it(tmp_path: Path) -> None:
    """One 0 in 20 rows is within what quarantine leaves out; the other 19 would each be taken for the option before the one they mean."""
    path = jsonl_file(tmp_path, *FROM_ZERO)
    with pytest.raises(errors.InvalidInput, match="seem to count the options from 0") as caught:
        load(path, CHOICE, Role.LABELED, on_bad="quarantine")
    (bad,) = caught.value.rows
    assert "numbers count the options from 1: write letters" in bad.reason


def test_unlabeled_answers_that_count_from_0_are_not_compared_with(tmp_path: Path) -> None:
    data = load(jsonl_file(tmp_path, *FROM_ZERO, "{"), CHOICE, Role.UNLABELED, on_bad="quarantine")
    assert (len(data.rows), data.answers, data.ignored_answers) == (20, {}, 20)


def test_an_option_may_be_0(tmp_path: Path) -> None:
    data = load(jsonl_file(tmp_path, {"id": "a", "question": "1-1?", "options": ["1", "0"], "answer": 0}), CHOICE, Role.LABELED)
    assert data.answers == {"a": "B"}


@pytest.mark.parametrize(
    "options",
    [
        {"A": "red", "B": "blue"},
        {"B": "blue", "A": "red"},
        [{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}],
        {"text": ["red", "blue"], "label": [1, 2]},
        json.dumps({"A": "red", "B": "blue"}),
    ],
    ids=["letters", "letters in any order", "a list of objects", "an object of lists", "JSON in a text"],
)
def test_options_are_read_as_public_data_sets_have_them(tmp_path: Path, options: object) -> None:
    data = load(jsonl_file(tmp_path, {"question": "Q?", "options": options, "answer": "blue"}), CHOICE, Role.LABELED)
    assert (data.rows[0].options, data.rows[0].answer) == (("red", "blue"), "B")


def test_true_and_false_are_answers(tmp_path: Path) -> None:
    rows = [{"question": f"Q{answer}?", "answer": answer} for answer in (True, False)]
    task = Task(TaskType.CHOICE, AnswerForm.TEXT, options=("True", "False"))
    assert list(load(jsonl_file(tmp_path, *rows), task, Role.LABELED).answers.values()) == ["A", "B"]
    assert list(load(parquet_file(tmp_path, rows), TEXT, Role.LABELED).answers.values()) == ["true", "false"]


@pytest.mark.parametrize(
    ("value", "indent", "how"),
    [([{"question": "Q?"}] * 9, 2, "jq -c '.[]'"), ({"question": "Q?"}, 2, "jq -c '.'"), ([1, 2], 0, "jq -c '.[]'")],
    ids=["an array", "an object", "an array without indents"],
)
def test_json_over_several_lines_is_named_once_and_not_line_by_line(tmp_path: Path, value: object, indent: int, how: str) -> None:
    (bad,) = refused(csv_file(tmp_path, json.dumps(value, indent=indent), "data.jsonl")).rows
    assert "goes on over several lines" in bad.reason
    assert how in bad.reason
