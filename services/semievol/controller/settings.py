"""Settings of the controller."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ControllerSettings(BaseSettings):
    """Environment variables SEMIEVOL_CONTROLLER_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_CONTROLLER_", frozen=True)

    address: str = "127.0.0.1:50056"
    """Where `python -m semievol.controller.server` listens: on loopback, the sixth of the suite's customary ports."""

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
