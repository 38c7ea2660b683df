"""A generation service on vLLM as a process of its own: how it starts, what it says when it cannot, and that nothing of it stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from semievol.algorithm.types import Message
from semievol.client.generation import GenerationClient
from semievol.common import errors
from semievol.ports import BASE_MODEL, Prompt, Sampling

from tests.servers import free_port

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

PROMPTS = [Prompt(f"p{i}", (Message("user", f"Tell me number {i}."),), (i,)) for i in range(32)]
LONG = Sampling(temperature=1.0, max_tokens=60)


@contextmanager
def started(root: Path, model: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    address = f"127.0.0.1:{free_port()}"
    mine = {
        "SEMIEVOL_GENERATION_ADDRESS": address,
        "SEMIEVOL_GENERATION_BACKEND": "vllm",
        "SEMIEVOL_GENERATION_MODEL": str(model),
        "SEMIEVOL_GENERATION_STORE": str(root / "store"),
        "SEMIEVOL_GENERATION_CACHE": str(root / "cache"),
        "SEMIEVOL_GENERATION_PRECISION": "float32",
        "SEMIEVOL_VLLM_KV_CACHE_GIB": "0.25",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "semievol.generation.server"],
        env={**os.environ, **mine, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process, address
    finally:
        for one in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            one.kill()
        process.kill()
        process.communicate()


def client_of(address: str) -> GenerationClient:
    """Once it answers."""
    deadline = time.monotonic() + 240
    while True:
        client = GenerationClient(address, deadline_s=120)
        try:
            client.generate(BASE_MODEL, PROMPTS[:1], Sampling(max_tokens=1))
            return client
        except errors.SemiEvolError:
            client.close()
            assert time.monotonic() < deadline, "the service does not answer"
            time.sleep(0.5)


def gone(processes: list[psutil.Process], seconds: float = 30) -> list[psutil.Process]:
    """Those that are still there after that time."""
    return psutil.wait_procs(processes, timeout=seconds)[1]


def test_nothing_stays_behind_when_the_service_is_killed(tmp_path: Path, wide_model: Path) -> None:
    with started(tmp_path, wide_model) as (process, address):
        client_of(address).close()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        process.kill()
        assert not gone(children)


def test_sigterm_lets_calls_in_flight_finish_and_ends_the_engine(tmp_path: Path, wide_model: Path) -> None:
    with started(tmp_path, wide_model) as (process, address):
        client = client_of(address)
        children = psutil.Process(process.pid).children(recursive=True)
        replies: list[Any] = []
        call = threading.Thread(target=lambda: replies.extend(client.generate(BASE_MODEL, PROMPTS, LONG)))
        call.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        call.join(60)
        assert [one.id for one in replies] == [one.id for one in PROMPTS]
        assert process.wait(60) == 0
        assert not gone(children)
        client.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SEMIEVOL_VLLM_KV_CACHE_GIB": "4000"}, "SEMIEVOL_VLLM_KV_CACHE_GIB"),
        ({"SEMIEVOL_VLLM_EXTRA": '{"no_such_argument": 1}'}, "SEMIEVOL_VLLM_EXTRA"),
        ({"SEMIEVOL_GENERATION_MODEL": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_start_that_fails_names_the_setting(tmp_path: Path, wide_model: Path, settings: dict[str, str], words: str) -> None:
    with started(tmp_path, wide_model, **settings) as (process, _):
        output, _ = process.communicate(timeout=240)
        assert process.returncode != 0
        assert words in output
