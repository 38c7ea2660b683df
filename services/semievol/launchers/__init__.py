"""Implementations of `ports.Launcher`: in a thread (inline), in a child process (subprocess), as Jobs of a cluster (kubernetes),
scripted (fake)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semievol.ports import Launcher


def open_launcher(name: str, jobs_directory: Path, component: str) -> Launcher:
    """`inline`, `subprocess` or `kubernetes`. `component`: whose Jobs these are on a cluster, `step` or `training`. Raises InvalidInput,
    NotSupported (no cluster to be talked to)."""
    if name == "kubernetes":
        from semievol.launchers.kubernetes import KubernetesLauncher

        return KubernetesLauncher.connected(component)
    from semievol.launchers.inline import InlineLauncher
    from semievol.launchers.subprocess import SubprocessLauncher

    return InlineLauncher() if name == "inline" else SubprocessLauncher(jobs_directory)
