"""`semievol export`: what a run trained on, as a file for other trainers."""

from __future__ import annotations

from pathlib import Path

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options

_FORMATS = ("jsonl", "parquet")


@click.command(short_help="Write what a run trained on, pseudo-labels included, to a file.")
@click.argument("run")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--iteration", type=click.IntRange(1), help="Default: the last one that has selected.")
@click.option("--format", "format", type=click.Choice(_FORMATS), help="Default: by the file's ending, .jsonl or .parquet.")
@click.option("--yes", is_flag=True, help="Replace the file if it is there.")
@target_options
@json_option
def export(run: str, out: Path, iteration: int | None, format: str | None, yes: bool, target: Target, as_json: bool) -> None:
    """Write the rows that an iteration of RUN trained its model on: pseudo-labels first, then labeled rows.

    Each row has `prompt` and `completion` (TRL reads them), `messages` (LLaMA-Factory does), and where it comes from: source, question,
    options, answer, entropy, agreement, decision, what each collaborator answered, run, iteration, model. docs/data.md describes them.
    """
    from semievol.cli import trainingrows
    from semievol.cli.connect import controller, find_run
    from semievol.data import writing

    ending = f".{format}" if format else ""
    if not format:
        writing.check_ending(out, [f".{name}" for name in _FORMATS])
    schema = trainingrows.schema() if (ending or out.suffix.lower()) == ".parquet" else None
    with controller(target) as connection:
        found = find_run(connection.client, run)
        records = trainingrows.records(connection.client, found.id, iteration or 0)
        count = writing.write(out, records, trainingrows.COLUMNS, schema, replace=yes, format=ending)
    if as_json:
        output.json_line({"run": found.id, "file": str(out), "rows": count})
    else:
        output.data(f"{out}: {count} rows of run {found.id}")
