"""What every server and client of the suite has, through a real server with its interceptors on port 0."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from semievol.common import errors
from semievol.common.errors import BadRow
from semievol.common.grpc_client import Caller
from semievol.common.grpc_server import Server, Workers
from semievol.common.limits import MAX_MESSAGE_BYTES

from tests.grpc.plumbing import NAME, Core, Stub, message, service
from tests.running import running

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


ALL_ERRORS = [
    errors.InvalidInput(
        "Bad.", field="train.epochs", details={"min": "0"}, rows=(BadRow("a.csv", 3, "empty"), BadRow("b:c.csv", 9, "no"))
    ),
    errors.NotFound("Not here.", field="model", details={"known": "base"}),
    errors.AlreadyExists("Taken.", field="name"),
    errors.Conflict("Not now."),
    errors.Busy("Full.", retry_after_s=0.05, field="prompts"),
    errors.Unavailable("Down.", details={"backend": "milvus"}),
    errors.DeadlineExceeded("Too slow."),
    errors.Cancelled("Stopped."),
    errors.Corrupt("Damaged.", details={"sha256": "00"}),
    errors.StorageError("Disk full."),
    errors.NotActing("Another one acts.", retry_after_s=0.05),
    errors.NotTrusted("A certificate of somebody else."),
    errors.NotAllowed("No.", field="alias"),
    errors.NotAuthenticated("Who are you?"),
    errors.NotSupported("Not by this backend."),
    errors.InternalError("Request id 1."),
]


class Backend:
    """A running server and a client of it."""

    def __init__(self, core: Core, address: str) -> None:
        self.core = core
        self.address = address
        self.caller = Caller("test", address, deadline_s=30)
        self.stub = Stub(self.caller.channel)

    def say(self, **fields: Any) -> Any:
        return self.caller.unary(self.stub.say, message(**fields))

    def fails(self, call: Callable[[], Any]) -> errors.SemiEvolError:
        with pytest.raises(errors.SemiEvolError) as caught:
            call()
        return caught.value


@pytest.fixture
def backend() -> Iterator[Backend]:
    core = Core()
    with running(service(core)) as address:
        made = Backend(core, address)
        yield made
        core.go_on.set()
        made.caller.close()


def test_every_error_class_is_tested() -> None:
    def below(cls: type[errors.SemiEvolError]) -> set[type[errors.SemiEvolError]]:
        return {cls}.union(*(below(child) for child in cls.__subclasses__()))

    assert {type(error) for error in ALL_ERRORS} == below(errors.SemiEvolError) - {errors.SemiEvolError}


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("how", ["unary", "stream", "bidirectional"])
def test_an_error_arrives_as_what_it_was(backend: Backend, error: errors.SemiEvolError, how: str) -> None:
    backend.core.actions["fail"] = raising(error)
    calls: dict[str, Callable[[], Any]] = {
        "unary": lambda: backend.say(do="fail"),
        "stream": lambda: list(backend.caller.stream(backend.stub.count, message(to=2, do="fail"))),
        "bidirectional": lambda: list(backend.caller.stream(backend.stub.echo, iter([message(do="fail")]))),
    }
    arrived = backend.fails(calls[how])
    assert type(arrived) is type(error)
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize("how", ["unary", "stream"])
def test_an_unknown_exception_is_internal_with_a_request_id_and_its_text_stays_in_the_log(
    backend: Backend, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    backend.core.actions["fail"] = raising(ZeroDivisionError("the secret password"))
    call = (
        (lambda: backend.say(do="fail"))
        if how == "unary"
        else (lambda: list(backend.caller.stream(backend.stub.count, message(to=0, do="fail"))))
    )
    with caplog.at_level(logging.ERROR):
        error = backend.fails(call)
    assert type(error) is errors.InternalError
    assert "secret" not in str(vars(error))
    request_id = error.message.split()[-1].rstrip(".")
    assert len(request_id) == 12
    assert request_id in caplog.text
    assert "the secret password" in caplog.text


def test_ten_thousand_bad_rows_and_a_long_message_arrive_as_the_first_ones(backend: Backend) -> None:
    rows = tuple(BadRow("/a/directory/of/some/length/data.csv", line, "the question is empty") for line in range(10_000))
    for text in ("x" * 100_000, "\u4e2d" * 100_000):
        backend.core.actions["fail"] = raising(errors.InvalidInput(text, field="data.labeled", rows=rows))
        error = backend.fails(lambda: backend.say(do="fail"))
        assert isinstance(error, errors.InvalidInput)
        assert error.message.startswith(text[:200])
        assert error.message.endswith("...")
        assert error.field == "data.labeled"
        assert 5 <= len(error.rows) < 100
        assert error.rows == rows[: len(error.rows)]


def test_a_message_that_is_no_valid_unicode_arrives_readable(backend: Backend) -> None:
    backend.core.actions["fail"] = raising(errors.NotFound("No file caf\udce9.", field="a\ud800", details={"x": "\udfff"}))
    assert backend.fails(lambda: backend.say(do="fail")).message == "No file caf?."


@pytest.mark.parametrize("method", ["Say", "Count", "Sum", "Echo"])
def test_bytes_that_are_no_message_are_an_invalid_argument(backend: Backend, method: str) -> None:
    stubs = {"Say": "unary_unary", "Count": "unary_stream", "Sum": "stream_unary", "Echo": "stream_stream"}
    call = getattr(backend.caller.channel, stubs[method])(f"/{NAME}/{method}")
    junk: Any = b"\xff\xff\xff"
    if method in ("Say", "Count"):
        error = backend.fails(
            (lambda: backend.caller.unary(call, junk)) if method == "Say" else (lambda: list(backend.caller.stream(call, junk)))
        )
    else:
        error = backend.fails(
            (lambda: backend.caller.upload(call, iter([junk])))
            if method == "Sum"
            else (lambda: list(backend.caller.stream(call, iter([junk]))))
        )
    assert type(error) is errors.InvalidInput
    assert "no valid message" in error.message


def test_uploads_and_two_way_streams_work(backend: Backend) -> None:
    numbers = [message(number=number) for number in range(5)]
    assert backend.caller.upload(backend.stub.sum, iter(numbers))["sum"] == 10
    assert list(backend.caller.stream(backend.stub.echo, iter(numbers))) == numbers


def test_a_message_over_the_limit_is_refused_at_either_end_and_the_caller_is_told_to_send_less(backend: Backend) -> None:
    text = "x" * MAX_MESSAGE_BYTES
    started = time.monotonic()
    error = backend.fails(lambda: backend.say(text=text))
    assert type(error) is errors.InvalidInput
    assert "too large" in error.message
    assert time.monotonic() - started < 5  # not retried
    with (
        grpc.insecure_channel(backend.address, options=[("grpc.max_send_message_length", -1)]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        Stub(channel).say(message(text=text))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert backend.say(text="small")["text"] == "small"


def test_a_response_over_the_limit_is_no_unknown_error(backend: Backend) -> None:
    half = "x" * (MAX_MESSAGE_BYTES // 2 + 1000)
    backend.core.say = lambda request, cancel: message(a=half, b=half)  # type: ignore[method-assign]
    assert "too large" in backend.fails(lambda: backend.say()).message


def test_a_method_that_is_not_there_is_not_supported(backend: Backend) -> None:
    error = backend.fails(lambda: backend.caller.unary(backend.stub.missing, message()))
    assert type(error) is errors.NotSupported


def test_a_server_that_is_not_there_is_unavailable_and_says_where() -> None:
    caller = Caller("test", "127.0.0.1:1")
    with pytest.raises(errors.Unavailable, match=r"The test service at 127\.0\.0\.1:1 does not answer"):
        caller.unary(Stub(caller.channel).say, message())
    with pytest.raises(errors.Unavailable, match="does not answer"):
        list(caller.stream(Stub(caller.channel).count, message(to=1)))
    caller.close()


def test_an_idempotent_call_is_retried_until_the_backend_is_back(backend: Backend) -> None:
    left = [2]

    def fail_twice() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise errors.Busy("Full.", retry_after_s=0.01) if left[0] else errors.Unavailable("Down.")

    backend.core.actions["fail"] = fail_twice
    assert backend.say(do="fail")["do"] == "fail"
    left[0] = 1
    with pytest.raises(errors.Unavailable):
        backend.caller.unary(backend.stub.say, message(do="fail"), idempotent=False)


def test_a_deadline_reaches_the_client_and_the_worker(backend: Backend) -> None:
    with pytest.raises(errors.DeadlineExceeded, match="did not answer in time"):
        backend.caller.unary(backend.stub.say, message(do="wait"), deadline_s=0.3)
    assert backend.core.cancelled.acquire(timeout=5)


def test_the_clients_cancellation_reaches_the_worker(backend: Backend) -> None:
    cancel = threading.Event()
    threading.Thread(target=lambda: (backend.core.started.acquire(timeout=10), cancel.set())).start()
    with pytest.raises(errors.Cancelled):
        backend.caller.unary(backend.stub.say, message(do="wait"), cancel=cancel)
    assert backend.core.cancelled.acquire(timeout=5)


def test_a_client_that_goes_away_cancels_the_worker(backend: Backend) -> None:
    caller = Caller("test", backend.address)
    threading.Thread(target=lambda: (backend.core.started.acquire(timeout=10), caller.close())).start()
    with pytest.raises(errors.SemiEvolError):
        caller.unary(Stub(caller.channel).say, message(do="wait"))
    assert backend.core.cancelled.acquire(timeout=5)


def test_closing_a_stream_cancels_its_worker(backend: Backend) -> None:
    stream = backend.caller.stream(backend.stub.count, message(to=1, do="wait"))
    assert next(stream)["number"] == 0
    backend.core.started.acquire(timeout=10)
    stream.close()
    assert backend.core.cancelled.acquire(timeout=5)


def test_an_abandoned_stream_stops_producing(backend: Backend) -> None:
    stream = backend.caller.stream(backend.stub.count, message(to=100_000_000))
    for _ in range(10):
        next(stream)
    stream.close()
    time.sleep(0.5)
    before = backend.core.produced
    time.sleep(0.5)
    assert backend.core.produced == before < 100_000_000


def test_calls_beyond_the_workers_limit_are_busy_and_the_others_finish() -> None:
    core = Core()
    with running(service(core, Workers("test", threads=1, max_waiting=2))) as address:
        backend = Backend(core, address)
        waiting = [backend.stub.say.future(message(do="wait"), timeout=30) for _ in range(3)]
        core.started.acquire(timeout=10)
        time.sleep(0.3)
        error = backend.fails(lambda: backend.caller.unary(backend.stub.say, message(), idempotent=False))
        assert type(error) is errors.Busy
        core.go_on.set()
        assert all(call.result(timeout=10)["do"] == "wait" for call in waiting)
        assert backend.say(x=1)["x"] == 1
        backend.caller.close()


def test_abandoned_work_counts_until_it_is_over() -> None:
    """A call that does not look at its cancellation keeps its thread, so it keeps its place in the limit."""
    core, over = Core(), threading.Event()
    core.actions["deaf"] = lambda: over.wait(20)
    with running(service(core, Workers("test", threads=1, max_waiting=0))) as address:
        backend = Backend(core, address)
        with pytest.raises(errors.DeadlineExceeded):
            backend.caller.unary(backend.stub.say, message(do="deaf"), deadline_s=0.3)
        with pytest.raises(errors.Busy):
            backend.caller.unary(backend.stub.say, message(), idempotent=False)
        over.set()
        assert backend.say(x=1)["x"] == 1  # retried until the thread is free
        backend.caller.close()


def check(address: str, name: str) -> int:
    with grpc.insecure_channel(address) as channel:
        status: int = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
        return status


def test_a_server_is_not_serving_until_its_probe_has_succeeded() -> None:
    probing, go_on = threading.Event(), threading.Event()

    def probe() -> None:
        probing.set()
        assert go_on.wait(20)

    async def scenario() -> list[int]:
        server = Server([service(Core(), probe=probe)])
        starting = asyncio.create_task(server.start())
        await asyncio.to_thread(probing.wait, 10)
        seen = [await asyncio.to_thread(check, server.address, name) for name in (NAME, "")]
        go_on.set()
        await starting
        seen += [await asyncio.to_thread(check, server.address, name) for name in (NAME, "")]
        await server.stop(0)
        return seen

    assert asyncio.run(scenario()) == [NOT_SERVING, NOT_SERVING, SERVING, SERVING]


def test_a_probe_that_fails_fails_the_start_and_nothing_is_served() -> None:
    async def scenario() -> str:
        server = Server([service(Core(), probe=raising(errors.Unavailable("No weights.")))])
        with pytest.raises(errors.Unavailable, match="No weights"):
            await server.start()
        return server.address

    address = asyncio.run(scenario())
    with pytest.raises(grpc.RpcError):
        check(address, "")


def test_the_health_of_every_service_can_be_watched(backend: Backend) -> None:
    with grpc.insecure_channel(backend.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=NAME), timeout=5)
        assert next(watch).status == SERVING
        watch.cancel()


def test_a_port_in_use_is_unavailable(backend: Backend) -> None:
    async def scenario() -> None:
        await Server([service(Core())], backend.address).start()

    with pytest.raises(errors.Unavailable, match="port is in use"):
        asyncio.run(scenario())


def test_stopping_lets_calls_in_flight_finish_and_takes_no_new_ones() -> None:
    async def scenario() -> tuple[int, int]:
        core = Core()
        server = Server([service(core)])
        await server.start()
        backend = Backend(core, server.address)
        calls = [backend.stub.say.future(message(do="wait"), timeout=30) for _ in range(8)]
        for _ in calls:
            assert await asyncio.to_thread(core.started.acquire, timeout=10)
        stopping = asyncio.create_task(server.stop(grace_s=20))
        await asyncio.sleep(0.3)
        with pytest.raises(errors.SemiEvolError):
            await asyncio.to_thread(backend.caller.unary, backend.stub.say, message(), idempotent=False)
        core.go_on.set()
        done = [await asyncio.to_thread(call.result, 10) for call in calls]
        await stopping
        backend.caller.close()
        return len(calls), len(done)

    sent, answered = asyncio.run(scenario())
    print(f"dropped calls = {sent - answered} of {sent}")
    assert sent == answered


def test_what_does_not_finish_within_the_grace_is_cancelled() -> None:
    async def scenario() -> None:
        core = Core()
        server = Server([service(core)])
        await server.start()
        backend = Backend(core, server.address)
        call = backend.stub.say.future(message(do="wait"), timeout=30)
        assert await asyncio.to_thread(core.started.acquire, timeout=10)
        await server.stop(grace_s=0.2)
        assert core.cancelled.acquire(timeout=5)
        with pytest.raises(grpc.RpcError):
            await asyncio.to_thread(call.result, 10)
        backend.caller.close()

    asyncio.run(scenario())
