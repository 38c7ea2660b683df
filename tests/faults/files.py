"""Data files and run files that are wrong in every way that users get them wrong (R7)."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable

from tests.faults.bench import Case, Ended, Place

DATA, RUN_FILES = "Data files", "Run files"
HEADER = "id,question,options,answer\n"
OPTIONS = '"[""red"", ""green"", ""blue""]"'
ROWS = [f"x-{n},What colour is {n}?,{OPTIONS},{'ABC'[n % 3]}" for n in range(20)]
CSV = HEADER + "\n".join(ROWS) + "\n"
JSONL = "".join(
    json.dumps({"id": f"x-{n}", "question": f"What colour is {n}?", "options": ["red", "green"], "answer": "AB"[n % 2]}) + "\n"
    for n in range(20)
)
LONG_LINE_BYTES = 100 * 1000 * 1000


def with_row(row: str) -> bytes:
    """The good file with this in place of its second row, which is line 3."""
    return (HEADER + "\n".join([ROWS[0], row, *ROWS[2:]]) + "\n").encode()


def parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = [json.loads(line) for line in JSONL.splitlines()]
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def damaged_parquet() -> bytes:
    data = bytearray(parquet())
    data[20:60] = bytes(40)
    return bytes(data)


def file(name: str, data: Callable[[], bytes], *, quarantine: bool = False) -> Callable[[Place], Ended]:
    """`semievol data check` and `semievol run` with this file as the labeled one."""

    def inject(place: Place) -> Ended:
        path = place.use("labeled", name, data())
        if quarantine:
            place.append("bad_rows: quarantine\n")
        checked = place.semievol("data", "check", "-f", place.run_file)
        ended = place.run()
        path.unlink()
        assert "Traceback" not in checked.stderr, checked.stderr
        assert bool(checked.code) == (bool(ended.code) or quarantine), (
            f"data check ended with {checked.code}, run with {ended.code}"
        )
        return ended

    return inject


def directory_in_place_of_a_file(place: Place) -> Ended:
    (place.directory / "folder.csv").mkdir(exist_ok=True)
    place.point("labeled", "folder.csv")
    return place.run()


def missing_file(place: Place) -> Ended:
    place.point("labeled", "lableed.csv")
    return place.run()


def one_id_in_two_files(place: Place) -> Ended:
    text = (place.directory / "test.csv").read_text()
    (place.directory / "test.csv").write_text(text.replace("test-000", "labeled-000"))
    return place.run()


def bad(name: str, says: str, file_name: str, data: Callable[[], bytes]) -> Case:
    return Case(DATA, name, (64,), says, file(file_name, data), True)


def good(name: str, file_name: str, data: Callable[[], bytes]) -> Case:
    return Case(DATA, name, (0,), "Read 20 labeled rows", file(file_name, data), True)


DATA_CASES = [
    good("a byte order mark", "labeled.bom.csv", lambda: b"\xef\xbb\xbf" + CSV.encode()),
    good("CRLF line ends", "labeled.crlf.csv", lambda: CSV.replace("\n", "\r\n").encode()),
    good("a byte order mark and CRLF in JSONL", "labeled.jsonl", lambda: b"\xef\xbb\xbf" + JSONL.replace("\n", "\r\n").encode()),
    good("no line end after the last row", "labeled.short.csv", lambda: CSV.rstrip().encode()),
    bad("a NUL character in a cell", r"csv:3: .*NUL", "nul.csv", lambda: with_row(ROWS[1].replace("colour", "col\0our"))),
    bad("an escaped NUL in JSONL", r"jsonl:1: .*NUL", "nul.jsonl", lambda: JSONL.replace("colour", r"col\u0000our").encode()),
    bad(
        "a line of 100 MB",
        r"csv:3: the row is longer",
        "long.csv",
        lambda: with_row(f"x-1,{'long ' * (LONG_LINE_BYTES // 5)},{OPTIONS},A"),
    ),
    bad("an id that occurs twice", r"csv:3: the id 'x-0' is that of line 2", "twice.csv", lambda: with_row(ROWS[0])),
    bad(
        "a missing column",
        r"csv:1: there is no column 'answer'; did you mean 'answer' by 'anwser'",
        "column.csv",
        lambda: CSV.replace("answer", "anwser").encode(),
    ),
    bad("UTF-16", r"csv:1: .*UTF-16", "utf16.csv", lambda: CSV.encode("utf-16")),
    bad("UTF-16 without a mark", r"csv:1: .*UTF-16", "utf16le.csv", lambda: CSV.encode("utf-16-le")),
    bad("Latin-1", r"csv:3: .*UTF-8", "latin.csv", lambda: with_row(ROWS[1]).replace(b"colour", b"col\xf6r", 2)),
    bad("truncated JSON", r"jsonl:20: not valid JSON", "cut.jsonl", lambda: JSONL[:-30].encode()),
    bad("a JSON array in place of lines", r"jsonl:1: .*object", "array.jsonl", lambda: json.dumps([1, 2]).encode()),
    bad("JSON nested 100,000 deep", r"jsonl:1: .*nested", "deep.jsonl", lambda: b'{"question":' + b"[" * 100_000),
    bad("an empty file", r"empty\.csv:1: the file is empty", "empty.csv", lambda: b""),
    bad("blank lines only", r"csv:1: the file is empty", "blank.csv", lambda: b"\n \n\n"),
    bad("a header only", r"has no rows", "header.csv", lambda: HEADER.encode()),
    bad("one cell too many", r"csv:3: the row has 5 cells, the header 4", "wide.csv", lambda: with_row(ROWS[1] + ",x")),
    bad("one cell too few", r"csv:3: the row has 3 cells, the header 4", "narrow.csv", lambda: with_row(ROWS[1][:-2])),
    bad("a quote that does not end", r"csv:3: .*quote", "quote.csv", lambda: with_row(f'x-1,"What colour,{OPTIONS},A')),
    bad("binary", r"bin\.csv:\d+: ", "bin.csv", lambda: random.Random(0).randbytes(5000)),
    bad("gzip", r"gz\.csv:1: .*gzip", "gz.csv", lambda: gzip.compress(CSV.encode())),
    bad("a ZIP archive named .csv", r"csv:1: .*ZIP", "zip.csv", lambda: b"PK\x03\x04" + bytes(500)),
    bad("a spreadsheet (.xlsx)", r"\.xlsx", "sheet.xlsx", lambda: b"PK\x03\x04" + bytes(500)),
    bad("Parquet named .csv", r"csv:1: .*Parquet", "parquet.csv", parquet),
    bad("damaged Parquet", r"parquet:\d+: ", "damaged.parquet", damaged_parquet),
    bad("truncated Parquet", r"parquet:1: .*damaged", "cut.parquet", lambda: parquet()[:-20]),
    bad("CSV named .parquet", r"parquet:1: ", "text.parquet", lambda: CSV.encode()),
    bad(
        "an answer not among its options",
        r"csv:3: the answer 'purple' is neither a letter A-C nor one of the options",
        "answer.csv",
        lambda: with_row(ROWS[1][:-1] + "purple"),
    ),
    bad("an empty answer", r"csv:3: the answer is empty", "unanswered.csv", lambda: with_row(ROWS[1][:-1])),
    bad("one option only", r"csv:3: .*at least 2 options", "option.csv", lambda: with_row('x-1,What?,"[""red""]",A')),
    Case(DATA, "a directory in place of a file", (64,), r"data\.labeled.*folder\.csv", directory_in_place_of_a_file),
    Case(DATA, "a file that is not there", (64,), r"data\.labeled.*lableed\.csv", missing_file),
    Case(DATA, "one id for two rows in two files", (64,), r"labeled-000.*names different rows", one_id_in_two_files),
    Case(
        DATA,
        "one bad row in 20, quarantined",
        (0,),
        r"Left out 1 bad rows .*csv:3: the answer is empty",
        file("some.csv", lambda: with_row(ROWS[1][:-1]), quarantine=True),
    ),
    Case(
        DATA,
        "every second row bad, quarantined",
        (64,),
        r"at most 10 % may be left out|at most 10% may be left out",
        file("many.csv", lambda: CSV.replace(",A\n", ",Z\n").replace(",B\n", ",Z\n").encode(), quarantine=True),
    ),
]


def text(name: str, says: str, change: Callable[[str], str]) -> Case:
    def inject(place: Place) -> Ended:
        place.run_file.write_text(change(place.run_file.read_text()))
        return place.run()

    return Case(RUN_FILES, name, (64,), says, inject)


def raw(name: str, says: str, data: bytes) -> Case:
    def inject(place: Place) -> Ended:
        place.run_file.write_bytes(data)
        return place.run()

    return Case(RUN_FILES, name, (64,), says, inject)


def missing_run_file(place: Place) -> Ended:
    return place.semievol("run", "-f", place.directory / "nothing.yaml", "--home", place.home)


def directory_as_run_file(place: Place) -> Ended:
    return place.semievol("run", "-f", place.directory, "--home", place.home)


RUN_FILE_CASES = [
    text("an unknown key", r"unknown key 'tetha'; did you mean 'theta'\?", lambda it: it + "tetha: 40\n"),
    text("an unknown key below another", r"did you mean 'train.epochs'", lambda it: it + "train: {epoch: 2}\n"),
    text("an unknown key that is like none", r"unknown key 'zzz'; see docs/run-file.md", lambda it: it + "zzz: 1\n"),
    text("an unknown key of data", r"did you mean 'data.unlabeled'", lambda it: it.replace("unlabeled:", "unlabelled:")),
    text("a text where a number belongs", r"theta: .*number.*not 'high'", lambda it: it + "theta: high\n"),
    text("a number out of range", r"theta: .*100, not 150", lambda it: it + "theta: 150\n"),
    text("not a number (.nan)", r"theta: ", lambda it: it + "theta: .nan\n"),
    text("a list where a mapping belongs", r"train: ", lambda it: it + "train: [1, 2]\n"),
    text("an unknown task type", r"task\.type: .*'choise'", lambda it: it + "task: {type: choise}\n"),
    text("a name with a slash", r"name: letters, digits", lambda it: it.replace("name: colours", "name: a/b")),
    text("a key that is missing", r"the key 'model' is missing", lambda it: it.replace("model: fake\n", "", 1)),
    text(
        "more references than are retrieved",
        r"references is 9, but only 3",
        lambda it: it.replace("references: 1", "references: 9"),
    ),
    text("broken YAML", r"run\.yaml:\d+: not valid YAML", lambda it: it + "train: {epochs: [\n"),
    text("a tab in YAML", r"run\.yaml:\d+: not valid YAML", lambda it: it + "train:\n\tepochs: 2\n"),
    raw("an empty run file", r"must hold keys and values", b""),
    raw("a run file that is a list", r"must hold keys and values", b"- a\n- b\n"),
    raw("a binary run file", r"not UTF-8", b"\xff\xfe\x00\x01" * 50),
    raw("a run file with a NUL", r"not valid YAML", b"name: a\0b\n"),
    Case(RUN_FILES, "a run file that is not there", (64,), r"no run file .*semievol init", missing_run_file),
    Case(RUN_FILES, "a directory as run file", (2,), r"is a directory", directory_as_run_file),
]
