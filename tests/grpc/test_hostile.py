"""Hostile calls on all seven services, through real servers with their interceptors: a status that says what is wrong, and nothing worse."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from semievol.common.limits import MAX_MESSAGE_BYTES
from semievol.embedding.v1 import embedding_service_pb2 as embedding
from semievol.ports import CollectionSpec

from tests.fake_suite import fake_suite
from tests.grpc.hostile import METHODS, Method, junk, mutations

FORBIDDEN = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}  # what must never come back
EMBED = next(method for method in METHODS if method.name == "Embed")
STRIDES = {"SubmitRun": 8}  # every accepted one is a run that begins; PlanRun reads the same specs
RSS_BOUND_BYTES = 300 << 20  # the largest messages, a few times over; a leak in thousands of calls is more

by_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.room}-{method.name}")


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, grpc.Channel]]:
    """To each of the seven services, which hold what honest requests need."""
    with fake_suite(tmp_path_factory.mktemp("hostile")) as suite, ExitStack() as stack:
        suite.index.create(CollectionSpec("ready", 2, text_search=True))
        options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 24)]
        yield {
            room: stack.enter_context(grpc.insecure_channel(address, options=options))
            for room, address in suite.addresses.items()
        }


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def memory_stays_flat() -> Iterator[None]:
    before = rss_bytes()
    yield
    grown = rss_bytes() - before
    assert grown < RSS_BOUND_BYTES, f"{grown >> 20} MiB more after the test"


def fields_of(call: grpc.Call) -> list[str]:
    """What a rich status names as being at fault."""
    status = rpc_status.from_call(call)
    bad = error_details_pb2.BadRequest()
    found = [
        violation.field
        for detail in (status.details if status else ())
        if detail.Unpack(bad)
        for violation in bad.field_violations
    ]
    return [field for field in found if field]


def works(channels: dict[str, grpc.Channel], room: str) -> bool:
    answer = health_pb2_grpc.HealthStub(channels[room]).Check(health_pb2.HealthCheckRequest(), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@by_method
def test_every_field_gone_wrong_is_answered_or_refused_by_its_name(channels: dict[str, grpc.Channel], method: Method) -> None:
    """Each field in turn is cleared, repeated 2,000 times and set to every value that it should not have."""
    seen: Counter[grpc.StatusCode] = Counter()
    wrong = []
    for good in method.good():
        for field, message in list(mutations(good))[:: STRIDES.get(method.name, 1)]:
            code, call = method.answer(channels[method.room], message.SerializeToString())
            seen[code] += 1
            shown = f"{field} = {str(message)[:80]!r}: {code.name}: {(call.details() or '')[:120]}"
            if code in FORBIDDEN or (code is not grpc.StatusCode.OK and not call.details()):
                wrong.append(shown)
            if code is grpc.StatusCode.INVALID_ARGUMENT and not fields_of(call):
                wrong.append(f"no field is named: {shown}")
    print({code.name: count for code, count in seen.items()})
    assert wrong == [], "\n".join(wrong[:20])
    assert works(channels, method.room)


@by_method
def test_malformed_bytes_are_refused(channels: dict[str, grpc.Channel], method: Method) -> None:
    codes = Counter(method.answer(channels[method.room], data)[0] for data in junk())
    assert not FORBIDDEN & set(codes), codes
    assert codes[grpc.StatusCode.INVALID_ARGUMENT] >= 3
    assert works(channels, method.room)


@by_method
def test_a_message_past_the_limit_is_refused_and_the_next_one_is_not(channels: dict[str, grpc.Channel], method: Method) -> None:
    code, call = method.answer(channels[method.room], b"\x0a" + bytes(MAX_MESSAGE_BYTES))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (call.details() or "")
    assert works(channels, method.room)


@by_method
def test_a_deadline_of_a_millisecond_is_exceeded_or_kept(channels: dict[str, grpc.Channel], method: Method) -> None:
    data = method.good()[0].SerializeToString()
    codes = Counter(method.answer(channels[method.room], data, timeout=0.001)[0] for _ in range(10))
    print(codes)
    assert not FORBIDDEN & set(codes), codes
    assert works(channels, method.room)


@by_method
def test_a_cancelled_call_leaves_nothing_behind(channels: dict[str, grpc.Channel], method: Method) -> None:
    data = method.good()[0].SerializeToString()
    for _ in range(50):
        method.call(channels[method.room], data, timeout=10).cancel()
    code, _ = method.answer(channels[method.room], data)
    assert code not in FORBIDDEN | {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert works(channels, method.room)


@by_method
def test_huge_metadata_is_refused_or_carried(channels: dict[str, grpc.Channel], method: Method) -> None:
    data = method.good()[0].SerializeToString()
    for metadata in ([("huge", "x" * 1_000_000)], [(f"key-{n}", "x" * 100) for n in range(1000)]):
        code, _ = method.answer(channels[method.room], data, metadata=metadata)
        assert code not in FORBIDDEN
    assert works(channels, method.room)


@pytest.mark.parametrize("room", sorted({method.room for method in METHODS}))
def test_unknown_methods_and_services_are_unimplemented(channels: dict[str, grpc.Channel], room: str) -> None:
    service = next(method for method in METHODS if method.room == room).path.split("/")[1]
    for path in (f"/{service}/Nothing", "/semievol.nothing.v1.NothingService/Do", "/x", f"/{service}/"):
        with pytest.raises(grpc.RpcError) as caught:
            channels[room].unary_unary(path)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_thousands_of_calls_at_once_are_answered_or_told_to_come_back(channels: dict[str, grpc.Channel]) -> None:
    """3,000 calls that are all under way at the same time, of a page that takes the worker a while."""
    data = embedding.EmbedRequest(texts=["one two three"] * 20).SerializeToString()
    calls = [EMBED.call(channels["embedding"], data, timeout=60) for _ in range(3000)]
    codes: Counter[grpc.StatusCode] = Counter()
    for call in calls:
        with contextlib.suppress(grpc.RpcError):
            call.result()  # type: ignore[attr-defined]
        codes[call.code()] += 1
    print(codes)
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes[grpc.StatusCode.OK] > 0
    assert works(channels, "embedding")


def test_a_termination_under_load_drops_no_call_that_was_under_way() -> None:
    """Eight clients keep a service busy; what was sent a tenth of a second before SIGTERM, or earlier, is answered."""
    environment = {**os.environ, "SEMIEVOL_EMBEDDING_BACKEND": "fake", "SEMIEVOL_EMBEDDING_ADDRESS": "127.0.0.1:0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "semievol.embedding.server"], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        address = next(line for line in process.stderr if "serves at" in line).split()[-1]
        reader = threading.Thread(target=process.stderr.read)  # nothing must wait for a full pipe
        reader.start()
        sent: list[tuple[float, grpc.StatusCode]] = []
        over = threading.Event()
        data = embedding.EmbedRequest(texts=["some words to embed"] * 200).SerializeToString()

        def client() -> None:
            with grpc.insecure_channel(address) as channel:
                while not over.is_set():
                    at = time.monotonic()
                    code, _ = EMBED.answer(channel, data, timeout=30)
                    sent.append((at, code))
                    if code is grpc.StatusCode.UNAVAILABLE:
                        return

        with ThreadPoolExecutor(8) as clients:
            work = [clients.submit(client) for _ in range(8)]
            time.sleep(1.5)
            terminated = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            over.set()
            for one in work:
                one.result(60)
        reader.join()
    finally:
        process.kill()
        process.wait()
    under_way = [code for at, code in sent if at < terminated - 0.1]
    dropped = [code for code in under_way if code is not grpc.StatusCode.OK]
    print(f"dropped calls = {len(dropped)} of {len(under_way)}")
    assert len(under_way) > 8
    assert dropped == []


def test_many_clients_that_come_and_go_leave_the_server_as_it_was(channels: dict[str, grpc.Channel]) -> None:
    """500 streams that are left after their first message."""
    stream = next(method for method in METHODS if method.name == "EmbedStream")
    data = embedding.EmbedStreamRequest(texts=["one", "two"]).SerializeToString()
    for _ in range(500):
        call = stream.call(channels["embedding"], data, timeout=10)
        next(call)  # type: ignore[call-overload]
        call.cancel()
    assert works(channels, "embedding")
    vectors = embedding.EmbedResponse.FromString(EMBED.call(channels["embedding"], data, timeout=10).result())  # type: ignore[attr-defined]
    assert len(vectors.embeddings[0].values) == 64 * struct.calcsize("f")
