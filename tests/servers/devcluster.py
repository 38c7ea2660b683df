"""A development cluster of the tests' own, beside the one that a person may have up; and what of this machine it could leave a trace on."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import BINARIES

SCRIPTS = Path(__file__).parents[2] / "deploy" / "devcluster"
_SYSCTLS = ["kernel.panic", "kernel.panic_on_oops", "kernel.keys.root_maxkeys", "vm.overcommit_memory", "vm.panic_on_oom"]
_SYSCTLS += ["net.netfilter.nf_conntrack_max", "net.ipv4.ip_forward"]
# Where a node that is a whole machine keeps its things.
_PLACES = [
    "/etc/cni",
    "/etc/kubernetes",
    "/opt",
    "/opt/cni",
    "/opt/containerd",
    "/run",
    "/run/containerd",
    "/run/netns",
    "/usr/libexec",
]
_PLACES += ["/var/lib", "/var/lib/cni", "/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet", "/var/log", "/var/log/pods"]


def kubeconfig_of_the_one_that_is_up() -> Path:
    """Fails the test where none is."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    file = state / "semievol" / os.environ.get("DEVCLUSTER", "devcluster") / "kubeconfig"
    if not file.exists():
        pytest.fail(f"No development cluster is up: there is no {file}. Run make cluster-up.")
    return file


@dataclass(frozen=True)
class Devcluster:
    """A cluster by its name, its network and the directory above its state. The scripts say on standard error why they failed."""

    states: Path
    name: str = "devtest"
    network: str = "10.90.77"

    @property
    def state(self) -> Path:
        return self.states / "semievol" / self.name

    def script(self, name: str, *arguments: str, **settings: str) -> str:
        """Runs one of deploy/devcluster for this cluster; returns what it said."""
        environment = os.environ | {"XDG_STATE_HOME": str(self.states), "DEVCLUSTER": self.name, "DEVCLUSTER_NET": self.network}
        return _run([str(SCRIPTS / name), *arguments], environment=environment | settings, timeout_s=280)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        places = [f"--kubeconfig={self.state / 'kubeconfig'}", f"--cache-dir={self.state / 'kubectl-cache'}"]
        return _run([str(BINARIES / "kubectl"), *places, *arguments], stdin=stdin)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename=-", stdin="\n---\n".join(map(json.dumps, objects)))

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--output=json"))
        return found

    def node_pid(self) -> int:
        """The node's first process."""
        return int((self.state / "node.pid").read_text().split()[0])


def processes_of(node_pid: int) -> set[tuple[int, int]]:
    """Every process below that one, by id and start: an id alone may be given out again."""
    children: dict[int, list[int]] = {}
    starts: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            starts[int(entry.name)] = int(fields[19])
    found, ahead = set(), [node_pid]
    while ahead:
        pid = ahead.pop()
        found.add((pid, starts[pid]))
        ahead += children.get(pid, [])
    return found


def still_running(processes: set[tuple[int, int]]) -> set[tuple[int, int]]:
    return {(pid, start) for pid, start in processes if (fields := _stat(pid)) and int(fields[19]) == start}


def machine() -> dict[str, list[str]]:
    """What a cluster could leave on this machine, apart from processes."""
    links = _run(["ip", "-oneline", "link", "show"]).splitlines()
    places = {place: sorted(path.name for path in Path(place).iterdir()) for place in _PLACES if Path(place).is_dir()}
    return {
        "mounts": sorted(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": sorted(line.split()[1].split("@")[0] for line in links),
        "routes": sorted(_run(["ip", "route", "show", "table", "all"]).splitlines()),
        "network namespaces": sorted(_run(["ip", "netns", "list"]).splitlines()),
        "packet filter": [line for line in _run(["iptables-save"]).splitlines() if line.startswith("-A")],
        "control groups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("*/*/") if path.is_dir()),
        "sysctls": [_sysctl(name) for name in _SYSCTLS],
        **places,
    }


def _run(command: list[str], *, environment: dict[str, str] | None = None, stdin: str = "", timeout_s: float = 120) -> str:
    ended = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    if ended.returncode:
        raise RuntimeError(
            f"{Path(command[0]).name} {' '.join(command[1:4])} ended with {ended.returncode}: {ended.stderr}{ended.stdout}"
        )
    return ended.stdout


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces; none for a process that ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def _sysctl(name: str) -> str:
    path = Path("/proc/sys", *name.split("."))
    return f"{name} = {path.read_text().strip() if path.exists() else 'not there'}"
