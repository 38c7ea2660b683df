"""Runs on running services: submit, status, watch, logs, cancel, retry, plan."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, milvus_option, run_file_option, target_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from semievol.controller.v1 import controller_service_pb2 as pb


@click.command(short_help="Start or continue a run on running services.")
@run_file_option
@target_options
@json_option
def submit(run_file: Path, target: Target, as_json: bool) -> None:
    """Start or continue a run on running services, and return at once. The same file again is the same run."""
    from semievol.cli import plain
    from semievol.cli.connect import working_controller
    from semievol.cli.runfiles import announce, check_rows, read_run_file, uploaded

    spec = read_run_file(run_file)
    announce(check_rows(spec))
    with working_controller(target, f"Use `semievol run -f {run_file}`.") as client:
        run = client.submit(uploaded(client, spec))
    if as_json:
        output.json_line(plain.run(run))
    else:
        output.data(run.id)
        output.note(f"Follow it with: semievol watch {run.id}")


def show_runs(target: Target, *, as_json: bool) -> None:
    from semievol.cli import plain
    from semievol.cli.connect import controller

    with controller(target) as connection:
        runs = connection.client.list_runs()
    if as_json:
        output.json_line({"runs": [plain.run(each) for each in runs]})
    else:
        output.data(_runs_table(runs) if runs else "No runs yet.")


@click.command(short_help="Show all runs, or one run's steps.")
@click.argument("run", required=False)
@target_options
@json_option
def status(run: str | None, target: Target, as_json: bool) -> None:
    """Show all runs, or the steps of RUN (an id, or a name: then its newest run)."""
    from semievol.cli import plain
    from semievol.cli.connect import controller, find_run

    if run is None:
        show_runs(target, as_json=as_json)
        return
    with controller(target) as connection:
        found = find_run(connection.client, run)
    if as_json:
        output.json_line(plain.run(found))
    else:
        output.data(_run_text(found))


def _runs_table(runs: Sequence[pb.Run]) -> str:
    from semievol.cli import plain

    rows = [
        [run.id, plain.state(run.state), run.create_time.ToJsonString() if run.HasField("create_time") else ""] for run in runs
    ]
    return output.table(["run", "state", "submitted"], rows)


def _run_text(run: pb.Run) -> str:
    import json

    from semievol.cli import plain
    from semievol.cli.result import result_text

    parts = [f"Run {run.id}: {plain.state(run.state)}", _steps_table(run.steps)]
    if held := [
        f"{plain.step_name(step.iteration, step.name)} waits: {step.waiting_reason}" for step in run.steps if step.waiting_reason
    ]:
        parts.append("\n".join(held))
    parts += run.notes
    if run.error:
        parts.append(f"{run.error_class}: {run.error}")
    if run.result_json:
        parts.append(result_text(json.loads(run.result_json)))
    return "\n\n".join(parts)


def _steps_table(steps: Sequence[pb.StepStatus]) -> str:
    from semievol.cli import plain

    rows = [
        [plain.step_name(step.iteration, step.name), _step_state(step), _step_progress(step), step.key[:12]] for step in steps
    ]
    return output.table(["step", "state", "done", "key"], rows)


def _step_state(step: pb.StepStatus) -> str:
    from semievol.cli import plain

    return "reused" if step.reused else plain.state(step.state)


def _step_progress(step: pb.StepStatus) -> str:
    shards = f"{step.shards_done}/{step.shard_count} shards" if step.shard_count > 1 else ""
    units = f"{step.progress_done}/{step.progress_total} {step.progress_unit}" if step.progress_total else ""
    return ", ".join(part for part in (shards, units) if part)


@click.command(short_help="Follow a run until it ends.")
@click.argument("run")
@target_options
@json_option
def watch(run: str, target: Target, as_json: bool) -> None:
    """Follow RUN until it ends, then print its result. With --json: one event a line."""
    from semievol.cli import plain
    from semievol.cli.connect import controller, find_run
    from semievol.cli.ending import TERMINAL, raise_if_failed, show_result, wait_for_end
    from semievol.common import errors

    with (
        output.on_interrupt(f"The run itself goes on; follow it again with: semievol watch {run}"),
        controller(target) as connection,
    ):
        found = find_run(connection.client, run)
        if not connection.works and found.state not in TERMINAL:
            raise errors.Conflict(
                f"Run {found.id} is not finished, and no services are running for {target.home}; continue it with `semievol run`."
            )
        if as_json:
            for event in connection.client.watch(found.id):
                output.json_line(plain.event(event))
            raise_if_failed(connection.client.get_run(found.id))
            return
        ended = wait_for_end(connection.client, found)
    show_result(ended, as_json=False)


@click.command(short_help="Show what a run's jobs wrote.")
@click.argument("run")
@click.argument("step", required=False, default="")
@click.option("--follow", is_flag=True, help="Go on until the run ends.")
@target_options
@json_option
def logs(run: str, step: str, follow: bool, target: Target, as_json: bool) -> None:
    """Show what the jobs of RUN wrote: all of them, or those of STEP (`1/infer/warm-2`)."""
    from semievol.cli.connect import controller, find_run, nearest
    from semievol.cli.plain import step_name
    from semievol.common import errors

    with controller(target) as connection:
        found = find_run(connection.client, run)
        try:
            for job, line in connection.client.logs(found.id, step, follow=follow and connection.works):
                if as_json:
                    output.json_line({"job": job, "line": line})
                else:
                    output.data(f"{job}  {line}")
        except errors.NotFound as error:
            raise nearest("step", step, [step_name(each.iteration, each.name) for each in found.steps], "step") from error


@click.command(short_help="Stop a run; finished steps are kept.")
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@target_options
@json_option
def cancel(run: str, yes: bool, target: Target, as_json: bool) -> None:
    """Stop RUN and its jobs. Finished steps are kept, and `semievol retry` continues it."""
    from semievol.cli import plain
    from semievol.cli.connect import controller, find_run

    with controller(target) as connection:
        found = find_run(connection.client, run)
        output.confirm(f"Stop run {found.id}?", "Stopping a run", yes=yes)
        stopped = connection.client.cancel_run(found.id)
    if as_json:
        output.json_line(plain.run(stopped))
    else:
        output.data(f"Run {stopped.id}: {plain.state(stopped.state)}")


@click.command(short_help="Continue a failed or cancelled run, or do a part of one again.")
@click.argument("run")
@click.option(
    "--from", "from_step", default="", metavar="STEP", help="Do this step (`1/judge`) and all that follows from it again."
)
@target_options
@json_option
def retry(run: str, from_step: str, target: Target, as_json: bool) -> None:
    """Continue RUN, which failed or was cancelled. Finished steps are not done again, unless --from says so.

    Running services take it over, and the command returns at once. Without them it runs here, and the command ends with its result.
    """
    from semievol.cli import plain
    from semievol.cli.connect import controller, find_run, serving, suite
    from semievol.cli.ending import show_result, wait_for_end
    from semievol.client.controller import ControllerClient
    from semievol.controller.wire import spec_from_wire

    with controller(target) as connection:
        found = find_run(connection.client, run)
        if serving(target):
            continued = connection.client.retry_run(found.id, from_step)
            if as_json:
                output.json_line(plain.run(continued))
            else:
                output.data(f"Run {continued.id}: {plain.state(continued.state)}")
            return
    with (
        output.on_interrupt(f"What is finished is kept; continue with: semievol retry {found.id}"),
        suite(target.home, spec_from_wire(found.spec), "inline", store=target.store) as services,
        ControllerClient(services.addresses["controller"]) as client,
    ):
        ended = wait_for_end(client, client.retry_run(found.id, from_step))
    show_result(ended, as_json=as_json)


@click.command(short_help="Show what a run would do and cost, and what is there already.")
@run_file_option
@target_options
@milvus_option
@json_option
def plan(run_file: Path, target: Target, milvus: str, as_json: bool) -> None:
    """Show what a run would do: rows, calls, estimated tokens and time of every step, what is there already and why the rest is not,
    and the prompts.

    Starts no run, though it stores the data files and tries the models on a few rows. Without running services they are started for this.
    """
    from semievol.cli import plain
    from semievol.cli.connect import controller_elsewhere, suite
    from semievol.cli.planreport import plan_text
    from semievol.cli.runfiles import announce, check_rows, read_run_file, uploaded
    from semievol.client.controller import ControllerClient

    spec = read_run_file(run_file)
    announce(check_rows(spec))
    with contextlib.ExitStack() as stack:
        if target.elsewhere:
            client = stack.enter_context(controller_elsewhere(target))
        else:
            running = suite(target.home, spec, "inline", store=target.store, milvus=milvus)
            client = stack.enter_context(ControllerClient(stack.enter_context(running).addresses["controller"]))
        planned = client.plan(uploaded(client, spec))
    if as_json:
        output.json_line(plain.message(planned))
    else:
        output.data(plan_text(planned))
