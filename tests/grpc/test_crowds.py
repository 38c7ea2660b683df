"""Slow readers, and more calls than there is room for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import grpc
import pytest
from semievol.common import errors
from semievol.common.grpc_client import Caller
from semievol.common.grpc_server import Workers

from tests.grpc.plumbing import Core, Stub, message, service
from tests.running import running

TEXT = "x" * 16384  # in each message of a stream


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def caller(core: Core) -> Iterator[Caller]:
    """Of a service with one thread, which waits a moment for a reader that reads nothing."""
    with running(service(core, Workers("test", threads=1, max_waiting=64, stall_s=0.3))) as address:
        made = Caller("test", address, deadline_s=60)
        yield made
        made.close()


def test_a_stream_waits_for_a_slow_reader_in_place_of_memory(core: Core) -> None:
    """What waits: 1,024 messages, and what the flow control of HTTP/2 lets gRPC take, some MiB: a few hundred messages of 16 KiB."""
    with running(service(core)) as address:
        caller = Caller("test", address, deadline_s=60)
        stream = caller.stream(Stub(caller.channel).count, message(to=100_000_000, text=TEXT))
        for _ in range(10):
            next(stream)
        time.sleep(2.0)
        before = core.produced
        time.sleep(0.5)
        assert before == core.produced < 4000
        assert sum(1 for _ in zip(range(5000), stream, strict=False)) == 5000
        stream.close()
        caller.close()


def test_a_reader_that_reads_nothing_loses_its_stream_and_others_get_its_thread(caller: Caller) -> None:
    stub = Stub(caller.channel)
    stream = caller.stream(stub.count, message(to=100_000_000, text=TEXT))
    next(stream)
    assert caller.unary(stub.say, message(x=1))["x"] == 1  # waits for the one thread
    with pytest.raises(errors.DeadlineExceeded, match="has read nothing"):
        list(stream)


def test_more_calls_than_grpc_would_queue_by_itself_are_answered_or_busy(caller: Caller) -> None:
    """Beyond 1,000 calls gRPC resets some as CANCELLED, which says nothing."""
    stub = Stub(caller.channel)
    calls = [stub.say.future(message(number=number), timeout=60) for number in range(3000)]
    codes = set()
    for call in calls:
        with contextlib.suppress(grpc.RpcError):
            call.result()
        codes.add(call.code())
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
