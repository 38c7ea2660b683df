"""A real server with the fake controller, and the commands run in this process against it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from semievol.cli.main import cli
from semievol.common.grpc_server import Server
from semievol.controller.fake import FakeControllerServicer, service

RUN_FILE = """\
name: demo
model: bundled:smollm2-135m
embedding: bundled:minilm-l6
data: {labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}
task: {type: choice, answer: text}
"""


class Served:
    """A fake controller behind a real server on port 0, on an event loop of its own."""

    def __init__(self, servicer: FakeControllerServicer) -> None:
        self.servicer = servicer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        self.address = self._server.address
        return self

    async def _start(self) -> Server:
        server = Server([service(self.servicer)])  # belongs to the loop that it is made on
        await server.start()
        return server

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._server.stop(1.0), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serves a fake controller made from the arguments."""
    running: list[Served] = []

    def start(*args: object, **kwargs: object) -> Served:
        running.append(Served(FakeControllerServicer(*args, **kwargs)).__enter__())
        return running[-1]

    yield start
    for served in running:
        served.__exit__()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def running_home(home: Path, served: Served) -> Path:
    """A home whose services are running: those of `served`, in this process."""
    record = {
        "pid": os.getpid(),
        "addresses": {"controller": served.address},
        "model": "bundled:smollm2-135m",
        "embedding": "bundled:minilm-l6",
    }
    (home / "services.json").write_text(json.dumps(record))
    return home


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run file with its data beside it."""
    rows = ["question,options,answer", *(f'"Where is number {n}?","[""here"", ""there""]",{"AB"[n % 2]}' for n in range(4))]
    (tmp_path / "labeled.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(row.replace("number", "item") for row in rows) + "\n")
    (tmp_path / "unlabeled.csv").write_text('question,options\n"Where is thing 1?","[""here"", ""there""]"\n')
    path = tmp_path / "run.yaml"
    path.write_text(RUN_FILE)
    return path


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Runs a command; stdout and stderr are kept apart."""

    def run(*args: object, **kwargs: object) -> Result:
        return CliRunner().invoke(cli, [str(arg) for arg in args], **kwargs)

    return run
