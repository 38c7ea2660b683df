"""Which services a command talks to: those at an address, the running ones of a home, or embedded ones in this process."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol import homes
from semievol.cli import output
from semievol.cli.options import Target
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.controller.v1 import controller_service_pb2 as pb

if TYPE_CHECKING:
    from semievol.common.runspec import RunSpec
    from semievol.common.security import Access

_HEALTH_DEADLINE_S = 2.0


@dataclass(frozen=True)
class Suite:
    """All services of one machine. `here`: they live in this process and end with the command."""

    addresses: Mapping[str, str]
    here: bool


@dataclass(frozen=True)
class Connection:
    """A controller. `works`: it carries runs on; the embedded one of a command that only reads does not."""

    client: ControllerClient
    works: bool


def live_suite(home: Path) -> dict[str, Any] | None:
    """What services.json says (addresses, model, embedding, engine) of the running services of a home, if there are any that answer."""
    from semievol.embedded import read_addresses

    record = read_addresses(home)
    return record if record and _answers(record["addresses"]["controller"]) else None


def _lasting_suite(home: Path) -> dict[str, Any] | None:
    """`live_suite`, for those who give it work: what belongs to a `semievol run` ends with it. Raises Busy."""
    from semievol.embedded import in_use

    record = live_suite(home)
    if record and not record.get("lasting", True):
        raise in_use(home, record)
    return record


def _answers(address: str) -> bool:
    """Whether there is a server of ours: its health service answers, whatever it says."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from semievol.common.grpc_client import open_channel
    from semievol.common.security import access

    with open_channel(address, access()) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_DEADLINE_S)
        except grpc.RpcError:
            return False
    return True


@contextlib.contextmanager
def reached(target: Target, component: str = "controller") -> Iterator[tuple[str, Access | None]]:
    """Address of the controller or router of a target that is elsewhere, and what opens it (None: as the environment says). Raises as
    `forward.forwarded`."""
    if target.address:
        yield target.address, None
        return
    assert target.cluster is not None
    from semievol.cli.forward import forwarded

    with forwarded(target.cluster, component) as found:
        yield found


@contextlib.contextmanager
def controller_elsewhere(target: Target) -> Iterator[ControllerClient]:
    """A client of it. Raises as `reached`."""
    with reached(target) as (address, access), ControllerClient(address, access=access) as client:
        yield client


def _home_controller(target: Target, suite_of: Callable[[Path], dict[str, Any] | None] = live_suite) -> str:
    """Address of the home's controller that carries runs on; empty if there is none. `suite_of`: `_lasting_suite` for one that is given work."""
    record = suite_of(target.home)
    if not record:
        return ""
    _check_backends(target.home, record, store=target.store)
    return str(record["addresses"]["controller"])


@contextlib.contextmanager
def controller(target: Target, *, exclusive: bool = False, vectors: bool = False) -> Iterator[Connection]:
    """The controller that a command means. One without running services is embedded here, to read (and mark) what is stored.

    `exclusive`: the command deletes things; raises Busy where another process is about to work on the home. `vectors`: it needs the home's
    vector store, if there is one."""
    if target.elsewhere:
        with controller_elsewhere(target) as client:
            yield Connection(client, works=True)
        return
    address = _home_controller(target)
    if address:
        with ControllerClient(address) as client:
            yield Connection(client, works=True)
        return
    output.log_to_stderr()
    announce_backends(target.home, store=target.store)
    from semievol.embedded import Embedded, EmbeddedSettings

    settings = EmbeddedSettings(home=target.home, store=target.store)
    with (
        Embedded(settings, only="controller", exclusive=exclusive, vectors=vectors) as embedded,
        ControllerClient(embedded.addresses["controller"]) as client,
    ):
        yield Connection(client, works=False)


def serving(target: Target) -> bool:
    """Whether there is a controller that carries runs on. Raises Busy, as `suite`."""
    return target.elsewhere or bool(_home_controller(target, _lasting_suite))


@contextlib.contextmanager
def working_controller(target: Target, instead: str) -> Iterator[ControllerClient]:
    """A controller that carries runs on. Raises Unavailable, saying what to do instead, if none is running; Busy, as `suite`."""
    if target.elsewhere:
        with controller_elsewhere(target) as client:
            yield client
        return
    address = _home_controller(target, _lasting_suite)
    if not address:
        raise errors.Unavailable(f"No services are running for {target.home}, so nobody would work on it. {instead}")
    with ControllerClient(address) as client:
        yield client


@contextlib.contextmanager
def suite(home: Path, spec: RunSpec, launcher: str, *, store: str = "", milvus: str = "") -> Iterator[Suite]:
    """The running services of this home if there are any, else services in this process.

    Raises Conflict (they serve other models, or keep things elsewhere), Busy (another process holds the home, and its services, if any,
    end with it).
    """
    wanted = {"model": spec.model, "embedding": spec.embedding, "engine": spec.engine, "trainer": spec.trainer}
    record = _lasting_suite(home)
    if record is not None:
        _check_models(home, record, wanted)
        _check_backends(home, record, store=store, milvus=milvus)
        yield Suite(record["addresses"], here=False)
        return
    from semievol.embedded import Embedded, EmbeddedSettings

    announce_backends(home, store=store, milvus=milvus)
    _announce_start("the services", spec.model)
    settings = EmbeddedSettings(
        home=home,
        model=spec.model,
        embedding=spec.embedding,
        engine=spec.engine,
        placement=spec.placement,
        trainer=spec.trainer,
        launcher=launcher,
        store=store,
        milvus=milvus,
    )
    with Embedded(settings) as embedded:
        yield Suite(embedded.addresses, here=True)


@contextlib.contextmanager
def router(home: Path, model: str, *, store: str = "", endpoint: str = "") -> Iterator[str]:
    """Address of a router in front of an engine with this base: the running one of this home, or one in this process. Raises Conflict.
    `endpoint`: that trained the model, and alone serves it."""
    record = live_suite(home)
    if record is not None:
        _check_models(home, record, {"model": model} | ({"engine": endpoint} if endpoint else {}))
        _check_backends(home, record, store=store)
        if "router" not in record["addresses"]:
            raise errors.Conflict(f"The running services of {home} are of a version without a router; start them again.")
        yield record["addresses"]["router"]
        return
    from semievol.embedded import Embedded, EmbeddedSettings

    _announce_start("the generation service", model)
    there: dict[str, Any] = {"engine": endpoint, "trainer": "openai"} if endpoint else {}
    with Embedded(EmbeddedSettings(home=home, model=model, store=store, **there), only="generation") as embedded:
        yield embedded.addresses["router"]


def _announce_start(what: str, model: str) -> None:
    output.log_to_stderr()
    first = " (prepared on first use, which takes about a minute)" if model.startswith("bundled:") else ""
    output.note(f"Starting {what} with {model}{first} ...")


def _check_models(home: Path, record: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
    for key, model in wanted.items():
        if record.get(key, model) != model:
            raise errors.Conflict(
                f"The running services of {home} serve {record[key]}, not {model}. Stop them, or use another --home.", field=key
            )


def announce_backends(home: Path, **asked: str) -> None:
    """Says where an option changes what the home used so far (asked: store, milvus)."""
    used = asdict(homes.backends(home, **asked))
    for change in homes.changes(home, {part: used[part] for part, value in asked.items() if value}):
        output.note(change)


def _check_backends(home: Path, record: Mapping[str, Any], **asked: str) -> None:
    used = asdict(homes.backends(home, **asked))
    for part, value in asked.items():
        if value and record.get(part, "") != used[part]:
            theirs = record.get(part, "") or homes.EMBEDDED
            raise errors.Conflict(
                f"The running services of {home} use the {part} {theirs}, not {used[part] or homes.EMBEDDED}. Stop them, or use another "
                "--home.",
                field=part,
            )


def nearest(kind: str, name: str, known: Sequence[str], field: str) -> errors.NotFound:
    """NotFound that names what was probably meant."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif known:
        hint = f"known: {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}."
    else:
        hint = "there are none yet."
    return errors.NotFound(f"There is no {kind} {name!r}; {hint}", field=field)


def find_run(client: ControllerClient, name: str) -> pb.Run:
    """A run by id or name. Raises NotFound with the nearest known."""
    try:
        return client.get_run(name)
    except errors.NotFound as error:
        runs = client.list_runs()
        known = list(dict.fromkeys([run.spec.name for run in runs] + [run.id for run in runs]))
        raise nearest("run", name, known, "run") from error


def find_model(client: ControllerClient, name: str) -> pb.Model:
    """A model by its own name or by an alias. Raises NotFound with the nearest known."""
    listed = client.list_models()
    models = {model.name: model for model in listed.models}
    aliases = {alias.name: alias.model for alias in listed.aliases}
    model = models.get(name) or models.get(aliases.get(name, ""))  # in the router's order
    if model is None:
        raise nearest("alias or model", name, [*aliases, *models], "model")
    return model
