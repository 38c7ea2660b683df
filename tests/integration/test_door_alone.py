"""The door as a process of its own: settings from the environment, services that die and come back, signals, missing libraries."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from semievol.door.settings import DoorSettings
from semievol.embedded import bounded

from tests.doors import HELLO, KEY
from tests.servers import Server, free_port, start_server

HIDDEN = "import sys; sys.modules['fastapi'] = None; from semievol.door.server import main; main()"


@contextmanager
def process(log: Path, room: str, port: int, **settings: str) -> Iterator[Server]:
    """`python -m semievol.ROOM.server` at this port of loopback; SEMIEVOL_ROOM_<settings> in its environment."""
    address = f"127.0.0.1:{port}"
    named = {f"SEMIEVOL_{room.upper()}_{name.upper()}": value for name, value in ({"address": address} | settings).items()}

    def ready() -> bool:
        import socket

        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    command = [sys.executable, "-m", f"semievol.{room}.server"]
    with start_server(command, ready, log=log, timeout_s=60, environment=named) as server:
        yield server


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


def test_it_serves_by_itself_and_finds_an_engine_again_that_died(directory: Path) -> None:
    (directory / "keys").write_text(f"{KEY}\n")
    door_port, engine_port = free_port(), free_port()
    settings = {"generation": f"127.0.0.1:{engine_port}", "api_keys_file": str(directory / "keys")}
    with (
        process(directory / "engine.log", "generation", engine_port, backend="fake", store=str(directory / "store")) as engine,
        process(directory / "door.log", "door", door_port, **settings),
    ):
        health = f"http://127.0.0.1:{door_port}/health"
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{door_port}/v1", api_key=KEY, max_retries=0, timeout=60)
        before = client.chat.completions.create(model="base", messages=HELLO, temperature=0)
        assert httpx.get(health).status_code == 200
        engine.kill()
        assert httpx.get(health).status_code == 503
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="base", messages=HELLO)
        assert caught.value.code == "unavailable"
        engine.start()
        for _ in range(100):
            if httpx.get(health).status_code == 200:
                break
        after = client.chat.completions.create(model="base", messages=HELLO, temperature=0)
        assert after.choices == before.choices
        client.close()


def test_sigterm_ends_it_with_success(directory: Path) -> None:
    port = free_port()
    environment = os.environ | {"SEMIEVOL_DOOR_ADDRESS": f"127.0.0.1:{port}", "SEMIEVOL_DOOR_GENERATION": "127.0.0.1:9"}
    with subprocess.Popen(
        [sys.executable, "-m", "semievol.door.server"], env=environment, stderr=subprocess.PIPE, text=True
    ) as door:
        assert door.stderr is not None
        assert "The OpenAI-compatible API is at" in door.stderr.readline()
        door.send_signal(signal.SIGTERM)
        assert door.wait(30) == 0


@pytest.mark.parametrize(
    ("command", "settings", "words", "code"),
    [
        (["-c", HIDDEN], {}, "pip install 'semievol[door]'", 69),
        (["-m", "semievol.door.server"], {"ADDRESS": "127.0.0.1:99999"}, "Cannot listen at the address 127.0.0.1:99999", 69),
        (["-m", "semievol.door.server"], {"API_KEYS_FILE": "/nowhere/keys"}, "cannot be read", 64),
    ],
)
def test_what_keeps_it_from_starting_is_a_line_and_an_exit_code(
    command: list[str], settings: dict[str, str], words: str, code: int
) -> None:
    environment = os.environ | {"SEMIEVOL_DOOR_ADDRESS": "127.0.0.1:0"}
    environment |= {f"SEMIEVOL_DOOR_{name}": value for name, value in settings.items()}
    ended = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_only_who_writes_one_reply_at_a_time_has_a_limit_that_nobody_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bounded(DoorSettings(), "transformers").default_max_tokens == 1024
    assert bounded(DoorSettings(), "vllm").default_max_tokens == 0
    monkeypatch.setenv("SEMIEVOL_DOOR_DEFAULT_MAX_TOKENS", "0")
    assert bounded(DoorSettings(), "transformers").default_max_tokens == 0
