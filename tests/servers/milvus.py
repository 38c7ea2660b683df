"""A real Milvus server of the PyPI package `milvus` (2.3.5: standalone, without BM25), for the tests that want one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock
import pytest

from tests.servers import free_port

START_S = 180.0  # 15 to 30 seconds on two idle cores
_PORTS = (
    "proxy",
    "proxy-internal",
    "etcd",
    "root-coord",
    "query-coord",
    "query-node",
    "index-coord",
    "index-node",
    "data-coord",
    "data-node",
)
_SETTINGS = ("--extra-config", "common.session.ttl=5")  # seconds that a killed server's successor waits for its leases


# A Milvus server locks one file for the whole machine, /run/milvus/standalone.pid, and ends at once where another has it.
_MACHINE = filelock.FileLock(Path(tempfile.gettempdir()) / "semievol-tests-milvus.lock", thread_local=False)
_MACHINE_S = 240.0  # for another test session to end


class MilvusServer:
    """One server over `directory`, at the same address however often it is killed and started again."""

    def __init__(self, directory: Path, *extra: str) -> None:
        """`extra`: more arguments of `milvus-server`."""
        self._directory = directory
        self._extra = extra
        self._ports = {name: free_port() for name in _PORTS}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._ports['proxy']}"

    def start(self, token: str = "") -> None:
        """Returns when it has answered a search. Raises RuntimeError, with the end of its log, where it does not start."""
        self._directory.mkdir(parents=True, exist_ok=True)
        command, environment = self._direct() if (self._directory / "configs" / "milvus.yaml").is_file() else self._wrapped()
        _MACHINE.acquire(timeout=_MACHINE_S)
        with (self._directory / "wrapper.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its child ends with it
            )
        try:
            self._wait_until_it_searches(token)
        except BaseException:
            self.kill()
            raise

    def _wrapped(self) -> tuple[list[str], dict[str, str]]:
        """The package's own command: it unpacks the server, writes its configuration and runs it."""
        command = Path(sys.executable).with_name("milvus-server")
        if not command.is_file():
            raise RuntimeError(f"There is no {command}: the development dependencies are not installed (make setup).")
        ports = [part for name, port in self._ports.items() for part in (f"--{name}-port", str(port))]
        return [str(command), "--data", str(self._directory), *ports, *_SETTINGS, *self._extra], {}

    def _direct(self) -> tuple[list[str], dict[str, str]]:
        """What the command runs, for a second start: it would take other ports as long as the killed server's connections linger."""
        binary = self._directory / "bin" / "milvus"
        environment = {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(free_port()),
            "MILVUS_RUN_DIR": str(self._directory / "run"),
            "LD_LIBRARY_PATH": f"{binary.parent}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        }
        return [str(binary), "run", "standalone"], environment

    def kill(self) -> None:
        """SIGKILL to the wrapper and the server that is its child; returns when neither runs."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        end = time.monotonic() + 30
        while time.monotonic() < end and _members(self._process.pid):
            time.sleep(0.05)
        assert not _members(self._process.pid), "the Milvus server outlived its SIGKILL"
        self._process = None
        _MACHINE.release()

    def freeze(self) -> None:
        """It keeps its connections and answers nothing. Woken up, it would end itself: its parts have given each other up."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def restart(self) -> None:
        self.kill()
        self.start()

    def processes(self) -> list[int]:
        """Ids of the wrapper and the server."""
        return _members(self._process.pid) if self._process else []

    def ensure_running(self) -> None:
        """After a test that may have left it dead."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.start()

    def _wait_until_it_searches(self, token: str) -> None:
        from semievol.common import errors
        from semievol.retrieval import core
        from semievol.retrieval.backends.milvus import MilvusIndex
        from semievol.retrieval.backends.milvus_connection import connect

        assert self._process is not None
        end = time.monotonic() + START_S
        reason = ""
        while time.monotonic() < end and self._process.poll() is None:
            with ExitStack() as stack:
                try:
                    index = MilvusIndex(connect(self.uri, token, call_timeout_s=10))
                    stack.callback(index.close)
                    core.probe(index)
                    return
                except errors.SemiEvolError as error:
                    reason = error.message
            time.sleep(0.3)
        raise RuntimeError(f"The Milvus server did not start: {reason}\n{self._log()}")

    def _log(self) -> str:
        files = [self._directory / "wrapper.log", *sorted((self._directory / "logs").glob("milvus-std*.log"))]
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-2000:]}" for file in files if file.is_file())


def _members(group: int) -> list[int]:
    """The processes of this group that run; one that only waits to be reaped does not."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(file.parent.name))
    return found


_of_this_process: list[MilvusServer] = []  # at most one: a machine takes no second


@contextmanager
def milvus_in(directory: Path) -> Iterator[MilvusServer]:
    """The server of this process, at work: the one that is there, else one over `directory` that is gone afterwards."""
    if _of_this_process:
        _of_this_process[0].ensure_running()
        yield _of_this_process[0]
        return
    server = MilvusServer(directory)
    _of_this_process.append(server)
    try:
        server.start()
        yield server
    finally:
        _of_this_process.remove(server)
        server.kill()


@pytest.fixture(scope="session")
def milvus_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with milvus_in(tmp_path_factory.mktemp("milvus-server")) as server:
        yield server


@pytest.fixture
def milvus_server(milvus_of_session: MilvusServer) -> MilvusServer:
    """The session's server, at work whatever the last test did to it."""
    milvus_of_session.ensure_running()
    return milvus_of_session
