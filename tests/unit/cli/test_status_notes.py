"""What `semievol status` says beside the table of steps."""

from __future__ import annotations

from semievol.cli.commands.runs import _run_text
from semievol.controller.v1 import controller_service_pb2 as pb


def test_steps_that_wait_and_serving_that_is_away_are_told_in_words() -> None:
    run = pb.Run(id="townhall-1a2b3c4d", state=pb.STATE_RUNNING, notes=["The serving engines (demo-engine) have made room."])
    run.steps.add(
        iteration=1, name="infer/warm-2", state=pb.STATE_RUNNING, waiting_reason="Unschedulable: 1 Insufficient nvidia.com/gpu."
    )
    text = _run_text(run)
    assert "waits: Unschedulable: 1 Insufficient nvidia.com/gpu." in text
    assert "The serving engines (demo-engine) have made room." in text
