"""Two electors and one Lease, by a clock that the test moves."""

from __future__ import annotations

import pytest
from semievol.common import errors
from semievol.common.kube import LEASE, Response
from semievol.common.kube_fake import FakeApiServer
from semievol.controller.lease import Elector

from tests.waiting import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def electors(server: FakeApiServer, clock: Clock) -> tuple[Elector, Elector]:
    first, second = (Elector(server.kube(), "semievol", name, duration_s=30, clock=clock) for name in ("one", "two"))
    first.look()
    second.look()
    return first, second


def test_the_first_acts_and_the_other_says_who_does(electors: tuple[Elector, Elector]) -> None:
    one, two = electors
    assert one.leader() == ""
    assert two.leader() == "one"


def test_a_holder_that_renews_keeps_it(electors: tuple[Elector, Elector], clock: Clock) -> None:
    one, two = electors
    for _ in range(20):
        clock.now += 10
        one.look()
        two.look()
        assert (one.leader(), two.leader()) == ("", "one")


def test_a_renewal_is_one_request(electors: tuple[Elector, Elector], server: FakeApiServer, clock: Clock) -> None:
    """At a third of 30 s apart: six a minute."""
    one, two = electors
    before = len(server.requests)
    for _ in range(6):
        clock.now += 10
        one.look()
    assert len(server.requests) - before == 6
    for _ in range(6):
        clock.now += 1
        two.look()
    assert len(server.requests) - before == 12


def test_one_that_goes_gives_it_back_and_the_other_takes_it_at_once(electors: tuple[Elector, Elector]) -> None:
    one, two = electors
    one.stop()
    assert one.leader()
    two.look()
    assert two.leader() == ""


def test_a_holder_that_went_silent_is_followed_when_its_time_is_over_and_not_before(
    electors: tuple[Elector, Elector], clock: Clock
) -> None:
    one, two = electors
    clock.now += 30
    two.look()
    assert two.leader() == "one"
    clock.now += 1
    two.look()
    assert two.leader() == ""
    assert one.leader() != ""


def test_at_no_moment_do_two_act_however_long_one_is_paused(electors: tuple[Elector, Elector], clock: Clock) -> None:
    """`one` is paused for every length of time up to two holds, while `two` looks every second; its own clock tells it first."""
    one, two = electors
    for _ in range(60):
        clock.now += 1
        two.look()
        assert not (one.leader() == "" and two.leader() == "")
    assert two.leader() == ""
    one.look()  # it wakes up
    assert one.leader() == "two"


def test_a_holder_that_wakes_up_and_was_not_followed_goes_on(electors: tuple[Elector, Elector], clock: Clock) -> None:
    one, _ = electors
    clock.now += 300
    assert one.leader()
    one.look()
    assert one.leader() == ""


def test_of_two_that_reach_for_a_free_lease_one_gets_it(
    electors: tuple[Elector, Elector], server: FakeApiServer, clock: Clock
) -> None:
    one, two = electors
    clock.now += 31
    three = Elector(server.kube(), "semievol", "three", duration_s=30, clock=clock)
    there = server.kube().get(LEASE, "semievol")
    two.look()
    with pytest.raises(errors.Conflict):
        three._take(there)  # by what it saw a moment ago
    assert (two.leader(), three.leader() != "", one.leader() != "") == ("", True, True)


def test_while_the_api_is_away_the_holder_acts_until_its_time_is_over(
    electors: tuple[Elector, Elector], server: FakeApiServer, clock: Clock
) -> None:
    one, _ = electors
    server.down = True
    clock.now += 29
    with pytest.raises(errors.Unavailable):
        one.look()
    assert one.leader() == ""
    clock.now += 1
    assert one.leader() != ""
    server.down = False
    one.look()
    assert one.leader() == ""


def test_a_hold_that_lapsed_and_came_back_at_one_look_is_said(server: FakeApiServer, clock: Clock) -> None:
    """Whoever asked in between was told that nobody acts, and stopped."""
    said: list[str] = []
    one = Elector(server.kube(), "semievol", "one", duration_s=0.03, clock=clock)
    one.start(lambda: said.append(one.leader()))
    try:
        wait_until(lambda: said == [""])
        clock.now += 1
        wait_until(lambda: said == ["", ""])
    finally:
        one.stop()


def test_a_lease_that_somebody_deleted_is_made_again(electors: tuple[Elector, Elector], server: FakeApiServer) -> None:
    one, _ = electors
    server.remove(LEASE, "semievol")
    one.look()
    assert one.leader() == ""
    assert server.names(LEASE) == ["semievol"]


def test_whoever_may_not_read_leases_is_told_at_the_start(server: FakeApiServer) -> None:
    server.answers = [Response(403, b'{"message": "leases is forbidden: User \\"x\\" cannot get resource \\"leases\\""}')]
    with pytest.raises(errors.NotAllowed, match="leases is forbidden"):
        Elector(server.kube(), "semievol", "one").start()


def test_the_official_clients_model_of_a_lease_takes_what_is_written(
    electors: tuple[Elector, Elector], server: FakeApiServer
) -> None:
    from kubernetes.client import V1Lease

    for request in server.requests:
        if request.body:
            V1Lease.model_validate(request.body)


def test_two_that_start_at_once_both_start(server: FakeApiServer, clock: Clock) -> None:
    """Both find no Lease, and the second one's creation comes too late."""
    server.answers = [Response(404, b"{}"), Response(409, b'{"reason": "AlreadyExists"}')]
    late = Elector(server.kube(), "semievol", "late", clock=clock)
    late.start()
    assert late.leader()
    late.stop()


def test_the_address_of_the_one_that_acts_stands_in_the_lease_and_goes_with_it(server: FakeApiServer, clock: Clock) -> None:
    one = Elector(server.kube(), "semievol", "one", address="10.0.0.1:50056", clock=clock)
    two = Elector(server.kube(), "semievol", "two", address="10.0.0.2:50056", clock=clock)
    for elector in (one, two):
        assert elector.acting() == ("none has been chosen yet", "")
    one.look()
    two.look()
    assert (one.acting(), two.acting()) == (("", ""), ("one", "10.0.0.1:50056"))
    one.stop()
    assert "annotations" not in (held := server.kube().get(LEASE, "semievol"))["metadata"] or not held["metadata"]["annotations"]
    two.look()
    one.look()
    assert (one.acting(), two.acting()) == (("two", "10.0.0.2:50056"), ("", ""))


def test_annotations_of_others_stay_in_the_lease(server: FakeApiServer, clock: Clock) -> None:
    one = Elector(server.kube(), "semievol", "one", address="10.0.0.1:50056", clock=clock)
    one.look()
    server.put(LEASE, {"metadata": {"name": "semievol", "annotations": {"theirs": "stays"}}})
    one._mine = None
    one.look()
    annotations = server.kube().get(LEASE, "semievol")["metadata"]["annotations"]
    assert annotations == {"theirs": "stays", "semievol.dev/address": "10.0.0.1:50056"}
