"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Target:
    """Which controller is meant: the one at `address`, or, if that is empty, the one of `home`, over `store` if that is given."""

    home: Path
    address: str
    store: str = ""


def _expanded(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    return value.expanduser().absolute()


home_option = click.option(
    "--home",
    envvar="SEMIEVOL_HOME",
    show_envvar=True,
    type=click.Path(path_type=Path, file_okay=False),
    default="~/.semievol",
    show_default=True,
    callback=_expanded,
    help="Directory that keeps runs, artifacts and prepared models.",
)
store_option = click.option(
    "--store",
    envvar="SEMIEVOL_STORE",
    show_envvar=True,
    metavar="URI",
    default="",
    help="Artifact store: s3://BUCKET[/PREFIX], a directory, or `embedded`. Default: what --home was last started with, else a directory in it.",
)
milvus_option = click.option(
    "--milvus",
    envvar="SEMIEVOL_MILVUS",
    show_envvar=True,
    metavar="URI",
    default="",
    help="Milvus: http://HOST:PORT, a path ending in .db, or `embedded`. Default: as for --store.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
launcher_option = click.option(
    "--launcher",
    type=click.Choice(["inline", "subprocess"]),
    default="inline",
    show_default=True,
    help="Run steps in threads of this process, or in processes of their own.",
)
run_file_option = click.option(
    "-f",
    "--file",
    "run_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The run file (docs/run-file.md).",
)
_address_option = click.option(
    "--address",
    envvar="SEMIEVOL_CONTROLLER",
    show_envvar=True,
    metavar="HOST:PORT",
    default="",
    help="A controller elsewhere. Default: the one of --home.",
)


def target_options(command: F) -> F:
    """--home, --store and --address, given to the command as `target`."""

    @functools.wraps(command)
    def wrapper(*args: Any, home: Path, store: str, address: str, **kwargs: Any) -> Any:
        return command(*args, target=Target(home, address, store), **kwargs)

    return home_option(store_option(_address_option(wrapper)))  # type: ignore[return-value]
