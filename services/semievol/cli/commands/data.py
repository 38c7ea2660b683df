"""`semievol data check | show | convert`: what a run would make of data files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from semievol.cli import output
from semievol.cli.commands.manage import add
from semievol.cli.options import json_option

if TYPE_CHECKING:
    from semievol.algorithm.types import Row
    from semievol.cli.datareport import Findings
    from semievol.data.intake import DataSet

F = TypeVar("F", bound=Callable[..., Any])

EXAMPLES = 3  # rendered prompts
SHOWN_BAD_ROWS = 50  # as text; --json has them all


def _map(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    names: dict[str, str] = {}
    for value in values:
        ours, sign, theirs = value.partition("=")
        if not sign or ours in names:
            raise click.BadParameter(
                f"{value!r} {'maps a column again' if sign else 'is not OURS=THEIRS, such as answer=label'}."
            )
        names[ours] = theirs
    return names


def _reading_options(command: F) -> F:
    """How files are read where no run file says it."""
    for option in (
        click.option(
            "--answer", type=click.Choice(["letter", "text"]), default="letter", show_default=True, help="What is asked for."
        ),
        click.option(
            "--type",
            "task_type",
            type=click.Choice(["choice", "number", "text"]),
            help="Default: choice if there are options, number if all answers are numbers, else text.",
        ),
        click.option(
            "--map",
            "names",
            multiple=True,
            metavar="OURS=THEIRS",
            callback=_map,
            help="A column's other name, as answer=label; repeatable.",
        ),
    ):
        command = option(command)
    return command


_role_option = click.option(
    "--role",
    type=click.Choice(["labeled", "unlabeled", "test", "dev"]),
    help="What the rows are for. Default: guessed from the name and the columns.",
)


@click.group(short_help="Look at data files, and convert them.")
def data() -> None:
    """Look at data files, and convert them.

    A data file is CSV, JSONL or Parquet; a directory that `save_to_disk` wrote or that has such files, as DIR or DIR:SPLIT; or a dataset of
    the hub, as hub:OWNER/NAME:SPLIT. Rows have a question, options and an answer, or are chats: messages, or prompt and completion.
    """


data.add_command(add)


@data.command()
@click.argument("files", nargs=-1)
@click.option("-f", "--file", "run_file", type=click.Path(path_type=Path), help="Check the files of this run file.")
@_reading_options
@click.option(
    "--near",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="COSINE",
    help="Also find rows that say nearly the same, by their vectors' cosine (0.95 is a good start). On a CPU about half a minute for 1,000 rows.",
)
@click.option("--embedding", help="The model for --near. Default: the run file's, or bundled:minilm-l6.")
@json_option
def check(
    files: tuple[str, ...],
    run_file: Path | None,
    names: dict[str, str],
    task_type: str | None,
    answer: str,
    near: float | None,
    embedding: str | None,
    as_json: bool,
) -> None:
    """Read data as a run would: what it was taken for, three rendered examples, bad rows as `file:line: reason`, duplicates, overlaps.

    What FILES are for is guessed from their names (unlabeled, test, dev) and from whether they have answers. Ends with exit code 64 if a row
    cannot be used.
    """
    from semievol.cli import datareport
    from semievol.common import errors
    from semievol.data.intake import few_bad

    if bool(files) == (run_file is not None):
        raise click.UsageError("Give data files, or a run file with -f.")
    if run_file is not None and names:
        raise click.UsageError("A run file has its own map: write --map into it as `data: {map: {answer: label}}`.")
    found = datareport.of_run_file(run_file) if run_file else datareport.of_files(files, task_type, answer, names)
    if near is not None:
        _find_near(found, near, embedding)
    if as_json:
        output.json_line(datareport.report(found, EXAMPLES))
    else:
        _print(found)
    bad = tuple(row for dataset in found.datasets for row in dataset.bad)
    if bad:
        otherwise = ", or set `bad_rows: quarantine` in the run file" if all(map(few_bad, found.datasets)) else ""
        raise errors.InvalidInput(f"{len(bad)} rows cannot be used. Mend them{otherwise}.")
    datareport.check_ids(found.datasets)


def _find_near(found: Findings, threshold: float, embedding: str | None) -> None:
    from semievol.data.near import near_overlaps
    from semievol.embedded import embedder

    model = embedding or found.embedding or "bundled:minilm-l6"
    output.note(f"Embedding {sum(len(data.rows) for data in found.datasets)} rows with {model} ...")
    with output.counting("rows embedded") as count:
        found.near = near_overlaps(found.datasets, embedder(model), threshold, count)


def _print(found: Findings) -> None:
    from semievol.cli import datareport

    report: dict[str, Any] = datareport.report(found, EXAMPLES)
    rows = [
        [
            entry["role"],
            str(entry["rows"]),
            str(len(entry["bad_rows"])),
            str(entry["answers"]),
            str(entry["duplicates"]),
            entry["file"],
        ]
        for entry in report["files"]
    ]
    output.data(output.table(["role", "rows", "bad", "answers", "duplicates", "file"], rows))
    for entry in report["files"]:
        output.data(f"{entry['file']}: {entry['guess']}.")
    output.data(report["guess"])
    for shown in report["examples"]:
        output.data(f"\n{_rendered(shown)}")
    if report["examples"]:
        output.data("")
    for overlap in [*report["overlaps"], *report["near"]]:
        output.data(f"{'Warning: ' if overlap['warning'] else ''}{overlap['text']}")
    bad = [row for dataset in found.datasets for row in dataset.bad]
    for row in bad[:SHOWN_BAD_ROWS]:
        output.data(str(row))
    if len(bad) > SHOWN_BAD_ROWS:
        output.data(f"... and {len(bad) - SHOWN_BAD_ROWS} more (--json lists all)")


def _rendered(example: dict[str, Any]) -> str:
    return f"--- {example['id']} ({example['file']})\n{example['prompt']}\n=> {example['response'] or '(no answer)'}"


@data.command()
@click.argument("file")
@click.option("--row", "row_id", metavar="ID", help="Only the row with this id.")
@click.option(
    "--line", type=click.IntRange(1), metavar="N", help="Only the row that begins on this line (in Parquet and directories: row)."
)
@click.option("-n", "count", type=click.IntRange(1), default=5, show_default=True, help="How many of the first rows.")
@_role_option
@_reading_options
@json_option
def show(
    file: str,
    row_id: str | None,
    line: int | None,
    count: int,
    role: str | None,
    names: dict[str, str],
    task_type: str | None,
    answer: str,
    as_json: bool,
) -> None:
    """Show rows of FILE as they are understood, and as the prompt that a model gets."""
    from semievol.cli import datareport

    if row_id is not None and line is not None:
        raise click.UsageError("Give --row or --line, not both.")
    found = datareport.of_one(file, task_type, answer, names, role)
    (dataset,) = found.datasets
    for row in _wanted(dataset, row_id, line, count):
        fields = _fields(row, dataset)
        shown = datareport.example(found.task, dataset, row)
        if as_json:
            output.json_line({**fields, "file": dataset.file, "line": dataset.lines[row.id], **_prompt(shown)})
        else:
            output.data(_rendered(shown))
            output.data("\n".join(f"{name}: {value}" for name, value in fields.items() if value not in ("", None, [], {})) + "\n")


def _prompt(example: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": example["prompt"], "response": example["response"]}


def _wanted(dataset: DataSet, row_id: str | None, line: int | None, count: int) -> list[Row]:
    """Raises NotFound, InvalidInput (the row is a bad one)."""
    from semievol.cli.connect import nearest
    from semievol.common import errors

    bad = [row for row in dataset.bad if line is None or row.line == line]
    if row_id is None and line is None:
        if not dataset.rows:
            raise errors.InvalidInput(f"No row of {dataset.file} can be used.", rows=dataset.bad)
        return list(dataset.rows[:count])
    found = [row for row in dataset.rows if row.id == row_id or dataset.lines[row.id] == line]
    if found:
        return found
    if line is not None and bad:
        raise errors.InvalidInput(f"{bad[0]}.", rows=(bad[0],))
    if row_id is not None:
        raise nearest("row", row_id, [row.id for row in dataset.rows], "row")
    raise errors.NotFound(f"No row of {dataset.file} begins on line {line}.", field="line")


def _fields(row: Row, dataset: DataSet) -> dict[str, Any]:
    return {
        "id": row.id,
        "question": row.question,
        "options": list(row.options),
        "answer": dataset.answers.get(row.id),
        "category": row.category,
        "metadata": dict(row.metadata),
    }


@data.command()
@click.argument("file")
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Replace OUT if it is there.")
@_role_option
@_reading_options
@json_option
def convert(
    file: str, out: Path, yes: bool, role: str | None, names: dict[str, str], task_type: str | None, answer: str, as_json: bool
) -> None:
    """Write the rows of FILE in our columns to OUT, a .jsonl, .csv or .parquet file. Ids stay what they are in a run on FILE.

    Refused where a row cannot be used, and where OUT is there, unless --yes is given.
    """
    from semievol.cli import datareport
    from semievol.common import errors
    from semievol.data import writing

    writing.check_ending(out)
    found = datareport.of_one(file, task_type, answer, names, role)
    (dataset,) = found.datasets
    if dataset.bad:
        raise errors.InvalidInput(f"{len(dataset.bad)} rows of {file} cannot be used; nothing was written.", rows=dataset.bad)
    columns, records = writing.rows_as_records(dataset)
    count = writing.write(out, records, columns, replace=yes)
    if as_json:
        output.json_line({"file": str(out), "rows": count, "columns": columns})
    else:
        output.data(f"{out}: {count} rows, columns {', '.join(columns)}")
