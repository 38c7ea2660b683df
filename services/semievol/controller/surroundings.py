"""What the driver of a run needs of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semievol.common.artifacts import Artifacts
from semievol.common.registry import Registry
from semievol.controller.runs import RunStore
from semievol.ports import Launcher, ModelInfo, Trainer


def nothing(run: str) -> None:
    """Of a run that is deleted there is nothing beside the store."""


def nobody() -> str:
    """No other controller acts on this store."""
    return ""


@dataclass(frozen=True)
class Surroundings:
    """`patience_s`: how long a launcher or a training service may be away before a run fails for it. `leader`: which
    other replica of the controller acts, or empty: this one does. `forget_run`: deletes what is kept for a run outside of the store. `base`: the
    generation service's model, for the engines that it has started."""

    artifacts: Artifacts
    store_uri: str
    runs: RunStore
    registry: Registry
    launcher: Launcher
    trainer: Callable[[], Trainer]  # connected when first needed
    addresses: Mapping[str, str]
    parallelism: int
    max_attempts: int
    backoff_s: float
    poll_s: float
    base: Callable[[], ModelInfo]
    patience_s: float = 300.0
    leader: Callable[[], str] = nobody
    forget_run: Callable[[str], None] = nothing
