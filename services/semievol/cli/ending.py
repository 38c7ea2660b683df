"""How a run that is followed ends: its result on stdout, or its error."""

from __future__ import annotations

import json

from semievol.cli import failures, output
from semievol.cli.progress import follow
from semievol.cli.result import result_text
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.controller.v1 import controller_service_pb2 as pb

TERMINAL = (pb.STATE_SUCCEEDED, pb.STATE_FAILED, pb.STATE_CANCELLED)


def wait_for_end(client: ControllerClient, run: pb.Run) -> pb.Run:
    """Shows what happens since the run last started, until it ends; the run as it ended. Raises what it failed with, Cancelled."""
    follow(client.watch(run.id, run.last_start_number))
    run = client.get_run(run.id)
    raise_if_failed(run)
    return run


def raise_if_failed(run: pb.Run) -> None:
    if run.state == pb.STATE_FAILED:
        raise failures.of_run(run.error, run.error_class)
    if run.state == pb.STATE_CANCELLED:
        raise errors.Cancelled(f"Run {run.id} was cancelled; continue it with `semievol retry {run.id}`, or run its file again.")


def show_result(run: pb.Run, *, as_json: bool) -> None:
    """One JSON object, or a table."""
    if not run.result_json:
        raise errors.InternalError(f"Run {run.id} ended without a result.")
    result = json.loads(run.result_json)
    if as_json:
        output.json_line(result)
    else:
        output.data(result_text(result))
