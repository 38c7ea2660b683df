"""Fixtures that several tiers share, and the fence around all tests: nothing leaves this machine."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from semievol.common.models import LocalModel, resolve_model

from tests.generators import write_tiny_model
from tests.servers.milvus import milvus_of_session, milvus_server  # noqa: F401 - fixtures
from tests.servers.s3 import minio_server, s3_credentials, seaweedfs_server  # noqa: F401 - fixtures
from tests.side_by_side import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401 - hooks
from tests.word_model import make_word_model

# Set before any library reads them; the processes that tests start inherit them.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
# The smallest machine that we promise, so that figures and orders of summation agree; and a thread that waits for others leaves them the core:
# spinning, two processes on two cores take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The development cluster: a network namespace of this machine (deploy/devcluster).
_DEVCLUSTER = ipaddress.ip_network(f"{os.environ.get('DEVCLUSTER_NET', '10.89.0')}.0/24")
_NAME_EVENTS = {"socket.getaddrinfo", "socket.gethostbyname"}  # arguments: host, ...
_ADDRESS_EVENTS = {"socket.connect", "socket.sendto"}  # arguments: socket, address; a Unix socket's address is no tuple


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: a host other than this machine raises PermissionError, whichever library asks for it."""
    if event in _NAME_EVENTS:
        host = arguments[0]
    elif event in _ADDRESS_EVENTS and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if isinstance(host, str) and not _is_loopback(host):
        raise PermissionError(f"Tests may not reach the network, and this one asked for {host!r}.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host) in _DEVCLUSTER
    except ValueError:
        return host in {"", "localhost"}


sys.addaudithook(_refuse_network)


@pytest.fixture(scope="session")
def model_cache(pytestconfig: pytest.Config) -> Path:
    """Where prepared models lie between test sessions: preparing one takes half a minute."""
    assert pytestconfig.cache is not None
    return Path(pytestconfig.cache.mkdir("models"))


@pytest.fixture(scope="session")
def bundled_model(model_cache: Path) -> LocalModel:
    """The real small model, SmolLM2-135M-Instruct."""
    return resolve_model("bundled:smollm2-135m", model_cache)


@pytest.fixture(scope="session")
def bundled_tokenizer(bundled_model: LocalModel) -> Any:
    """The real small model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model.directory)


@pytest.fixture(scope="session")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random two-layer Llama that knows some fifty words: nothing to download or prepare."""
    return make_word_model(tmp_path_factory.mktemp("word") / "model")


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory, bundled_tokenizer: Any) -> Path:
    """A tiny chat model for vLLM, whose attention takes no head narrower than 32."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "wide", bundled_tokenizer, head=32)
