"""Callers who may not call, and servers that may not be trusted. Every method of the public doors is tried; nobody is let in who should not be.

The suite of the place stands behind a controller and a router with certificates and tokens; each case calls them with something wrong.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import grpc
from semievol.common import security
from semievol.common.grpc_client import open_channel
from semievol.common.security import SecuritySettings
from semievol.controller.fake import FakeControllerServicer
from semievol.controller.fake import service as controller_service
from semievol.controller.v1 import controller_service_pb2 as controller_pb
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.router import server as router
from semievol.generation.router.settings import RouterSettings
from semievol.generation.server import service as generation_service
from semievol.generation.settings import GenerationSettings
from semievol.generation.v1 import generation_service_pb2 as generation_pb

from tests.certificates import Authority, Pair
from tests.faults.bench import Case, Ended, Place
from tests.running import running

ACCESS = "Access"
TOKEN = "token-of-the-suite"
_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
METHODS = {
    "controller": controller_pb.DESCRIPTOR.services_by_name["ControllerService"],
    "router": generation_pb.DESCRIPTOR.services_by_name["GenerationService"],
}


@dataclass(frozen=True)
class Doors:
    """Addresses of a controller and a router that ask for a token and a client's certificate."""

    controller: str
    router: str


@contextlib.contextmanager
def doors(ca: Authority, pair: Pair, *, mutual: bool = False) -> Iterator[Doors]:
    settings = SecuritySettings(
        tls_cert_file=pair.certificate,
        tls_key_file=pair.key,
        tls_ca_file=ca.file,
        tls_require_client_cert=mutual,
        auth_tokens=TOKEN,
    )
    guard = security.protection(settings)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(running(generation_service(GenerationSettings(), FakeEngine(lambda *asked: "red"))))
        behind = router.service(RouterSettings(engines=(engine,), store=(ca.file.parent / "store").as_uri()))
        fake = controller_service(FakeControllerServicer())
        yield Doors(
            stack.enter_context(running(replace(fake, public=True), guard=guard)),
            stack.enter_context(running(behind, guard=guard)),
        )


def allowed(address: str, methods: list[str], access: security.Access) -> list[str]:
    """Of these methods those whose calls come through to something other than a refusal."""
    refusals = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
    found = []
    with open_channel(address, access) as channel:
        for method in methods:
            call = channel.stream_stream(method, lambda data: data, lambda data: data)
            try:
                list(call(iter([b""]), timeout=20, metadata=access.metadata))
            except grpc.RpcError as error:
                if error.code() in refusals:
                    continue
            found.append(method)
    return found


def tried(name: str) -> list[str]:
    """Every method of a door, one that is not there, and reflection."""
    service = METHODS[name]
    return [*(f"/{service.full_name}/{method.name}" for method in service.methods), f"/{service.full_name}/Missing", _REFLECTION]


def refused(place: Place, there: Doors, environment: dict[str, str]) -> Ended:
    """A command with this environment, and every method of both doors: how it ended, and how many calls were let in."""
    names = [name for name in os.environ if name.startswith(("SEMIEVOL_TLS_", "SEMIEVOL_TOKEN"))]
    with mock.patch.dict(os.environ, environment):
        for name in names:
            os.environ.pop(name, None)
        shown, let_in, count = security.access(), [], 0
        for name, address in (("controller", there.controller), ("router", there.router)):
            methods = tried(name)
            count += len(methods)
            let_in += allowed(address, methods, shown)
        ended = place.semievol("status", "--address", there.controller)
    assert let_in == [], f"let in: {', '.join(let_in)}"
    return Ended(ended.code, ended.stdout, ended.stderr, f"unexpected allows: {len(let_in)} of {count} methods; {_first(ended)}")


def _first(ended: Ended) -> str:
    return ended.message[0].removeprefix("Error: ") if ended.message else "no message"


Environment = Callable[[Authority, Authority], dict[str, str]]


def with_wrong(
    environment: Environment, *, expired: bool = False, mutual: bool = False, name: str = "server"
) -> Callable[[Place], Ended]:
    """A case: doors with a certificate, and a caller with `environment`, made from their authority and another one."""

    def inject(place: Place) -> Ended:
        directory = place.directory / "access"
        ca, other = Authority(directory), Authority(directory / "other", "other")
        hosts = ("somewhere.else",) if name == "elsewhere" else ("localhost", "127.0.0.1")
        pair = ca.issue(name, expired=expired, hosts=hosts)
        with doors(ca, pair, mutual=mutual) as there:
            _lets_in(there, ca, pair, usable=not expired and name == "server")
            return refused(place, there, environment(ca, other))

    return inject


def _lets_in(there: Doors, ca: Authority, pair: Pair, *, usable: bool) -> None:
    """Whoever has all that is right gets in: a door that refused everybody would pass every case."""
    if not usable:
        return
    settings = SecuritySettings(tls_ca_file=ca.file, tls_cert_file=pair.certificate, tls_key_file=pair.key, token=TOKEN)
    for name, address in (("controller", there.controller), ("router", there.router)):
        method = {"controller": "ListRuns", "router": "ListModels"}[name]
        path = f"/{METHODS[name].full_name}/{method}"
        assert allowed(address, [path], security.access(settings)) == [path], f"{path} is closed to everybody"


def _trusting(ca: Authority, **more: str) -> dict[str, str]:
    return {"SEMIEVOL_TLS_CA_FILE": str(ca.file), **more}


def _token(value: str = TOKEN) -> dict[str, str]:
    return {"SEMIEVOL_TOKEN": value}


def _of_another_ca(ca: Authority, other: Authority) -> dict[str, str]:
    return _trusting(ca, **_token(), **other.issue("client").environment)


def _of_yesterday(ca: Authority, other: Authority) -> dict[str, str]:
    file = Path(ca.file.parent, "token")
    file.write_text("token-of-yesterday\n")
    return _trusting(ca, SEMIEVOL_TOKEN_FILE=str(file))


NEEDS_TOKEN = r"This server asks for a token, and none was sent: set SEMIEVOL_TOKEN"
WRONG_TOKEN = r"This server does not know the token that was sent"
access = functools.partial(Case, ACCESS)
ACCESS_CASES = [
    access("no token", (77,), NEEDS_TOKEN, with_wrong(lambda ca, other: _trusting(ca))),
    access("a wrong token", (77,), WRONG_TOKEN, with_wrong(lambda ca, other: _trusting(ca, **_token("token-of-the-suit")))),
    access("a token that was replaced", (77,), WRONG_TOKEN, with_wrong(_of_yesterday)),
    access(
        "a CA that did not sign",
        (77,),
        r"CA that is not trusted here",
        with_wrong(lambda ca, other: _trusting(other, **_token())),
    ),
    access(
        "an expired certificate", (77,), r"has expired", with_wrong(lambda ca, other: _trusting(ca, **_token()), expired=True)
    ),
    access(
        "a certificate for another name",
        (77,),
        r"certificate for another name",
        with_wrong(lambda ca, other: _trusting(ca, **_token()), name="elsewhere"),
    ),
    access("plaintext to a port that speaks TLS", (69,), r"set SEMIEVOL_TLS_CA_FILE", with_wrong(lambda ca, other: _token())),
    access(
        "no client certificate where one is asked for",
        (69,),
        r"set SEMIEVOL_TLS_CERT_FILE",
        with_wrong(lambda ca, other: _trusting(ca, **_token()), mutual=True),
    ),
    access(
        "a client certificate of another CA", (69,), r"does not take the certificate", with_wrong(_of_another_ca, mutual=True)
    ),
]
