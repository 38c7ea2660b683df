"""Composition root of the judging service."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from semievol.common.grpc_server import Service, Workers
from semievol.common.serving import serve, wait_for
from semievol.judging.core import JudgingCore, prove
from semievol.judging.servicer import JudgingServicer
from semievol.judging.settings import JudgingSettings
from semievol.judging.v1 import judging_service_pb2 as pb
from semievol.judging.v1 import judging_service_pb2_grpc as pb_grpc
from semievol.ports import Generator


def service(settings: JudgingSettings, generator: Generator) -> Service:
    """The service, whose judging model answers through `generator` (the caller closes it)."""
    judge = JudgingCore(generator)
    workers = Workers("judging", settings.thread_count, settings.max_waiting_count)
    servicer = JudgingServicer(judge, workers, settings.max_batch_count)

    async def probe() -> None:
        await workers.run(prove, judge)

    async def close() -> None:
        await asyncio.to_thread(workers.close)

    return Service(
        name=pb.DESCRIPTOR.services_by_name["JudgingService"].full_name,
        register=lambda server: pb_grpc.add_JudgingServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
    )


def main() -> None:
    from semievol.client.generation import GenerationClient  # only the room on its own needs another room's client

    settings = JudgingSettings()

    def patient() -> Service:
        found = service(settings, GenerationClient(settings.generation_address))
        return replace(found, probe=lambda: wait_for("the generation service", found.probe, settings.check_every_s))

    serve(patient, settings.address)


if __name__ == "__main__":
    main()
