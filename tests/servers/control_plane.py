"""A Kubernetes without nodes, for tests of what is asked of its API: the real etcd, API server and controllers; the kubelet is the test.

Its programs are the development cluster's (deploy/devcluster/build.sh kubernetes, packages.sh).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from semievol.common import errors
from semievol.common.kube import JOB, Kind, Kube, KubernetesSettings, connect

from tests.servers import BINARIES, free_port

_SERVICE_ACCOUNTS = Kind("api/v1", "serviceaccounts")
_START_S = 120.0


def missing() -> list[str]:
    programs = [BINARIES / "kube-apiserver", BINARIES / "kube-controller-manager"]
    return [path.name for path in programs if not path.exists()] + [
        name for name in ("etcd", "openssl") if not shutil.which(name)
    ]


@contextmanager
def control_plane(home: Path) -> Iterator[Path]:
    """The path of a kubeconfig that may do everything."""
    etcd, etcd_peer, api, controllers = (free_port() for _ in range(4))
    subprocess.run(["openssl", "genrsa", "-out", str(home / "sa.key"), "2048"], check=True, capture_output=True)
    (home / "tokens.csv").write_text("secret-of-the-tests,admin,admin,system:masters\n")
    kubeconfig = home / "kubeconfig"
    cluster = {"server": f"https://127.0.0.1:{api}", "certificate-authority": str(home / "certificates" / "apiserver.crt")}
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "tests", "cluster": cluster}],
                "users": [{"name": "tests", "user": {"token": "secret-of-the-tests"}}],
                "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
                "current-context": "tests",
            }
        )
    )
    urls = [f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{etcd_peer}"]
    certificates, tokens, key = f"--cert-dir={home / 'certificates'}", f"--token-auth-file={home / 'tokens.csv'}", home / "sa.key"
    listening = [f"--listen-client-urls={urls[0]}", f"--advertise-client-urls={urls[0]}", f"--listen-peer-urls={urls[1]}"]
    accounts = [
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://tests",
    ]
    serving = [
        "--bind-address=127.0.0.1",
        f"--secure-port={api}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--authorization-mode=RBAC",
    ]
    controlling = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", f"--secure-port={controllers}"]
    programs = {
        "etcd": ["etcd", f"--data-dir={home / 'etcd'}", "--unsafe-no-fsync", *listening],
        "apiserver": [str(BINARIES / "kube-apiserver"), f"--etcd-servers={urls[0]}", *serving, *accounts, certificates, tokens],
        "controllers": [str(BINARIES / "kube-controller-manager"), *controlling, certificates],
    }
    with ExitStack() as stack:
        for name, command in programs.items():
            stack.enter_context(_program(command, home / f"{name}.log"))
            if name == "apiserver":
                kube = _answering(kubeconfig)
        _until_jobs_are_taken(kube)
        yield kubeconfig


@pytest.fixture(scope="session")
def cluster_without_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if lacking := missing():
        pytest.fail(f"There is no control plane without {', '.join(lacking)}: run deploy/devcluster/build.sh kubernetes.")
    with control_plane(tmp_path_factory.mktemp("control-plane")) as kubeconfig:
        yield kubeconfig


@contextmanager
def _program(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _answering(kubeconfig: Path) -> Kube:
    end = time.monotonic() + _START_S
    while True:
        try:
            kube = connect(KubernetesSettings(kubeconfig=str(kubeconfig)), attempts=1)
            kube.list(JOB)
            return kube
        except errors.SemiEvolError:  # no certificate yet, no connection yet, no roles yet
            assert time.monotonic() < end, (kubeconfig.parent / "apiserver.log").read_text()[-2000:]
            time.sleep(0.2)


def _until_jobs_are_taken(kube: Kube) -> None:
    """Pods need their namespace's service account, which a controller makes."""
    end = time.monotonic() + _START_S
    while not kube.list(_SERVICE_ACCOUNTS):
        assert time.monotonic() < end, "the controllers make no service account"
        time.sleep(0.2)
