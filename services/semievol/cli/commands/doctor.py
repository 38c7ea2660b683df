"""`semievol doctor`: is this machine fit, and what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from semievol.cli import output
from semievol.cli.options import home_option, json_option


@click.command(short_help="Check this machine.")
@home_option
@json_option
def doctor(home: Path, as_json: bool) -> None:
    """Check this machine: Python, the packages of each room, disk, memory, processor, models. Exit code 69 if a run cannot work here."""
    from semievol.cli.checks import FAIL, check_all

    checks = check_all(home)
    failed = any(check.status == FAIL for check in checks)
    if as_json:
        body = [{"name": check.name, "status": check.status, "message": check.message} for check in checks]
        output.json_line({"ok": not failed, "checks": body})
    else:
        output.data(output.table(["check", "status", "what"], [[check.name, check.status, check.message] for check in checks]))
    if failed:
        sys.exit(69)
