"""Ends the processes of an engine whose server was killed: vLLM's core asks nobody whether its parent is still there.

Run as `python -m semievol.generation.backends.vllm_guard PID START_TIME` beside a server; it ends after it. The parent-death signal would not
do: Linux sends it when the *thread* that started a process ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time

import psutil

_LOOK_S = 1.0  # children are only known while their parent lives
_starting = threading.Lock()
_guards: dict[int, subprocess.Popen[bytes]] = {}  # by pid of the process that they watch: a fork has none yet


def guard() -> None:
    """Starts the guard of this process, if it has none."""
    with _starting:
        if os.getpid() in _guards:
            return
        mine = psutil.Process()
        arguments = [sys.executable, "-m", __name__, str(mine.pid), str(mine.create_time())]
        # a group of its own: Ctrl-C in a terminal is not meant for it
        _guards[mine.pid] = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, process_group=0)


def watch(pid: int, start_time: float) -> None:
    """Returns when the server and all its descendants are gone. A number may be somebody else's after a process has gone; psutil minds that."""
    known: set[psutil.Process] = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        server = psutil.Process(pid)
        while server.create_time() == start_time and server.status() != psutil.STATUS_ZOMBIE:
            known = {one for one in known | set(server.children(recursive=True)) if one.pid != os.getpid() and one.is_running()}
            time.sleep(_LOOK_S)
    for one in known:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]))
