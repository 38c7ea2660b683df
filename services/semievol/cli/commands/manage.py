"""What is kept: list and delete runs, give them more rows, make room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options

if TYPE_CHECKING:
    from semievol.controller.v1 import controller_service_pb2 as pb


@click.group(short_help="List and delete runs.")
def runs() -> None:
    """List and delete runs."""


@runs.command("list")
@target_options
@json_option
def list_runs(target: Target, as_json: bool) -> None:
    """Show all runs, newest first (as `semievol status` does)."""
    from semievol.cli.commands.runs import show_runs

    show_runs(target, as_json=as_json)


@runs.command()
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
@json_option
def delete(run: str, yes: bool, target: Target, as_json: bool) -> None:
    """Forget RUN and its models, but for those that an alias points at or pointed at. `semievol gc` then frees the room."""
    from semievol.cli.connect import controller, find_run

    with controller(target, exclusive=True) as connection:
        found = find_run(connection.client, run)
        output.confirm(f"Forget run {found.id} and its models?", "Deleting a run", yes=yes)
        gone = connection.client.delete_run(found.id)
    if as_json:
        output.json_line({"run": gone.run, "models": list(gone.models)})
    else:
        output.data(f"Forgot run {gone.run}" + (f" and its models {', '.join(gone.models)}" if gone.models else ""))


@click.command(short_help="Delete what no run and no alias needs.")
@click.option("--dry-run", is_flag=True, help="Only say how much it is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
@json_option
def gc(dry_run: bool, yes: bool, target: Target, as_json: bool) -> None:
    """Delete steps, uploads and other objects that no run and no model needs: what deleted runs and changed run files left behind.

    Collections of the vector store that held vectors of such steps alone are dropped, too.
    """
    from semievol.cli.connect import controller

    with controller(target, exclusive=True, vectors=True) as connection:
        found = connection.client.collect_garbage(dry_run=True)
        for note in found.notes:
            output.note(note)
        if found.object_count and not dry_run:
            output.confirm(f"Delete {_garbage(found)}?", "Collecting garbage", yes=yes)
            found = connection.client.collect_garbage(dry_run=False)
    if as_json:
        counted = {"objects": found.object_count, "bytes": found.size_bytes}
        output.json_line({**counted, "collections": list(found.collections), "notes": list(found.notes), "deleted": not dry_run})
        return
    output.data(f"{'Would delete' if dry_run else 'Deleted'} {_garbage(found)}")
    for name in found.collections:
        output.data(f"  collection {name}")


def _garbage(found: pb.CollectGarbageResponse) -> str:
    """`3 objects, 3.0 KiB, 1 collection`"""
    count = len(found.collections)
    more = f", {count} collection{'' if count == 1 else 's'}" if count else ""
    return f"{found.object_count} objects, {_size(found.size_bytes)}{more}"


@click.command(short_help="Give a run more unlabeled rows.")
@click.argument("run")
@click.argument("files", nargs=-1, required=True)
@target_options
@json_option
def add(run: str, files: tuple[str, ...], target: Target, as_json: bool) -> None:
    """Give RUN more unlabeled rows. Its next iteration takes them up; one that has all its iterations behind it gets another.

    FILES (dataset directories and hub datasets too) are read as the run's own unlabeled file. Rows that the run has seen are left out.
    """
    from semievol.cli.connect import controller, find_run
    from semievol.cli.runfiles import upload
    from semievol.common import errors
    from semievol.data.intake import Role

    taken = []
    with controller(target) as connection:
        client = connection.client
        found = find_run(client, run)
        for file in files:
            try:
                each = client.add_data(found.id, upload(client, file, Role.UNLABELED))
            except errors.InvalidInput as error:
                error.field = file  # users do not know where it was put
                raise
            taken.append(each)
            if not as_json:
                rows = f"{each.row_count} rows, {each.new_row_count} of them new"
                output.data(f"Run {found.id} takes up {file} in iteration {each.iteration}: {rows}")
    if as_json:
        files_taken = [
            {"file": file, "iteration": each.iteration, "rows": each.row_count, "new": each.new_row_count}
            for file, each in zip(files, taken, strict=True)
        ]
        output.json_line({"run": found.id, "iterations": [each.iteration for each in taken], "files": files_taken})
        return
    from semievol.controller.v1 import controller_service_pb2 as pb

    if taken[-1].run.state != pb.STATE_RUNNING:
        output.note(f"Go on with: semievol retry {found.id}")


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
