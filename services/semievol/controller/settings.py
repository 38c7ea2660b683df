"""Settings of the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ControllerSettings(BaseSettings):
    """Environment variables SEMIEVOL_CONTROLLER_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_CONTROLLER_", frozen=True)

    address: str = "127.0.0.1:50056"
    """Where `python -m semievol.controller.server` listens: on loopback, the sixth of the suite's customary ports."""

    replica_address: str = ""
    """Where other replicas call this one, HOST:PORT: those that wait for their turn pass on to it what it alone may do. Empty: they refuse that."""

    server_name: str = ""
    """The name that replicas check each other's certificates for, since they call one another by address; empty: the address itself."""

    store: str = ""
    """URI of the artifact store: s3://BUCKET[/PREFIX] or file:///DIRECTORY; on one machine the directory `artifacts` of the home."""

    probe_store: bool = True
    """Whether the store's conditional create is tried at start (R3). Embedded mode does that itself, before it loads models."""

    models_directory: Path | None = None
    """Where models are laid out as plain PEFT directories; None on a cluster, where nobody could read them there."""

    jobs_directory: Path = Path("jobs")
    """Records and logs of jobs, for the launcher `subprocess`."""

    launcher: str = Field(default="inline", pattern="^(inline|subprocess|kubernetes)$")
    """`inline` runs steps in threads, `subprocess` in child processes, `kubernetes` in Jobs of a cluster (SEMIEVOL_KUBERNETES_*, see common.kube)."""

    embedding_address: str = "127.0.0.1:50051"
    retrieval_address: str = "127.0.0.1:50052"
    generation_address: str = "127.0.0.1:50053"
    judging_address: str = "127.0.0.1:50054"
    training_address: str = "127.0.0.1:50055"
    """Where the other services are."""

    engines: Literal["fixed", "pods"] = "fixed"
    """Who answers a run's steps: `fixed`, the generation service at its address; `pods`, engines of the run's own on Kubernetes, which come
    and go with its phases (docs/engines-on-kubernetes.md)."""

    placement: Literal["auto", "shared", "dedicated"] = "auto"
    """For runs whose own `placement` is auto, where engines are pods: one for all weights, one for each configuration of collaborators, or
    the latter where the cluster is known to have the GPUs."""

    serving_yields: Literal["auto", "true", "false"] = "auto"
    """Whether serving engines (SEMIEVOL_KUBERNETES_SERVING_ENGINE) make room for runs; `auto`: where a pod of a run finds no GPU."""

    parallelism: int = Field(1, ge=1, le=1024)
    """Jobs of one run at work at once. One machine has one model at work: more would only wait."""

    max_attempts: int = Field(3, ge=1, le=100)
    """Attempts per shard where trying again can help (a backend down, a job killed)."""

    backoff_s: float = Field(1.0, ge=0, le=60)
    """Seconds before the second attempt; doubles with each one."""

    poll_s: float = Field(0.1, gt=0)
    """Seconds between two looks at the jobs, up to eight times as many while nothing begins or ends. A missed change costs one interval."""

    patience_s: float = Field(300.0, ge=0)
    """Seconds for which the training service or the cluster's API may be away before a run fails for it: they are upgraded, too."""

    resume_on_start: bool = True
    """Whether unfinished runs go on when the controller starts. Embedded mode turns it off: `semievol run` names its run."""
