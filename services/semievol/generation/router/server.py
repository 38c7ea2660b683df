"""Composition root of the router: one address in front of generation services, which knows models by name and alias."""

from __future__ import annotations

from semievol.client.engine import EngineClient
from semievol.common.grpc_server import Service
from semievol.common.serving import serve, wait_for
from semievol.common.stores import open_store
from semievol.generation.router import names
from semievol.generation.router.catalog import CatalogReader, CatalogView
from semievol.generation.router.core import Router
from semievol.generation.router.engines import Engines
from semievol.generation.router.names import Names, Resolve
from semievol.generation.router.servicer import RouterServicer
from semievol.generation.router.settings import RouterSettings
from semievol.generation.v1 import generation_service_pb2 as pb
from semievol.generation.v1 import generation_service_pb2_grpc as pb_grpc
from semievol.ports import ObjectStore


def service(settings: RouterSettings, store: ObjectStore | None = None, resolve: Resolve = names.resolve) -> Service:
    """The router as a service. `store`: the one that the settings name if none is given; `resolve`: what says where names are. Starts,
    NOT_SERVING, before its engines do."""
    reader = CatalogReader(lambda: store if store is not None else open_store(settings.store))
    router = Router(
        CatalogView(reader.read, settings.cache_s),
        Engines(Names(settings.engines, resolve), EngineClient),
        default_alias=settings.default_alias,
        avoid_s=settings.avoid_s,
        max_adapters=settings.max_adapters,
        recent_s=settings.recent_s,
    )
    servicer = RouterServicer(router, settings.deadline_s)

    return Service(
        name=pb.DESCRIPTOR.services_by_name["GenerationService"].full_name,
        public=True,
        register=lambda server: pb_grpc.add_GenerationServiceServicer_to_server(servicer, server),
        probe=lambda: wait_for("an engine", router.check, settings.check_every_s),
        close=router.close,
        check=router.check,
        check_every_s=settings.check_every_s,
    )


def main() -> None:
    settings = RouterSettings()
    serve(lambda: service(settings), settings.address)


if __name__ == "__main__":
    main()
