"""Settings of the training service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common.endpoints import check_url
from semievol.training.core import JobOptions


class TrainingSettings(BaseSettings):
    """Environment variables SEMIEVOL_TRAINING_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_TRAINING_", frozen=True)

    address: str = "127.0.0.1:50055"
    """Where `python -m semievol.training.server` listens: on loopback, the fifth of the suite's customary ports."""

    backend: Literal["peft", "fake"] = "peft"
    """What trains; `fake` is for tests."""

    store: str = "artifacts"
    """URI of the artifact store; jobs open it by themselves, so it must mean the same to them."""

    cache: Path = Path("cache")
    """Where bundled models are prepared, once."""

    checkpoints: Path = Path("checkpoints")
    """Where a run's last checkpoint lies until its adapter is published."""

    jobs_directory: Path = Path("jobs")
    """Records and logs of jobs, for the launcher `subprocess`."""

    launcher: Literal["inline", "subprocess", "kubernetes"] = "subprocess"
    """`subprocess`: a run that is killed for its memory takes nothing with it. `inline` trains in a thread of the service, `kubernetes` in Jobs of
    a cluster (SEMIEVOL_KUBERNETES_*, see common.kube)."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen base weights (the adapter is float32). `auto`: bfloat16 where the hardware multiplies it, else float32, since a CPU
    with AVX-512 but without its bf16 instructions was three times slower in bfloat16."""

    tokens_per_pass: int = Field(default=2048, ge=1)
    """Padded tokens of one forward pass. An update's examples share as few passes as fit; 2048 keep SmolLM2-135M in 4 GiB."""

    gradient_checkpointing: bool = False
    """Recomputes activations instead of keeping them: a third slower, much less memory. For models that do not fit otherwise."""

    checkpoint_updates: int = Field(default=50, ge=1)
    """Updates after which a checkpoint is written."""

    checkpoint_interval_s: float = Field(default=60.0, gt=0)
    """Seconds after which one is written anyway: a killed run loses at most a minute."""

    endpoint: str = ""
    """URL of an OpenAI-compatible API that fine-tunes, for runs with `trainer: openai`: `https://host/v1`. Its key: SEMIEVOL_OPENAI_API_KEY, or
    SEMIEVOL_OPENAI_API_KEY_FILE; else, over https or on this machine, OPENAI_API_KEY, or OPENAI_API_KEY_FILE."""

    endpoint_timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for one of the endpoint's answers, four times over."""

    endpoint_poll_s: float = Field(default=5.0, gt=0)
    """Seconds between two looks at a job of the endpoint's."""

    endpoint_patience_s: float = Field(default=600.0, gt=0)
    """How long an endpoint may be away, overloaded, or late to serve what it has trained, before the run fails. Asked for again, it goes on."""

    poll_s: float = Field(default=0.1, gt=0)
    """Seconds between two looks at a run that is watched."""

    max_watchers: int = Field(default=32, ge=1)
    """Watches at once; each holds a thread."""

    def job_options(self) -> JobOptions:
        return JobOptions(
            store=self.store,
            cache=str(self.cache.absolute()),
            checkpoints=str(self.checkpoints.absolute()),
            device=self.device,
            precision=self.precision,
            tokens_per_pass=self.tokens_per_pass,
            gradient_checkpointing=self.gradient_checkpointing,
            checkpoint_updates=self.checkpoint_updates,
            checkpoint_interval_s=self.checkpoint_interval_s,
            endpoint=check_url(self.endpoint, field="endpoint") if self.endpoint else "",
            endpoint_timeout_s=self.endpoint_timeout_s,
            endpoint_poll_s=self.endpoint_poll_s,
            endpoint_patience_s=self.endpoint_patience_s,
        )
