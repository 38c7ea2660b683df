"""What a replica of the controller does with calls that another one is to answer: real servers, scripted cores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.common.grpc_server import Context, Service, Workers
from semievol.common.security import Access, Protection, SecuritySettings, Tokens, protection
from semievol.controller.replicas import Replicas
from semievol.controller.servicer import ControllerServicer
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.v1 import controller_service_pb2_grpc as pb_grpc

from tests.certificates import Authority
from tests.running import running

NAME = pb.DESCRIPTOR.services_by_name["ControllerService"].full_name
GUARD = Protection(tokens=Tokens(["open-sesame"], None))
OURS = Access(token=lambda: "open-sesame")
NOWHERE = "127.0.0.1:1"


class Acting(pb_grpc.ControllerServiceServicer):
    """The replica that acts. `seen`: metadata and seconds left of each call."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict[str, str], float]] = []
        self.ended = threading.Event()

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        self.seen.append((dict(context.invocation_metadata() or ()), context.time_remaining() or -1.0))
        if request.run == "bad":
            rows = (errors.BadRow("labeled.csv", 3, "no answer"),)
            raise errors.InvalidInput("1 bad row.", field="run", rows=rows, details={"count": "1"})
        return pb.CancelRunResponse(run=pb.Run(id=request.run, state=pb.STATE_CANCELLED))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> Any:
        try:
            yield pb.WatchRunResponse(event=pb.RunEvent(number=1))
            await asyncio.Event().wait()  # until the client goes away
        finally:
            self.ended.set()


class Idle:
    """A core that does not act, and can tell of what is recorded."""

    def cancel(self, name: str) -> Any:
        raise errors.NotActing("This replica of the controller does not act; try again in a few seconds.", retry_after_s=0.01)


def around(servicer: pb_grpc.ControllerServiceServicer) -> Service:
    async def works() -> None: ...

    return Service(NAME, lambda server: pb_grpc.add_ControllerServiceServicer_to_server(servicer, server), works, public=True)


@contextmanager
def waiting(holder: str, server_name: str = "", **options: Any) -> Iterator[str]:
    """A replica that takes the one at `holder` for the one that acts."""
    workers = Workers("waiting")
    servicer = ControllerServicer(Idle(), workers, workers, Replicas(lambda: ("one", holder), server_name))  # type: ignore[arg-type]
    with running(around(servicer), **{"guard": GUARD} | options) as address:
        yield address
    workers.close()


@pytest.fixture
def acting() -> Acting:
    return Acting()


def test_the_callers_token_and_deadline_go_along_and_the_answer_comes_back(acting: Acting) -> None:
    with (
        running(around(acting), guard=GUARD) as one,
        waiting(one) as other,
        ControllerClient(other, access=OURS, deadline_s=19.5) as client,
    ):
        assert client.cancel_run("demo").state == pb.STATE_CANCELLED
    ((metadata, left_s),) = acting.seen
    assert metadata["authorization"] == "Bearer open-sesame"
    assert 10 < left_s <= 20


def test_an_error_of_the_one_that_acts_comes_back_whole(acting: Acting) -> None:
    with (
        running(around(acting), guard=GUARD) as one,
        waiting(one) as other,
        ControllerClient(other, access=OURS) as client,
        pytest.raises(errors.InvalidInput, match="1 bad row") as caught,
    ):
        client.cancel_run("bad")
    assert (caught.value.field, caught.value.details) == ("run", {"count": "1"})
    assert caught.value.rows == (errors.BadRow("labeled.csv", 3, "no answer"),)


def test_two_that_take_each_other_for_the_one_that_acts_refuse_and_do_not_go_round_in_circles() -> None:
    with (
        waiting(NOWHERE) as last,
        waiting(last) as first,
        ControllerClient(first, access=OURS) as client,
        pytest.raises(errors.NotActing, match="try again in a few seconds") as caught,
    ):
        client.cancel_run("demo")
    assert caught.value.retry_after_s == 0.01


def test_where_nobody_is_known_to_act_the_call_is_refused_with_when_to_come_again() -> None:
    refused = pytest.raises(errors.NotActing, match="try again in a few seconds")
    with waiting("") as alone, ControllerClient(alone, access=OURS) as client, refused:
        client.cancel_run("demo")


def test_one_that_does_not_answer_is_named_and_nothing_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semievol.controller.replicas.HANDOVER_S", 0.01)
    refused = pytest.raises(errors.NotActing, match=rf"{NOWHERE}, the replica that acts, does not answer.*try again in a few")
    with waiting(NOWHERE) as other, ControllerClient(other, access=OURS) as client, refused:
        client.cancel_run("demo")


def test_certificates_are_checked_for_the_services_name(acting: Acting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder's certificate has no address in it, and it asks for its callers' certificates."""
    authority = Authority(tmp_path)
    pair = authority.issue("controller", hosts=("semievol-controller", "localhost"))
    variables = {"SEMIEVOL_TLS_CA_FILE": str(authority.file), "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT": "true", **pair.environment}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    guard = protection(SecuritySettings())
    by_name = Access(authority.file.read_bytes(), (pair.key.read_bytes(), pair.certificate.read_bytes()), server_name="localhost")
    with running(around(acting), guard=guard) as one:
        with waiting(one, "semievol-controller", guard=guard) as other, ControllerClient(other, access=by_name) as client:
            assert client.cancel_run("demo").state == pb.STATE_CANCELLED
        refused = pytest.raises(errors.NotTrusted, match="certificate for another name")
        with waiting(one, guard=guard) as other, ControllerClient(other, access=by_name) as client, refused:
            client.cancel_run("demo")


def test_a_client_that_stops_watching_is_not_watched_for_any_more(acting: Acting) -> None:
    with running(around(acting), guard=GUARD) as one, waiting(one) as other, ControllerClient(other, access=OURS) as client:
        events = client.watch("demo")
        assert next(events).number == 1
        events.close()  # type: ignore[attr-defined]
        assert acting.ended.wait(10)
