"""What every injected fault needs: a place with data and a home, the real command line, and a look at what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from semievol.cli.failures import MAX_LINES
from semievol.cli.main import cli
from semievol.common import errors
from semievol.common.artifacts import Manifest, blob_path
from semievol.common.keys import sha256_file

from tests.fake_suite import Suite, fake_suite, write_colours
from tests.manifests import manifests

# All services of a `semievol run` with the doubles that the package ships.
FAKES = {f"SEMIEVOL_{room}_BACKEND": "fake" for room in ("EMBEDDING", "RETRIEVAL", "GENERATION", "TRAINING")}
RUN_FILE = """\
name: colours
model: fake
embedding: fake
data: {labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}
collaborators: [{model: warm, references: 0}, {model: warm, references: 1}]
shard_rows: 8
"""
TIMEOUT_S = 240  # what takes ten seconds on two idle cores may have neighbours


@dataclass(frozen=True)
class Ended:
    """How a command ended. `figure`: what was counted, for the table."""

    code: int
    stdout: str = ""
    stderr: str = ""
    figure: str = ""

    @property
    def message(self) -> list[str]:
        """The lines of the error, without the notes before it and the progress lines of steps."""
        lines = self.stderr.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith(("Error:", "Usage:"))]
        return lines[starts[-1] :] if starts else []


@dataclass
class Place:
    """A directory with good data, a run file and a home, made anew for each fault unless a group shares it."""

    directory: Path
    suite: Suite | None = None
    runs: int = field(default=0)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.reset()

    @property
    def home(self) -> Path:
        return self.directory / "home"

    @property
    def run_file(self) -> Path:
        return self.directory / "run.yaml"

    def reset(self) -> None:
        """Good data and a good run file again."""
        for role, answers in {"labeled": True, "unlabeled": False, "test": True}.items():
            write_colours(self.directory, role, answers)
        self.run_file.write_text(RUN_FILE)

    def use(self, role: str, name: str, data: bytes) -> Path:
        """A file in place of one of the run's."""
        path = self.directory / name
        path.write_bytes(data)
        self.point(role, name)
        return path

    def point(self, role: str, name: str) -> None:
        self.run_file.write_text(self.run_file.read_text().replace(f" {role}.csv", f" {name}"))

    def append(self, text: str) -> None:
        self.run_file.write_text(self.run_file.read_text() + text)

    def semievol(self, *args: object) -> Ended:
        """A command in this process. Against the running suite of this place, where there is one."""
        result = CliRunner().invoke(cli, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ended(result.exit_code, result.stdout, result.stderr)

    def run(self, *args: object) -> Ended:
        return self.semievol("run", "-f", self.run_file, "--home", self.home, *args)

    def next_good_run(self, *, new_answers: bool = False) -> list[str]:
        """What is wrong with the home: a run with good data has to work, one that was not there before."""
        self.reset()
        self.runs += 1
        self.append(f"seed: {self.runs}\n" if new_answers else f"theta: {10 + self.runs % 80}\n")
        ended = self.run("--json")
        self.reset()
        return [] if ended.code == 0 else [f"the next good run ended with {ended.code}: {' / '.join(ended.message)}"]

    def start(self, *args: object, **environment: str) -> subprocess.Popen[str]:
        """A command as a process, with fake services. The caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "semievol.cli.main", *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **FAKES, **environment},
        )

    def process(self, *args: object, **environment: str) -> Ended:
        return finished(self.start(*args, **environment))


def finished(process: subprocess.Popen[str], timeout_s: float = TIMEOUT_S) -> Ended:
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, stdout, stderr)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> Ended:
    """Signals a process. Like a person at the keyboard, it asks again where nothing happens."""
    for _ in range(4):
        if process.poll() is None:
            process.send_signal(number)
        try:
            stdout, stderr = process.communicate(timeout=20)
            return Ended(process.returncode, stdout, stderr)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    raise AssertionError("the process does not end")


@contextlib.contextmanager
def served(directory: Path, **options: Any) -> Iterator[Place]:
    """A place whose home has running services with fake models, in this process; `options` as for fake_suite, and of the engine."""
    place = Place(directory)
    with fake_suite(place.home, **options) as suite:
        record = {"pid": os.getpid(), "addresses": suite.addresses, "model": "fake", "embedding": "fake"}
        (place.home / "services.json").write_text(json.dumps(record))
        place.suite = suite
        yield place
        (place.home / "services.json").unlink(missing_ok=True)


# ---------------------------------------------------------------- what is left behind


def half_written(home: Path) -> list[str]:
    """Manifests over bytes that are not what they say, and files that writers left. Nothing where a home is as it should be."""
    root, found = home / "artifacts", []
    for path, data in manifests(home).items():
        try:
            files = Manifest.from_json(data).files
        except errors.Corrupt as error:
            found.append(f"{path}: {error.message}")
            continue
        for file in files:
            blob = root / blob_path(file.sha256)
            if not blob.is_file() or blob.stat().st_size != file.size or sha256_file(blob) != file.sha256:
                found.append(f"{path}: a valid manifest over bad bytes ({file.path})")
    found += [f"{path.relative_to(home)} was left behind" for path in root.glob(".tmp/*")]
    return found


def contents(home: Path) -> dict[str, bytes]:
    """Everything in the home's store."""
    root = home / "artifacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One fault. `codes`: the exit codes that are right; `says`: what the message has to say, as a pattern.

    `inject` does it and returns how the command ended; it raises AssertionError where something else is wrong.
    """

    group: str
    name: str
    codes: tuple[int, ...]
    says: str
    inject: Callable[[Place], Ended]
    uses_the_place: bool = False  # works in the shared home itself, which has to be good for another run afterwards

    def wrong(self, ended: Ended) -> list[str]:
        """What is not as it should be; nothing where all is well."""
        found = []
        if ended.code not in self.codes:
            found.append(f"exit code {ended.code}, expected {' or '.join(map(str, self.codes))}")
        text = ended.stdout + ended.stderr
        if "Traceback" in text:
            found.append("a traceback is shown")
        if len(ended.message) > MAX_LINES:
            found.append(f"{len(ended.message)} lines, at most {MAX_LINES}")
        if ended.code not in (0, *SIGNALLED) and not ended.message:
            found.append("no error message")
        shown = "\n".join(ended.message) if ended.code and ended.message else text
        if not re.search(self.says, shown):
            found.append(f"nothing about /{self.says}/ in: {shown[-300:]!r}")
        return found


SIGNALLED = (130, 143, -9)
