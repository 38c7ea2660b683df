"""`semievol init`: a run file to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from semievol.cli import output


@click.command(short_help="Write a commented run file.")
@click.argument("path", type=click.Path(path_type=Path), default="run.yaml")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
def init(path: Path, force: bool) -> None:
    """Write a run file with every key, what it means and its default, to PATH (run.yaml)."""
    from semievol.cli.runkeys import template
    from semievol.common import errors

    target = path / "run.yaml" if path.is_dir() else path
    try:
        with target.open("w" if force else "x", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError as error:
        raise errors.AlreadyExists(f"{target} is there already; --force overwrites it.") from error
    except FileNotFoundError as error:
        raise errors.NotFound(f"There is no directory {target.parent}.") from error
    output.note(f"Wrote {target}. Name your data files in it, then: semievol data check -f {target}; semievol run -f {target}")
