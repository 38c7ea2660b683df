"""`semievol doctor`: does everything work, and if not, what is wrong and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, milvus_option, target_options

if TYPE_CHECKING:
    from semievol.common.findings import Finding


@click.command(short_help="Check this machine and every service.")
@click.option(
    "-f",
    "--file",
    "run_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Start the services with the models of this run file.",
)
@click.option("--train", is_flag=True, help="Train one update, too; it takes longest.")
@click.option("--local", is_flag=True, help="Look at this machine alone: start and ask no service.")
@target_options
@milvus_option
@json_option
def doctor(run_file: Path | None, train: bool, local: bool, target: Target, milvus: str, as_json: bool) -> None:
    """Check this machine and every service, with one row through each: embed, search, generate, score, judge.

    Uses the services at --address or on a cluster, or the running ones of --home; without any it starts them for this, which prepares the model. One line a
    finding: ok, warning or failed, what was found, what to do. Exit code 0 unless something failed, then that of the worst: 77 not
    allowed, 74 disk or store, 69 a part is missing or down.
    """
    from semievol.cli.checks import worst
    from semievol.common.findings import FAIL, WARN

    found = []
    for check in _checks(run_file, target, milvus, train=train, local=local):
        found.append(check)
        if not as_json:
            output.data(_line(check))
    failed, warned = (sum(check.status == status for check in found) for status in (FAIL, WARN))
    if as_json:
        names = ("name", "status", "message", "advice", "seconds", "exit_code")
        output.json_line({"ok": not failed, "checks": [{name: getattr(check, name) for name in names} for check in found]})
    else:
        output.note(f"{len(found)} findings: {failed} failed, {warned} warnings.")
    if failed:
        sys.exit(worst(found))


def _checks(run_file: Path | None, target: Target, milvus: str, *, train: bool, local: bool) -> Iterator[Finding]:
    """As they come: starting a model takes its time."""
    from semievol.cli import checks
    from semievol.common.findings import FAIL, WARN, Finding

    spec = None
    if run_file is not None:
        from semievol.cli.runfiles import read_run_file

        spec = read_run_file(run_file)
    seen = []
    for check in checks.client() if target.elsewhere else checks.machine(target.home):
        seen.append(check)
        yield check
    if local:
        return
    if any(check.name == "home" and check.status == FAIL for check in seen):
        yield Finding("services", WARN, "not tried", "mend the home first")
        return
    from semievol.cli.servicechecks import Wanted, services

    names = ("model", "embedding", "engine", "trainer")
    models = {name: getattr(spec, name) for name in names} if spec else {}
    yield from services(target, Wanted(**models, store=target.store, milvus=milvus), train=train)


def _line(check: Finding) -> str:
    time = f" ({output.duration(check.seconds)})" if check.seconds >= 0.05 else ""
    advice = f"; {check.advice}" if check.advice else ""
    return f"{check.status:<7}  {check.name}: {check.message}{time}{advice}"
