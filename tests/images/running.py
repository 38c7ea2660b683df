"""Runs commands in a built image the way a strict pod does: as user 65532, on a read-only root, without a network or the machine's environment.

With no container runtime: a mount namespace and chroot, which ask for root and buildah. /tmp and /var/lib/semievol are empty and can be written.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# $1: the root file system; then env's arguments. /dev is the machine's, for the few devices that every pod has.
_ENTER = """set -eu
root=$1; shift
ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o uid=65532,gid=65532,mode=0755 tmpfs "$root/var/lib/semievol"
mount -o remount,bind,ro "$root"
exec chroot --userspec=65532:65532 "$root" env -i --chdir=/var/lib/semievol "$@"
"""


@dataclass(frozen=True)
class Image:
    """A built image, laid out at `root`; `config` as OCI has it."""

    name: str
    root: Path
    config: dict[str, Any]

    def command(self, *arguments: str, environment: Mapping[str, str] | None = None) -> list[str]:
        """What runs `arguments` in it, with the image's variables and these."""
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())]
        inside = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh"]
        return [*inside, str(self.root), *variables, *arguments]

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, environment=environment)
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL)

    def python(self, code: str) -> str:
        """What the program prints. Fails the test, with the traceback, where it fails."""
        done = self.run("python", "-c", code)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


@contextmanager
def image(target: str) -> Iterator[Image]:
    """The image that deploy/docker/build.sh made of the target; it stays as it is."""
    name = f"localhost/semievol-{target}:{os.environ.get('TAG', 'dev')}"
    config = json.loads(_buildah("inspect", "--type", "image", name))["OCIv1"]["config"]
    container = _buildah("from", "--pull-never", name)
    try:
        yield Image(name, Path(_buildah("mount", container)), config)
    finally:
        _buildah("rm", container)


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"buildah {arguments[0]} failed: {done.stderr.strip()}; `make images` builds the images")
    return done.stdout.strip()
