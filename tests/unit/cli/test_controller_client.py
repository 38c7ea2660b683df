"""The typed controller client, through a real server with its interceptors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from semievol.client.controller import PIECE_BYTES, ControllerClient
from semievol.common import errors
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.controller.fake import failed, succeeded

from tests.unit.cli.conftest import Served


def spec(name: str = "demo") -> RunSpec:
    data = {"labeled": "data:0/a.csv", "unlabeled": "data:1/b.csv"}
    return parse_run_spec({"name": name, "model": "m", "embedding": "e", "data": data})


def test_an_upload_travels_in_pieces_and_arrives_whole(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(bytes(range(256)) * (10 * PIECE_BYTES // 1024))
    with ControllerClient(served.address) as client:
        uri = client.upload(path)
    assert uri.endswith("/rows.csv")
    assert served.servicer.uploads[uri] == path.read_bytes()
    assert served.servicer.largest_piece == PIECE_BYTES


def test_an_upload_of_a_missing_file_says_which(served: Served, tmp_path: Path) -> None:
    with ControllerClient(served.address) as client, pytest.raises(errors.NotFound, match=r"nix\.csv"):
        client.upload(tmp_path / "nix.csv")


def test_a_spec_arrives_as_it_was_sent(served: Served) -> None:
    with ControllerClient(served.address) as client:
        run = client.submit(spec())
    assert served.servicer.submitted == [spec()]
    assert run.spec.name == "demo"


def test_all_pages_of_runs_are_read(serve: Callable[..., Served]) -> None:
    served = serve([succeeded(spec("a")), succeeded(spec("b")), succeeded(spec("c"))])
    with ControllerClient(served.address) as client:
        assert [run.spec.name for run in client.list_runs()] == ["a", "b", "c"]


@pytest.mark.parametrize("drop_after", range(1, 7))
def test_a_watch_that_breaks_off_goes_on_with_the_next_event(serve: Callable[..., Served], drop_after: int) -> None:
    served = serve([succeeded(spec())], drop_watch_after=drop_after)
    with ControllerClient(served.address) as client:
        numbers = [event.number for event in client.watch("demo") if event.number]
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_watch_gives_up_when_the_controller_stays_away() -> None:
    with ControllerClient("127.0.0.1:1", reconnect_s=0.1) as client, pytest.raises(errors.Unavailable, match="controller"):
        list(client.watch("demo"))


def test_a_watch_of_an_unknown_run_is_not_tried_again(served: Served) -> None:
    with ControllerClient(served.address) as client, pytest.raises(errors.NotFound) as raised:
        list(client.watch("nix"))
    assert raised.value.field == "run"


def test_logs_come_with_their_job(serve: Callable[..., Served]) -> None:
    served = serve([succeeded(spec())])
    with ControllerClient(served.address) as client:
        assert list(client.logs("demo", "1/warm")) == [("job-warm-1", "training"), ("job-warm-1", "trained")]


def test_logs_that_are_followed_go_on_behind_the_last_line_of_each_job(serve: Callable[..., Served]) -> None:
    scripted = succeeded(spec())
    scripted.logs = {f"1/{job}": (job, [f"{job} {number}" for number in range(3)]) for job in ("warm", "infer")}
    whole = [(job, line) for job, lines in scripted.logs.values() for line in lines]
    served = serve([scripted])
    breaks = [(job, number) for job in ("warm", "infer") for number in range(3)]
    served.servicer.drop_logs_before = [*breaks]
    with ControllerClient(served.address) as client:
        assert list(client.logs("demo", follow=True)) == whole
        assert served.servicer.drop_logs_before == []
        served.servicer.drop_logs_before = breaks[:1]
        with pytest.raises(errors.Unavailable, match="going away"):  # who does not follow is not kept waiting
            list(client.logs("demo"))


def test_a_run_is_cancelled_and_retried(serve: Callable[..., Served]) -> None:
    served = serve([failed(spec())])
    with ControllerClient(served.address) as client:
        assert client.cancel_run("demo").error_class == "Unavailable"
        client.retry_run("demo")
        with pytest.raises(errors.Conflict):
            client.retry_run("demo")


def test_aliases_move_forth_and_back(serve: Callable[..., Served]) -> None:
    served = serve([succeeded(spec("a")), succeeded(spec("b"))])
    with ControllerClient(served.address) as client:
        first, second = (model.name for model in client.list_models().models)
        client.promote(first, "best")
        assert client.promote(second, "best").previous_models == [first]
        assert client.rollback("best").model == first
        with pytest.raises(errors.Conflict):
            client.rollback("best")
        with pytest.raises(errors.NotFound):
            client.promote("nix", "best")
