"""What `semievol doctor` finds out about the services: those at an address, the running ones of a home, or started for this."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import semievol
from semievol.cli import failures, output
from semievol.cli.connect import controller_elsewhere, live_suite
from semievol.cli.options import Target
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.common.findings import FAIL, OK, WARN, Finding
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.embedded import SERVICES, Embedded, EmbeddedSettings

_STATUS = {pb.FINDING_STATUS_OK: OK, pb.FINDING_STATUS_WARNING: WARN, pb.FINDING_STATUS_FAILED: FAIL}


_SERVED = ("model", "embedding", "engine", "trainer")  # what services.json says of


@dataclass(frozen=True)
class Wanted:
    """What services that are started for this serve and where they keep things; empty: the suite's defaults, what the home remembers."""

    model: str = ""
    embedding: str = ""
    engine: str = ""
    trainer: str = ""
    store: str = ""
    milvus: str = ""


def services(target: Target, wanted: Wanted, *, train: bool) -> Iterator[Finding]:
    """A finding for every part; what cannot be started or reached is one, too."""
    if target.elsewhere:
        yield from _diagnosed(controller_elsewhere(target), train=train)
        return
    record = live_suite(target.home)
    if record is None:
        yield from _started(target.home, wanted, train=train)
        return
    serving = f"running in process {record['pid']} with {record['model']} and {record['embedding']}"
    others = [one for key in _SERVED if (one := getattr(wanted, key)) not in ("", record.get(key, one))]
    if others:
        yield Finding("services", WARN, f"{serving}, not {', '.join(others)}", "stop them, or use another --home")
    else:
        yield Finding("services", OK, serving)
    yield from _diagnosed(ControllerClient(record["addresses"]["controller"]), train=train)


def _diagnosed(controller: AbstractContextManager[ControllerClient], *, train: bool) -> Iterator[Finding]:
    try:
        with controller as client:
            answer = client.diagnose(train=train)
    except Exception as error:
        yield _failed("controller", failures.known(error), 0.0)
        return
    if answer.version != semievol.__version__:
        differ = f"the services are semievol {answer.version}, this command is {semievol.__version__}"
        yield Finding("suite", WARN, differ, "install the same version")
    for one in answer.findings:
        yield Finding(one.name, _STATUS.get(one.status, FAIL), one.message, one.advice, one.seconds, one.exit_code)


def _started(home: Path, wanted: Wanted, *, train: bool) -> Iterator[Finding]:
    """Services in this process. The one that does not start is named, and the controller tried without it."""
    default = EmbeddedSettings(home=home)
    settings = EmbeddedSettings(
        home=home,
        model=wanted.model or default.model,
        embedding=wanted.embedding or default.embedding,
        engine=wanted.engine or default.engine,
        trainer=wanted.trainer or default.trainer,
        store=wanted.store,
        milvus=wanted.milvus,
    )
    output.log_to_stderr()
    output.note(f"Starting the services with {settings.model} ...")
    started = time.monotonic()
    try:
        embedded = Embedded(settings)
    except errors.SemiEvolError as error:  # a store or a Milvus that no home can have
        yield _failed(error.field or "services", error, 0.0)
        return
    try:
        with embedded:
            took = time.monotonic() - started
            yield Finding("services", OK, f"start with {settings.model} and {settings.embedding}", seconds=took)
            yield from _diagnosed(ControllerClient(embedded.addresses["controller"]), train=train)
    except Exception as error:
        yield from _not_started(settings, embedded, failures.known(error), time.monotonic() - started)


def _not_started(
    settings: EmbeddedSettings, embedded: Embedded, error: errors.SemiEvolError, seconds: float
) -> Iterator[Finding]:
    begun = [name for name in SERVICES if name in embedded.addresses]
    for name in begun:
        yield Finding(name, OK, "starts")
    if not begun and (isinstance(error, errors.Busy) or _of_the_store(error)):  # before any of them
        yield _failed("services" if isinstance(error, errors.Busy) else "store", error, seconds)
        return
    culprit, *untried = [name for name in SERVICES if name not in begun] or ["services"]
    yield _failed(culprit, error, seconds)
    for name in untried:
        if name == "generation":
            yield _generation_alone(settings)
        elif name != "controller":
            yield Finding(name, WARN, "not tried", f"mend {culprit} first")
    if culprit != "controller":
        yield from _controller_alone(settings)


def _of_the_store(error: errors.SemiEvolError) -> bool:
    """A store is tried before any service, and what is wrong with its server may be any error: where it was raised says whose it is."""
    frames = traceback.extract_tb(error.__traceback__)
    return error.field == "store" or any(Path(frame.filename).parent.name == "stores" for frame in frames)


def _generation_alone(settings: EmbeddedSettings) -> Finding:
    """Needs no other service, and its model is what most often is at fault."""
    started = time.monotonic()
    try:
        with Embedded(settings, only="generation"):
            return Finding("generation", OK, f"starts with {settings.model}", seconds=time.monotonic() - started)
    except Exception as error:
        return _failed("generation", failures.known(error), time.monotonic() - started)


def _controller_alone(settings: EmbeddedSettings) -> Iterator[Finding]:
    """Runs and the store can be looked at without the others."""
    try:
        with Embedded(settings, only="controller") as alone:
            for check in _diagnosed(ControllerClient(alone.addresses["controller"]), train=False):
                if check.name in ("controller", "store"):
                    yield check
    except Exception as error:
        yield _failed("controller", failures.known(error), 0.0)


def _failed(name: str, error: errors.SemiEvolError, seconds: float) -> Finding:
    message = " ".join(error.message.split())
    return Finding(name, FAIL, message, failures.next_step(error), seconds, error.exit_code)
