"""Rooms that run alone, as a container runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from semievol.client.embedding import EmbeddingClient
from semievol.client.retrieval import RetrievalClient
from semievol.ports import CollectionSpec


def start(room: str, address: str = "127.0.0.1:0") -> tuple[subprocess.Popen[str], str]:
    """The process and its address, once it serves; the room's fake backend."""
    name = f"SEMIEVOL_{room.upper()}"
    environment = {**os.environ, f"{name}_BACKEND": "fake", f"{name}_ADDRESS": address}
    process = subprocess.Popen(
        [sys.executable, "-m", f"semievol.{room}.server"], stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "serves at" in line:
            return process, line.split()[-1]
    raise AssertionError(f"It ended with {process.wait()} before it served.")


def end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(30)
    finally:
        process.kill()
        assert process.stderr is not None
        process.stderr.close()


def test_the_embedding_service_runs_alone_and_ends_cleanly_on_sigterm() -> None:
    process, address = start("embedding")
    client = EmbeddingClient(address)
    assert client.embed(["a"]).shape == (1, 64)
    client.close()
    assert end(process) == 0


def test_a_containers_health_check_says_with_its_exit_code_whether_a_room_works() -> None:
    def check(address: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "semievol.common.healthcheck", address]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    process, address = start("embedding")
    assert check(address).returncode == 0
    assert end(process) == 0
    gone = check(address)
    assert gone.returncode == 69
    assert gone.stderr == f"The health of {address} cannot be asked for: UNAVAILABLE.\n"


def test_the_retrieval_service_runs_alone_and_ends_cleanly_on_sigterm() -> None:
    process, address = start("retrieval")
    client = RetrievalClient(address)
    client.create(CollectionSpec("c", 2))
    assert client.describe("c").row_count == 0
    client.close()
    assert end(process) == 0


def test_a_router_waits_for_its_engines_and_can_be_stopped_meanwhile() -> None:
    environment = {
        **os.environ,
        "SEMIEVOL_ROUTER_ADDRESS": "127.0.0.1:0",
        "SEMIEVOL_ROUTER_ENGINES": "127.0.0.1:1, 127.0.0.1:2",
    }
    command = [sys.executable, "-m", "semievol.generation.router.server"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "Waiting for an engine" in line)
    assert "127.0.0.1:1" in line
    assert "127.0.0.1:2" in line
    assert end(process) == 0


def test_a_port_in_use_ends_with_the_exit_code_of_unavailable() -> None:
    process, address = start("embedding")
    environment = {**os.environ, "SEMIEVOL_EMBEDDING_BACKEND": "fake", "SEMIEVOL_EMBEDDING_ADDRESS": address}
    second = subprocess.run(
        [sys.executable, "-m", "semievol.embedding.server"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert end(process) == 0
    assert second.returncode == 69
    assert "Traceback" not in second.stderr
    assert "in use" in second.stderr


@pytest.mark.parametrize("model", ["bundled:nothing", "/no/such/directory"])
def test_a_model_that_is_not_there_ends_with_the_exit_code_of_bad_input(model: str) -> None:
    environment = {**os.environ, "SEMIEVOL_EMBEDDING_MODEL": model, "SEMIEVOL_EMBEDDING_ADDRESS": "127.0.0.1:0"}
    done = subprocess.run(
        [sys.executable, "-m", "semievol.embedding.server"], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 64
    assert "Traceback" not in done.stderr
    assert model.split(":")[-1] in done.stderr
