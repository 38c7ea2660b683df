"""A real server with the fake controller, and the commands run in this process against it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from semievol.cli.main import cli
from semievol.controller.fake import FakeControllerServicer, service

from tests.running import running

RUN_FILE = """\
name: demo
model: bundled:smollm2-135m
embedding: bundled:minilm-l6
data: {labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}
task: {type: choice, answer: text}
"""


@dataclass(frozen=True)
class Served:
    """A fake controller behind a real server on port 0."""

    servicer: FakeControllerServicer
    address: str


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serves a fake controller made from the arguments."""
    with contextlib.ExitStack() as stack:

        def start(*args: Any, **kwargs: Any) -> Served:
            servicer = FakeControllerServicer(*args, **kwargs)
            return Served(servicer, stack.enter_context(running(service(servicer))))

        yield start


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
        "engine": "transformers",
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
