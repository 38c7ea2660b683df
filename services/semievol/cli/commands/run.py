"""`semievol run`: everything on this machine, start to finish."""

from __future__ import annotations

from pathlib import Path

import click

from semievol.cli import output
from semievol.cli.options import home_option, json_option, launcher_option, milvus_option, run_file_option, store_option


@click.command(short_help="Run an evolution on this machine, start to finish.")
@run_file_option
@home_option
@store_option
@milvus_option
@launcher_option
@json_option
def run(run_file: Path, home: Path, store: str, milvus: str, launcher: str, as_json: bool) -> None:
    """Run an evolution on this machine, start to finish, and print its result.

    The same command again continues where it stopped, and prints what it reused. With --json, stdout gets exactly one JSON object, the
    result (docs/run-file.md). Uses the running services of --home (`semievol serve`) if there are any.
    """
    from semievol.cli.connect import suite
    from semievol.cli.ending import show_result, wait_for_end
    from semievol.cli.runfiles import announce, check_rows, read_run_file, uploaded
    from semievol.client.controller import ControllerClient

    spec = read_run_file(run_file)
    with output.on_interrupt(f"What is finished is kept; continue with: semievol run -f {run_file}"):
        announce(check_rows(spec))
        with (
            suite(home, spec, launcher, store=store, milvus=milvus) as services,
            ControllerClient(services.addresses["controller"]) as client,
        ):
            submitted = client.submit(uploaded(client, spec))
            output.note(f"Run {submitted.id}")
            if not services.here:
                output.note(
                    f"It goes on in the running services if this command ends; stop it with: semievol cancel {submitted.id}"
                )
            ended = wait_for_end(client, submitted)
    show_result(ended, as_json=as_json)
