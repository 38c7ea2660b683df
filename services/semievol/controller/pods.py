"""Composition of what answers runs: the generation service at its address, or engines of the runs' own in pods."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from semievol.common import security
from semievol.controller.engines import FixedEngines, ServingStays
from semievol.controller.settings import ControllerSettings
from semievol.ports import Engines, ModelInfo, ServingEngines

_ASK_S = 5.0  # an engine that is ready says at once what it serves


@dataclass(frozen=True)
class Answering:
    """`recover`: see Surroundings."""

    engines: Engines
    serving: ServingEngines
    recover: Callable[[Collection[str]], None]


def answering(settings: ControllerSettings, address: str, base: Callable[[], ModelInfo]) -> Answering:
    """By the settings. `address`, `base`: of the generation service. Raises InvalidInput (no usable template, no cluster), NotSupported."""
    if settings.engines == "fixed":
        return Answering(FixedEngines(address, base), ServingStays(), lambda runs: None)
    # Only those who have a cluster need its client.
    from semievol.common.kube import KubernetesSettings, connect
    from semievol.launchers.kubernetes_engines import EngineSettings, PodEngines
    from semievol.launchers.kubernetes_serving import DeploymentServing

    cluster, own = KubernetesSettings(), EngineSettings()
    kube = connect(cluster)
    by_name = security.settings().tls_ca_file is not None  # certificates are for names
    engines = PodEngines(kube, cluster, own, base_at, by_name=by_name)
    if not own.serving_engine:
        return Answering(engines, ServingStays(), engines.recover)
    serving = DeploymentServing(kube, own.serving_engine, settings.serving_yields)

    def recover(runs: Collection[str]) -> None:
        engines.recover(runs)
        serving.recover(runs)

    return Answering(engines, serving, recover)


def base_at(address: str) -> ModelInfo:
    """What the generation service there serves as its base. Raises Unavailable, DeadlineExceeded."""
    from semievol.client.generation import GenerationClient

    client = GenerationClient(address, deadline_s=_ASK_S)
    try:
        return client.models()[0]
    finally:
        client.close()
