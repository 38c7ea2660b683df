"""Real servers beside the tests: on loopback and free ports, their data in a temporary directory, gone when the tests are, whatever happens.

One that is not installed or does not come up fails the tests that need it; it never skips them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# Becomes the command, and is killed when its parent ends, however that ends (PR_SET_PDEATHSIG of linux/prctl.h). Not a preexec_fn: a fork of
# a process in which gRPC works, without an exec at once, may abort.
_DIE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
_DYING_WITH_THE_TESTS = (sys.executable, "-ISc", _DIE)
_LOG_TAIL = 2000  # characters
BINARIES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semievol" / "bin"
"""Where deploy/devcluster/build.sh puts what it builds."""

_STOP_S, _KILL_S = 3.0, 20.0  # what they keep is thrown away: no need to wait for a tidy end
# Below what Linux gives to port 0 and to connections: until a server has started, nobody else takes it.
_PORTS = list(range(10_000, 20_000))
random.Random().shuffle(_PORTS)  # tests run side by side: others take others


def free_port() -> int:
    """A port of loopback that nobody listened on just now, another one each time."""
    while True:
        port = _PORTS.pop()
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """A server process. `ready` says whether it serves; it may raise OSError for "not yet"."""

    def __init__(
        self, command: Sequence[str], ready: Callable[[], bool], *, log: Path, timeout_s: float, environment: Mapping[str, str]
    ) -> None:
        self._command, self._ready, self._log, self._timeout_s = list(command), ready, log, timeout_s
        self._environment = os.environ | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it serves."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_DYING_WITH_THE_TESTS, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._log.parent,
                start_new_session=True,  # Ctrl-C is for the tests, which then end it
            )
        end = time.monotonic() + self._timeout_s
        while not self._is_ready():
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} ended with {self._process.returncode}:\n{self._tail()}")
            if time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"{self._command[0]} does not serve after {self._timeout_s:.0f} s:\n{self._tail()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what does not heed it."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """`kill -9`, of its children too."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_KILL_S)
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def _is_ready(self) -> bool:
        try:
            return self._ready()
        except OSError:
            return False

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-_LOG_TAIL:]


@contextmanager
def start_server(
    command: Sequence[str],
    ready: Callable[[], bool],
    *,
    log: Path,
    timeout_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """A server that serves; stopped at the end. Its output goes to `log`, and it works in that file's directory."""
    server = Server(command, ready, log=log, timeout_s=timeout_s, environment=environment or {})
    try:
        server.start()
        yield server
    finally:
        server.stop()
