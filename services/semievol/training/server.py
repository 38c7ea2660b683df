"""Composition root of the training service."""

from __future__ import annotations

import asyncio

from semievol.common.artifacts import Artifacts
from semievol.common.grpc_server import Service, Workers
from semievol.common.serving import serve
from semievol.common.stores import open_store
from semievol.launchers import open_launcher
from semievol.ports import Launcher, Trainer
from semievol.training.backends import openai
from semievol.training.backends.fake import FakeTrainer
from semievol.training.core import TrainingService
from semievol.training.servicer import TrainingServicer
from semievol.training.settings import TrainingSettings
from semievol.training.v1 import training_service_pb2 as pb
from semievol.training.v1 import training_service_pb2_grpc as pb_grpc

_CALL_THREADS = 8  # a cancellation holds one until its job has saved and ended


def service(settings: TrainingSettings, launcher: Launcher, artifacts: Artifacts) -> Service:
    """The service over these two; their owner closes them. `settings.store` must open the store of `artifacts`."""
    if settings.backend == "fake":
        return around(FakeTrainer(artifacts), settings)
    trainer = TrainingService(
        artifacts, launcher, settings.job_options(), poll_s=settings.poll_s, cancel_elsewhere=openai.cancel_job
    )
    return around(trainer, settings)


def around(trainer: Trainer, settings: TrainingSettings) -> Service:
    """The service around any trainer."""
    workers = Workers("training", _CALL_THREADS)
    watchers = Workers("training-watch", settings.max_watchers, max_waiting=0)
    servicer = TrainingServicer(trainer, workers, watchers)

    async def probe() -> None:
        if isinstance(trainer, TrainingService):
            await workers.run(trainer.probe)

    async def close() -> None:
        await asyncio.gather(asyncio.to_thread(workers.close), asyncio.to_thread(watchers.close))

    return Service(
        name=pb.DESCRIPTOR.services_by_name["TrainingService"].full_name,
        register=lambda server: pb_grpc.add_TrainingServiceServicer_to_server(servicer, server),
        probe=probe,
        close=close,
    )


def main() -> None:
    settings = TrainingSettings()
    launchers: list[Launcher] = []

    def build() -> Service:
        launchers.append(open_launcher(settings.launcher, settings.jobs_directory, "training"))
        return service(settings, launchers[0], Artifacts(open_store(settings.store)))

    try:
        serve(build, settings.address)
    finally:
        for launcher in launchers:
            launcher.close()


if __name__ == "__main__":
    main()
