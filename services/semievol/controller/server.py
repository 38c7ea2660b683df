"""Composition root of the controller."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.client.services import Services
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.grpc_server import Service, Workers
from semievol.common.registry import Registry
from semievol.common.serving import serve
from semievol.common.stores import open_store
from semievol.common.stores.probe import probe as probe_store
from semievol.controller.core import Controller
from semievol.controller.diagnosis import Parts
from semievol.controller.engines import EngineTurns
from semievol.controller.forecast import Forecaster
from semievol.controller.known import BaseOfRuns, KnownBases
from semievol.controller.pods import Answering, answering
from semievol.controller.preview import Intake, Outputs
from semievol.controller.replicas import Replicas
from semievol.controller.resolve import Resolver
from semievol.controller.runs import RunRecord, RunStore
from semievol.controller.servicer import ControllerServicer
from semievol.controller.settings import ControllerSettings
from semievol.controller.surroundings import Surroundings, nobody, nothing
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.v1 import controller_service_pb2_grpc as pb_grpc
from semievol.launchers import open_launcher
from semievol.ports import Cancel, Launcher, RunOwner

if TYPE_CHECKING:
    from semievol.controller.lease import Elector

log = logging.getLogger(__name__)

_RESUME_AGAIN_S = 5.0


def launcher(settings: ControllerSettings) -> Launcher:
    """The one that the settings name. Raises as `open_launcher`."""
    return open_launcher(settings.launcher, settings.jobs_directory, "step")


def elector(replica_address: str = "") -> Elector | None:
    """Whoever decides between the replicas of the controller, on a cluster and if SEMIEVOL_KUBERNETES_LEASE names a Lease."""
    from semievol.common.kube import DEPLOYMENT, KubernetesSettings, connect
    from semievol.controller.lease import Elector

    settings = KubernetesSettings()
    if not settings.lease:
        return None
    kube = connect(settings, attempts=1, timeout_s=settings.lease_s / 3)  # what fails is tried again with the next renewal

    def owner() -> dict[str, Any] | None:
        return kube.get(DEPLOYMENT, settings.owner) if settings.owner else None

    name = socket.gethostname()
    return Elector(kube, settings.lease, name, address=replica_address, owner=owner, duration_s=settings.lease_s)


def controller(
    settings: ControllerSettings,
    jobs: Launcher,
    addresses: Mapping[str, str],
    election: Elector | None = None,
    engines: Answering | None = None,
) -> Controller:
    """A controller over the settings' store. `addresses`: service -> host:port; those that are missing are asked for in vain. `election`: says
    whether it acts; None: it does. `engines`: others than those that the settings name."""
    store = open_store(settings.store)
    artifacts = Artifacts(store)

    services = Services(addresses)
    found = engines or answering(settings, addresses.get("generation", ""), lambda: services.generation.models()[0])
    known = KnownBases(store, found.engines.settings)

    def turns(run: RunRecord) -> EngineTurns:
        parallelism, placement = settings.parallelism, settings.placement
        return EngineTurns(run, found.engines, found.serving, known, addresses, parallelism=parallelism, placement=placement)

    runs = RunStore(store)
    surroundings = Surroundings(
        artifacts=artifacts,
        store_uri=settings.store,
        runs=runs,
        registry=Registry(store),
        launcher=jobs,
        trainer=lambda: services.training,
        parallelism=settings.parallelism,
        max_attempts=settings.max_attempts,
        backoff_s=settings.backoff_s,
        poll_s=settings.poll_s,
        turns=turns,
        recover=found.recover,
        patience_s=settings.patience_s,
        leader=election.leader if election else nobody,
        forget_run=jobs.forget_run if isinstance(jobs, RunOwner) else nothing,
    )
    intake = _intake(artifacts, services)
    forecaster = Forecaster(
        artifacts, runs, intake, lambda: services.generation, lambda: services.embedding, lambda: services.retrieval
    )
    parts = Parts(
        artifacts,
        runs,
        embedder=lambda: services.embedding,
        index=lambda: services.retrieval,
        engine=lambda: services.generation,
        judge=lambda: services.judging,
        trainer=lambda: services.training,
    )
    base = BaseOfRuns(known, lambda: services.generation.models()[0], found.engines) if found.engines.takes_turns else None
    resolver = Resolver(lambda: services.generation, lambda: services.embedding, base)
    return Controller(surroundings, resolver, settings.models_directory, forecaster, parts)


def _intake(artifacts: Artifacts, services: Services) -> Intake:
    """The step's own function, for plans."""

    def intake(params: Mapping[str, Any], cancel: Cancel) -> Outputs:
        from semievol.steps import intake as step
        from semievol.steps.context import StepContext

        with tempfile.TemporaryDirectory(prefix="semievol-plan-") as scratch:
            made = step.run(StepContext(artifacts, services, params, {}, None, cancel, lambda progress: None, Path(scratch)))
            return {path: data if isinstance(data, bytes) else data.read_bytes() for path, data in made.items()}

    return intake


def service(settings: ControllerSettings, core: Controller, election: Elector | None = None) -> Service:
    """The gRPC service around a controller. A replica that waits for its turn is as healthy as the one that acts: it answers what can be read,
    and passes the rest on."""
    workers = Workers("controller", threads=4)
    # each waits most of its time; an export's messages are a quarter of a MiB each
    watchers = Workers("controller-watch", threads=64, ahead=16, stall_s=60.0)
    others = Replicas(election.acting, settings.server_name) if election else Replicas()
    servicer = ControllerServicer(core, workers, watchers, others)

    async def probe() -> None:
        if settings.probe_store:
            await workers.run(probe_store, open_store(settings.store))
        await workers.run(core.probe)
        if election:  # whenever this replica begins to act; not on the thread that has to renew its hold meanwhile
            resume = partial(_resume, core, election)
            await workers.run(election.start, lambda: threading.Thread(target=resume, name="resume", daemon=True).start())
        elif settings.resume_on_start:
            await workers.run(core.resume_all)

    async def close() -> None:
        await asyncio.to_thread(core.close)
        if election:  # when nothing is driven here any more
            await asyncio.to_thread(election.stop)
        await asyncio.to_thread(watchers.close)
        await asyncio.to_thread(workers.close)

    return Service(
        name=pb.DESCRIPTOR.services_by_name["ControllerService"].full_name,
        public=True,
        register=lambda server: pb_grpc.add_ControllerServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
    )


def _resume(core: Controller, election: Elector) -> None:
    """Lets unfinished runs go on, as soon as the store can be read; for as long as this replica acts."""
    while not election.leader():
        try:
            core.resume_all()
        except errors.SemiEvolError as error:
            log.warning("Runs cannot be resumed yet: %s", error.message)
            time.sleep(_RESUME_AGAIN_S)
        else:
            return


def main() -> None:
    settings = ControllerSettings()
    if not settings.store:
        settings = settings.model_copy(update={"store": Path("artifacts").absolute().as_uri()})
    names = ("embedding", "retrieval", "generation", "judging", "training")
    addresses = {name: getattr(settings, f"{name}_address") for name in names}

    def build() -> Service:
        election = elector(settings.replica_address) if settings.launcher == "kubernetes" else None
        return service(settings, controller(settings, launcher(settings), addresses, election), election)

    serve(build, settings.address)


if __name__ == "__main__":
    main()
