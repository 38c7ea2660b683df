"""Engines behind one name, as behind a headless Service: the test is the name server, and engines are at 127.0.0.2 and so on, at one port."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.common.security import SecuritySettings, protection
from semievol.common.stores.fake import FakeStore
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.router.names import Names, host_of, resolve
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.ports import NEVER, Cancel, Generation, Prompt, Sampling

from tests.certificates import Authority
from tests.grpc.routing import RouterUnderTest, engine_at_work, fake_engine, prompt, register, router, soon
from tests.grpc.stoppable import StoppableWork

HOST = "engine-headless"
ONE, TWO = "127.0.0.2", "127.0.0.3"


class StoppableEngine(StoppableWork, FakeEngine):
    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        if prompts[0].id != "ready":
            self.work(cancel)
        return super().generate(model, prompts, sampling)


class NameServer:
    """`addresses` of HOST; `away`: it answers nothing, `silent`: not even that it cannot."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.away = self.silent = False
        self.asked = 0

    async def __call__(self, host: str) -> list[str]:
        self.asked += 1
        assert host == HOST
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise errors.Unavailable("The name server is away.")
        if not self.addresses:
            raise errors.NotFound(f"{host} has no address.")
        return list(self.addresses)


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    register(store, "old")
    return store


@pytest.fixture
def port() -> Iterator[int]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield int(one.getsockname()[1])


def engine_of(store: FakeStore, cache: Path, at: str) -> FakeEngine:
    """Says at which address it is, and takes its time, so that calls made side by side spread."""

    def script(model: str, messages: Sequence[Message], seed: int) -> str:
        time.sleep(0.05)
        return f"here {at}"

    return fake_engine(store, cache, script)


def answered_by(served: RouterUnderTest, calls: int = 8) -> set[str]:
    """Who answers calls that are made side by side."""
    futures = [served.stub.Generate.future(request(), timeout=30) for _ in range(calls)]
    return {future.result().generations[0].completions[0].text for future in futures}


def request() -> pb.GenerateRequest:
    return pb.GenerateRequest(model="base", prompts=[prompt("Hello")])


def test_each_address_of_a_name_is_an_engine_of_its_own(store: FakeStore, tmp_path: Path, port: int) -> None:
    """Both get calls at the same time, and an adapter is loaded into the one that is asked for it."""
    with (
        engine_at_work(engine_of(store, tmp_path / "1", ONE), address=f"{ONE}:{port}"),
        engine_at_work(engine_of(store, tmp_path / "2", TWO), address=f"{TWO}:{port}"),
        router(store, [f"{HOST}:{port}"], NameServer(ONE, TWO)) as served,
    ):
        assert soon(lambda: answered_by(served) == {f"here {ONE}", f"here {TWO}"})
        assert served.who("old") == "old"


def test_engines_come_and_go_with_the_name(store: FakeStore, tmp_path: Path, port: int) -> None:
    names = NameServer(ONE)
    with (
        engine_at_work(engine_of(store, tmp_path / "1", ONE), address=f"{ONE}:{port}"),
        engine_at_work(engine_of(store, tmp_path / "2", TWO), address=f"{TWO}:{port}"),
        router(store, [f"{HOST}:{port}"], names) as served,
    ):
        assert answered_by(served) == {f"here {ONE}"}
        names.addresses = [ONE, TWO]
        assert soon(lambda: answered_by(served) == {f"here {ONE}", f"here {TWO}"})
        names.addresses = [TWO]
        assert soon(lambda: answered_by(served) == {f"here {TWO}"})
        assert answered_by(served) == {f"here {TWO}"}  # though the other one still answers


def test_a_call_at_an_engine_that_leaves_the_name_ends_there(store: FakeStore, port: int) -> None:
    names, engine = NameServer(ONE), StoppableEngine()
    with engine_at_work(engine, address=f"{ONE}:{port}"), router(store, [f"{HOST}:{port}"], names) as served:
        call = served.stub.Generate.future(request(), timeout=30)
        assert engine.started.wait(10)
        names.addresses = []
        before = names.asked
        assert soon(lambda: names.asked >= before + 4)
        assert not call.done()
        assert not engine.cancelled.is_set()
        call.cancel()
        assert engine.cancelled.wait(10)


def test_without_an_address_calls_are_refused_and_what_is_served_is_still_known(
    store: FakeStore, tmp_path: Path, port: int
) -> None:
    """As while serving engines make room for a run."""
    names = NameServer(ONE)
    with (
        engine_at_work(engine_of(store, tmp_path, ONE), address=f"{ONE}:{port}"),
        router(store, [f"{HOST}:{port}"], names) as served,
    ):
        assert served.who("old") == "old"
        names.addresses = []
        assert soon(lambda: not served.serving())
        for name in ("base", "old"):
            with pytest.raises(grpc.RpcError) as caught:
                served.generate(name)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
            assert f"{HOST} has no address" in caught.value.details()  # type: ignore[attr-defined]
        assert {one.name for one in served.stub.ListModels(pb.ListModelsRequest()).models} == {"base", "old"}
        names.addresses = [ONE]
        assert soon(served.serving)
        assert served.who("old") == "old"


@pytest.mark.parametrize("fault", ["away", "silent"])
def test_a_name_server_that_is_away_changes_nothing(store: FakeStore, tmp_path: Path, port: int, fault: str) -> None:
    names = NameServer(ONE)
    with (
        engine_at_work(engine_of(store, tmp_path, ONE), address=f"{ONE}:{port}"),
        router(store, [f"{HOST}:{port}"], names) as served,
    ):
        assert served.who("base") == "base"
        setattr(names, fault, True)
        before = names.asked
        assert soon(lambda: names.asked > before)
        for _ in range(20):
            assert served.who("base") == "base"
        assert served.serving()


def test_a_router_waits_for_a_name_that_has_no_address_yet(store: FakeStore, tmp_path: Path, port: int) -> None:
    names = NameServer()
    with engine_at_work(engine_of(store, tmp_path, ONE), address=f"{ONE}:{port}"):
        threading.Timer(0.5, lambda: names.addresses.append(ONE)).start()
        with router(store, [f"{HOST}:{port}"], names) as served:
            assert served.who("base") == "base"
    assert names.asked > 1


def test_certificates_are_checked_for_the_name_not_for_the_address(
    store: FakeStore, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate has no addresses; at the second one is a server with a certificate of the same CA for another name."""
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("SEMIEVOL_TLS_CA_FILE", str(authority.file))
    right, wrong = (authority.issue(name, hosts=(name,)) for name in (HOST, "another"))
    guards = [protection(SecuritySettings(tls_cert_file=one.certificate, tls_key_file=one.key)) for one in (right, wrong)]
    with (
        engine_at_work(engine_of(store, tmp_path / "1", ONE), address=f"{ONE}:{port}", guard=guards[0]),
        engine_at_work(engine_of(store, tmp_path / "2", TWO), address=f"{TWO}:{port}", guard=guards[1]),
        router(store, [f"{HOST}:{port}"], NameServer(ONE, TWO)) as served,
    ):
        assert answered_by(served) == {f"here {ONE}"}


# ---------------------------------------------------------------- names alone


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("engine:50053", "engine"),
        ("a.b.svc.cluster.local:1", "a.b.svc.cluster.local"),
        ("127.0.0.1:50053", ""),
        ("[::1]:5", ""),
        ("unix:/x", ""),
    ],
)
def test_names_are_looked_up_and_addresses_are_not(name: str, host: str) -> None:
    assert host_of(name) == host


async def test_addresses_of_the_sixth_version_are_written_in_brackets() -> None:
    names = Names(["engine-headless:5", "127.0.0.1:6"], NameServer("fd00::1", "fd00::2"))
    assert await names.look() == {"engine-headless:5": ("[fd00::1]:5", "[fd00::2]:5"), "127.0.0.1:6": ("127.0.0.1:6",)}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (socket.EAI_NONAME, errors.NotFound),
        (socket.EAI_NODATA, errors.NotFound),
        (socket.EAI_AGAIN, errors.Unavailable),
        (socket.EAI_FAIL, errors.Unavailable),
    ],
)
async def test_a_name_without_an_address_is_told_from_a_name_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[errors.SemiEvolError]
) -> None:
    async def refuse(*asked: object, **more: object) -> None:
        raise socket.gaierror(code, "so it is")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", refuse)
    with pytest.raises(error, match=HOST):
        await resolve(HOST)


async def test_a_pod_with_an_address_of_each_family_is_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(*asked: object, **more: object) -> list[object]:
        six = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"fd00::{number}", 0, 0, 0)) for number in (1, 2)]
        return [*six, *((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in (TWO, ONE, ONE))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    assert await resolve(HOST) == [ONE, TWO]


async def test_this_machines_resolver_knows_this_machine_and_outlives_nonsense() -> None:
    assert await resolve("localhost") in (["127.0.0.1"], ["::1"])
    with pytest.raises(errors.Unavailable, match="cannot be looked up"):
        await resolve("a" * 70 + ".example")  # no such label can be sent
