"""Certificates and tokens, over real connections: who is let in, who is refused, and what the refused are told."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from semievol.common import errors, security
from semievol.common.grpc_client import AsyncCaller, Caller
from semievol.common.grpc_server import LIVENESS, Server
from semievol.common.security import Access, Protection, SecuritySettings, Tokens, access, protection

from tests.certificates import Authority, Pair
from tests.grpc.plumbing import NAME, Core, Stub, message, service
from tests.running import running, running_server

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def others_ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("others"), "other")


@pytest.fixture(scope="module")
def good(ca: Authority) -> Pair:
    return ca.issue("server")


def guard(pair: Pair | None = None, **settings: Any) -> Protection:
    files = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key} if pair else {}
    return protection(SecuritySettings(**files, **settings))


def trusting(ca: Authority | None, pair: Pair | None = None, **settings: Any) -> Access:
    files: dict[str, Any] = {"tls_cert_file": pair.certificate, "tls_key_file": pair.key} if pair else {}
    return access(SecuritySettings(**files, **({"tls_ca_file": ca.file} if ca else {}), **settings))


def public(core: Core | None = None) -> Any:
    return dataclasses.replace(service(core or Core()), public=True)


def say(address: str, shown: Access, **fields: Any) -> dict[str, Any]:
    """What a call of `Say` gives. Raises what the client raises."""
    caller = Caller("test", address, deadline_s=20, access=shown)
    try:
        return dict(caller.unary(Stub(caller.channel).say, message(**fields), idempotent=False).items())
    finally:
        caller.close()


# ---------------------------------------------------------------- certificates


def test_a_server_with_a_certificate_is_called_by_those_who_trust_its_ca(ca: Authority, good: Pair) -> None:
    with running(service(Core()), guard=guard(good)) as address:
        assert say(address, trusting(ca), text="hello") == {"text": "hello"}


def test_an_event_loop_calls_it_too(ca: Authority, good: Pair) -> None:
    async def call(address: str) -> Any:
        caller = AsyncCaller("test", address, deadline_s=20, access=trusting(ca))
        try:
            channel: Any = caller.channel
            return await caller.unary(Stub(channel).say, message(text="hello"))
        finally:
            await caller.close()

    with running(service(Core()), guard=guard(good)) as address:
        assert dict(asyncio.run(call(address)).items()) == {"text": "hello"}


def refused(address: str, shown: Access) -> errors.SemiEvolError:
    with pytest.raises(errors.SemiEvolError) as caught:
        say(address, shown)
    return caught.value


def test_another_ca_is_not_trusted(others_ca: Authority, good: Pair) -> None:
    with running(service(Core()), guard=guard(good)) as address:
        error = refused(address, trusting(others_ca))
    assert type(error) is errors.NotTrusted
    assert error.exit_code == 77
    assert "SEMIEVOL_TLS_CA_FILE" in error.message
    assert address in error.message


def test_an_expired_certificate_is_not_trusted(ca: Authority) -> None:
    with running(service(Core()), guard=guard(ca.issue("expired", expired=True))) as address:
        error = refused(address, trusting(ca))
    assert type(error) is errors.NotTrusted
    assert "expired" in error.message


def test_a_certificate_for_another_name_is_not_trusted_unless_that_name_is_asked_for(ca: Authority) -> None:
    elsewhere = ca.issue("elsewhere", hosts=("controller.elsewhere.svc",))
    with running(service(Core()), guard=guard(elsewhere)) as address:
        error = refused(address, trusting(ca))
        assert say(address, trusting(ca, tls_server_name="controller.elsewhere.svc"), text="hello") == {"text": "hello"}
    assert type(error) is errors.NotTrusted
    assert "SEMIEVOL_TLS_SERVER_NAME" in error.message


def test_plaintext_to_a_server_that_speaks_tls_says_what_to_set(good: Pair) -> None:
    with running(service(Core()), guard=guard(good)) as address:
        error = refused(address, Access())
    assert type(error) is errors.Unavailable
    assert "if it speaks TLS, set SEMIEVOL_TLS_CA_FILE" in error.message


def test_tls_to_a_server_that_speaks_plaintext_says_what_to_unset(ca: Authority) -> None:
    with running(service(Core()), guard=guard()) as address:
        error = refused(address, trusting(ca))
    assert type(error) is errors.Unavailable
    assert "speaks no TLS; unset SEMIEVOL_TLS_CA_FILE" in error.message


def test_a_server_that_asks_for_certificates_lets_in_those_of_its_ca_alone(
    ca: Authority, others_ca: Authority, good: Pair
) -> None:
    mutual = guard(good, tls_ca_file=ca.file, tls_require_client_cert=True)
    with running(service(Core()), guard=mutual) as address:
        assert say(address, trusting(ca, good), text="hello") == {"text": "hello"}
        without, wrong = refused(address, trusting(ca)), refused(address, trusting(ca, others_ca.issue("client")))
    assert "SEMIEVOL_TLS_CERT_FILE and SEMIEVOL_TLS_KEY_FILE" in without.message
    assert "does not take the certificate of SEMIEVOL_TLS_CERT_FILE" in wrong.message


def test_a_failed_handshake_is_not_tried_again(others_ca: Authority, good: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting does not help, and a command that waits before it says so is no help either."""
    monkeypatch.setattr("semievol.common.grpc_client.time.sleep", lambda seconds: pytest.fail("it waits"))
    with running(service(Core()), guard=guard(good)) as address:
        caller = Caller("test", address, deadline_s=20, access=trusting(others_ca))
        with pytest.raises(errors.NotTrusted):
            caller.unary(Stub(caller.channel).say, message())
        caller.close()


def test_a_replaced_certificate_is_used_without_a_restart(
    tmp_path: Path, ca: Authority, others_ca: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "_LOOK_EVERY_S", 0.0)
    first, second = ca.issue("first"), others_ca.issue("second")
    used = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")

    def use(pair: Pair) -> None:
        for there, here in ((pair.certificate, used.certificate), (pair.key, used.key)):
            here.unlink(missing_ok=True)
            here.write_bytes(there.read_bytes())

    use(first)
    with running(service(Core()), guard=guard(used)) as address:
        assert say(address, trusting(ca), text="hello") == {"text": "hello"}
        use(second)
        assert type(refused(address, trusting(ca))) is errors.NotTrusted
        assert say(address, trusting(others_ca), text="hello") == {"text": "hello"}
        used.key.write_text("no key")
        assert say(address, trusting(others_ca), text="hello") == {"text": "hello"}


# ---------------------------------------------------------------- tokens


def with_token(token: str) -> Access:
    return access(SecuritySettings(token=token))


@pytest.fixture
def guarded() -> Iterator[str]:
    with running(public(), guard=guard(auth_tokens="old-token, new-token")) as address:
        yield address


def calls(address: str, shown: Access) -> dict[str, Callable[[], object]]:
    """One call of every kind, a method that is not there, and reflection."""
    caller = Caller("test", address, deadline_s=20, access=shown)
    stub, channel = Stub(caller.channel), caller.channel
    reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    return {
        "unary": lambda: caller.unary(stub.say, message(text="x"), idempotent=False),
        "stream": lambda: list(caller.stream(stub.count, message(to=2))),
        "upload": lambda: caller.upload(stub.sum, iter([message(number=1)])),
        "both ways": lambda: list(caller.stream(stub.echo, iter([message(text="x")]))),
        "missing": lambda: caller.unary(stub.missing, message(), idempotent=False),
        "reflection": lambda: list(caller.stream(reflected, iter([question]))),
    }


KINDS = ("unary", "stream", "upload", "both ways", "missing", "reflection")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", ["", "wrong", "old-toke", "old-token-and-more"])
def test_without_a_known_token_every_call_is_refused(guarded: str, kind: str, token: str) -> None:
    with pytest.raises(errors.NotAuthenticated) as caught:
        calls(guarded, with_token(token))[kind]()
    assert caught.value.exit_code == 77
    assert "SEMIEVOL_TOKEN" in caught.value.message


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"missing"}))
@pytest.mark.parametrize("token", ["old-token", "new-token"])
def test_each_of_several_tokens_opens(guarded: str, kind: str, token: str) -> None:
    assert calls(guarded, with_token(token))[kind]()


@pytest.mark.parametrize("sent", ["Basic old-token", "old-token", "Bearer", "Bearer  ", "bearer wrong"])
def test_only_a_bearer_token_counts(guarded: str, sent: str) -> None:
    with grpc.insecure_channel(guarded) as channel, pytest.raises(grpc.RpcError) as caught:
        Stub(channel).say(message(), timeout=20, metadata=[("authorization", sent)])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_needs_no_token(guarded: str) -> None:
    with grpc.insecure_channel(guarded) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == SERVING


def test_tokens_guard_public_services_alone() -> None:
    with running(service(Core()), guard=guard(auth_tokens="token")) as address:
        assert say(address, Access(), text="hello") == {"text": "hello"}


def test_tokens_of_a_file_are_those_that_it_holds_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_LOOK_EVERY_S", 0.0)
    file = tmp_path / "tokens"
    file.write_text("first\n\nsecond\n")
    with running(public(), guard=guard(auth_tokens_file=file)) as address:
        assert say(address, with_token("second"), text="x")
        file.write_text("third\n")
        assert say(address, with_token("third"), text="x")
        with pytest.raises(errors.NotAuthenticated):
            say(address, with_token("second"))
        file.write_text("")  # nobody wants the door to stand open
        assert say(address, with_token("third"), text="x")
        with pytest.raises(errors.NotAuthenticated):
            say(address, Access())


def test_a_client_shows_the_token_that_its_file_holds_now(tmp_path: Path, guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_LOOK_EVERY_S", 0.0)
    file = tmp_path / "token"
    file.write_text("wrong\n")
    caller = Caller("test", guarded, deadline_s=20, access=access(SecuritySettings(token_file=file)))
    stub = Stub(caller.channel)
    with pytest.raises(errors.NotAuthenticated):
        caller.unary(stub.say, message())
    file.write_text("new-token\n")
    assert caller.unary(stub.say, message(text="x"))
    caller.close()


def test_every_known_token_is_compared_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a refusal takes must not tell which token is nearly right."""
    compared: list[bytes] = []
    monkeypatch.setattr(security.hmac, "compare_digest", lambda left, right: bool(compared.append(right)) or left == right)
    tokens = Tokens(["one", "two", "three"], None)
    assert [(tokens.know(token), len(compared)) for token in ("one", "none")] == [(True, 3), (False, 6)]


# ---------------------------------------------------------------- health on a port of its own


def health(address: str, name: str) -> int:
    with grpc.insecure_channel(address) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status


def test_health_answers_in_plaintext_beside_tls_and_tokens(ca: Authority, good: Pair) -> None:
    strict = guard(good, tls_ca_file=ca.file, tls_require_client_cert=True, auth_tokens="token")
    with running_server(public(), guard=strict, health_address="127.0.0.1:0") as server:
        assert [health(server.health_address, name) for name in ("", NAME, LIVENESS)] == [SERVING] * 3
        with grpc.insecure_channel(server.health_address) as channel, pytest.raises(grpc.RpcError) as caught:
            Stub(channel).say(message(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_process_that_is_not_ready_is_alive() -> None:
    """Liveness holds from the first moment: weights take minutes to load, and a probe that kills meanwhile never lets them."""
    loading, go_on = threading.Event(), threading.Event()

    def probe() -> None:
        loading.set()
        go_on.wait(30)

    server = Server([service(Core(), probe=probe)], health_address="127.0.0.1:0")
    starting = asyncio.create_task(server.start())
    await asyncio.to_thread(loading.wait, 30)
    assert await asyncio.to_thread(health, server.health_address, "") == NOT_SERVING
    assert await asyncio.to_thread(health, server.health_address, LIVENESS) == SERVING
    go_on.set()
    await starting
    assert await asyncio.to_thread(health, server.health_address, "") == SERVING
    await server.stop(1.0)


async def test_a_health_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server([service(Core())], health_address=address)
        with pytest.raises(errors.Unavailable, match=f"Cannot listen at the address {address}"):
            await server.start()
        await server.stop(0)


# ---------------------------------------------------------------- what a process says when it starts


def started(caplog: pytest.LogCaptureFixture, address: str, protection: Protection, *, is_public: bool = True) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING), running(public() if is_public else service(Core()), address=address, guard=protection):
        return caplog.text


def test_a_public_door_that_others_reach_says_loudly_what_it_does_without(caplog: pytest.LogCaptureFixture, good: Pair) -> None:
    bare = started(caplog, "0.0.0.0:0", guard())
    assert f"{NAME} IS OPEN" in bare
    assert f"{NAME} SPEAKS PLAINTEXT" in bare
    tokens_only = started(caplog, "0.0.0.0:0", guard(auth_tokens="token"))
    assert "IS OPEN" not in tokens_only
    assert "SPEAKS PLAINTEXT" in tokens_only
    assert started(caplog, "0.0.0.0:0", guard(good, auth_tokens="token")) == ""
    assert started(caplog, "127.0.0.1:0", guard()) == ""
    assert started(caplog, "0.0.0.0:0", guard(), is_public=False) == ""
