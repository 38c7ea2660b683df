"""Progress as lines: not too many, with rate and ETA."""

from __future__ import annotations

from semievol.cli.bars import Bars
from semievol.cli.output import duration
from semievol.cli.progress import Lines, progress_text, show
from semievol.common.runspec import parse_run_spec
from semievol.controller.fake import succeeded
from semievol.controller.v1 import controller_service_pb2 as pb


def progress(done: int, total: int = 100) -> pb.RunEvent:
    return pb.RunEvent(step_progress=pb.StepProgress(iteration=1, step="warm", done=done, total=total, unit="rows"))


def test_progress_lines_are_ten_seconds_apart_and_have_rate_and_eta() -> None:
    """One row a second from row 20 on: after ten seconds 30 rows, 1.0/s, 70 s to go."""
    lines: list[str] = []
    now = [0.0]
    view = Lines(write=lines.append, clock=lambda: now[0])
    for second in range(25):
        now[0] = float(second)
        show([progress(20 + second)], view)
    assert lines == [
        "1/warm  30/100 rows  1.0/s  ETA 1 min 10 s",
        "1/warm  40/100 rows  1.0/s  ETA 1 min 00 s",
    ]


def test_a_loss_is_shown_and_an_unknown_total_is_not() -> None:
    assert progress_text(pb.StepProgress(done=3, unit="updates", loss=1.25), 0.5) == "3 updates  0.5/s  loss 1.250"


def test_a_sharded_step_starts_once() -> None:
    lines: list[str] = []
    start = pb.RunEvent(step_started=pb.StepStarted(iteration=1, step="judge", shard=0))
    show([start, start], Lines(write=lines.append))
    assert lines == ["1/judge  started"]


def test_bars_take_the_events_of_a_whole_run() -> None:
    spec = parse_run_spec({"name": "a", "model": "m", "embedding": "e", "data": {"labeled": "a", "unlabeled": "b"}})
    with Bars() as bars:
        show(succeeded(spec).events, bars)


def test_durations_are_readable() -> None:
    assert [duration(value) for value in (4.21, 185, 7800)] == ["4.2 s", "3 min 05 s", "2 h 10 min"]
