"""`semievol data check`: what a run would make of data files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from semievol.cli import output
from semievol.cli.commands.manage import add
from semievol.cli.options import json_option

if TYPE_CHECKING:
    from semievol.algorithm.types import Task
    from semievol.data.intake import DataSet

EXAMPLES = 3  # rendered prompts
SHOWN_BAD_ROWS = 50  # as text; --json has them all


@click.group(short_help="Look at data files.")
def data() -> None:
    """Look at data files."""


data.add_command(add)


@data.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("-f", "--file", "run_file", type=click.Path(path_type=Path), help="Check the files of this run file.")
@click.option(
    "--type",
    "task_type",
    type=click.Choice(["choice", "number", "text"]),
    help="Default: choice if there are options, else text.",
)
@click.option("--answer", type=click.Choice(["letter", "text"]), default="letter", show_default=True, help="What is asked for.")
@json_option
def check(files: tuple[Path, ...], run_file: Path | None, task_type: str | None, answer: str, as_json: bool) -> None:
    """Read data files as a run would: rows, columns, three rendered examples, bad rows as `file:line: reason`, overlaps.

    FILES are taken as labeled if they have answers, else as unlabeled. Ends with exit code 64 if a row cannot be used.
    """
    from semievol.cli import datareport
    from semievol.common import errors

    if bool(files) == (run_file is not None):
        raise click.UsageError("Give data files, or a run file with -f.")
    if run_file is not None:
        task, datasets = datareport.of_run_file(run_file)
    else:
        task, datasets = datareport.of_files(files, task_type, answer)
    if as_json:
        output.json_line(datareport.report(task, datasets, EXAMPLES))
    else:
        _print(task, datasets)
    bad = tuple(row for dataset in datasets for row in dataset.bad)
    if bad:
        raise errors.InvalidInput(f"{len(bad)} rows cannot be used. Mend them, or set `bad_rows: quarantine` in the run file.")
    datareport.check_ids(datasets)


def _print(task: Task, datasets: list[DataSet]) -> None:
    from semievol.cli import datareport

    report: dict[str, Any] = datareport.report(task, datasets, EXAMPLES)
    rows = [
        [entry["role"], str(entry["rows"]), str(len(entry["bad_rows"])), str(entry["answers"]), entry["file"]]
        for entry in report["files"]
    ]
    output.data(output.table(["role", "rows", "bad", "answers", "file"], rows))
    for entry in report["files"]:
        columns = ", ".join(f"{name}" if name == use else f"{name} ({use})" for name, use in entry["columns"].items())
        output.data(f"{entry['role']}: columns {columns}; {entry['duplicates']} duplicates")
    for example in report["examples"]:
        output.data(f"\n--- {example['id']} ({example['file']})\n{example['prompt']}\n=> {example['response'] or '(no answer)'}")
    if report["examples"]:
        output.data("")
    for overlap in report["overlaps"]:
        output.data(f"{'Warning: ' if overlap['warning'] else ''}{overlap['text']}")
    bad = [row for dataset in datasets for row in dataset.bad]
    for row in bad[:SHOWN_BAD_ROWS]:
        output.data(str(row))
    if len(bad) > SHOWN_BAD_ROWS:
        output.data(f"... and {len(bad) - SHOWN_BAD_ROWS} more (--json lists all)")
