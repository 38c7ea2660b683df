"""The command line as a process: what it imports, what it writes into a pipe, how signals end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from semievol.cli.main import COMMANDS, cli

from tests.unit.cli.conftest import Served

HEAVY = ("grpc", "google.protobuf", "numpy", "yaml", "pydantic", "rich", "torch", "transformers")


def semievol(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "semievol.cli.main", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})


def test_help_and_the_commands_own_help_import_nothing_heavy() -> None:
    code = (
        "import sys, importlib\n"
        "from semievol.cli.main import COMMANDS\n"
        "for where, _ in COMMANDS.values(): importlib.import_module('semievol.cli.commands.' + where.partition(':')[0])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "[]"


def test_the_help_lines_are_the_commands_own() -> None:
    import click

    context = click.Context(cli)
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.get_short_help_str(200) == line, name


def test_what_is_piped_has_no_escape_codes(served: Served, running_home: Path, run_file: Path) -> None:
    result = semievol("run", "-f", run_file, "--home", running_home)
    assert result.returncode == 0, result.stderr
    failing = semievol("status", "nix", "--home", running_home)
    assert failing.returncode == 64
    for text in (result.stdout, result.stderr, failing.stderr, semievol("--help").stdout):
        assert text
        assert "\x1b" not in text


def test_the_version_is_the_packages() -> None:
    import semievol as package

    assert semievol("--version").stdout == f"semievol {package.__version__}\n"


def test_an_unreachable_controller_ends_with_69_in_at_most_six_lines(tmp_path: Path) -> None:
    result = semievol("status", "--home", tmp_path, "--address", "127.0.0.1:1")
    assert result.returncode == 69
    assert 1 <= len(result.stderr.splitlines()) <= 6
    assert "127.0.0.1:1" in result.stderr


def test_ctrl_c_ends_a_watch_with_130_and_says_how_to_go_on(served: Served, running_home: Path, run_file: Path) -> None:
    assert _interrupted(served, running_home, run_file, signal.SIGINT) == 130


def test_sigterm_ends_a_watch_with_143(served: Served, running_home: Path, run_file: Path) -> None:
    assert _interrupted(served, running_home, run_file, signal.SIGTERM) == 143


def _insist(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """stderr of the ended process. Python may drop an exception that a signal raises while gRPC runs a callback: like a person at the
    keyboard, the test then asks again."""
    for _ in range(4):
        process.send_signal(number)
        try:
            return process.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("the process does not end")


def _interrupted(served: Served, home: Path, run_file: Path, number: signal.Signals) -> int:
    """The exit code of a `run` that is interrupted while it waits for events that never come."""
    served.servicer.hold_watch = True
    command = [sys.executable, "-m", "semievol.cli.main", "run", "-f", str(run_file), "--home", str(home)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not served.servicer.watching and time.monotonic() < deadline:
            time.sleep(0.05)
        shown = _insist(process, number)
    finally:
        process.kill()
    assert f"continue with: semievol run -f {run_file}" in shown
    assert "Traceback" not in shown
    return process.returncode
