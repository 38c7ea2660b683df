"""A job as a process of its own: `python -m semievol.launchers.child [--shards 3,5,7] ENTRYPOINT [ARG ...]`.

SIGTERM becomes the job's `cancel`; everything that is printed or logged goes to the process's output; the exit code is the job's. With --shards
it is one of a group: JOB_COMPLETION_INDEX, which Kubernetes sets in the pods of an Indexed Job, says which, and `{shard}` in the arguments becomes
its number. In a pod the last error line is also left where the kubelet looks for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path

from semievol.launchers import entrypoint

_LAST_WORDS = Path("/dev/termination-log")  # the kubelet's default, a file that it mounts; at most 4096 bytes count
_MOST_WORDS = 4096


def run(target: str, args: Sequence[str]) -> tuple[int, str]:
    """Runs the job in this process, which is made ready for it; (exit code, last error line)."""
    cancel = threading.Event()
    signal.signal(signal.SIGTERM, lambda signum, frame: cancel.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    code, message = entrypoint.run(target, args, cancel, _emit)
    sys.stdout.flush()
    return code, message


def _emit(event: Mapping[str, object]) -> None:
    """One write a line, so that lines of several threads do not mix."""
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), entrypoint.to_line(event).encode() + b"\n")


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """(entrypoint, its arguments) of a command line."""
    if arguments[:1] != ["--shards"]:
        return arguments[0], list(arguments[1:])
    shards = [int(shard) for shard in arguments[1].split(",")]
    return arguments[2], entrypoint.for_shard(arguments[3:], shards[int(environment["JOB_COMPLETION_INDEX"])])


def main() -> None:
    try:
        target, args = parse(sys.argv[1:], os.environ)
    except (IndexError, KeyError, ValueError):
        sys.exit("usage: [JOB_COMPLETION_INDEX=0] python -m semievol.launchers.child [--shards 3,5,7] ENTRYPOINT [ARG ...]")
    if "SEMIEVOL_JOB" in os.environ:  # a pod's log is read from two pipes: what goes into one stays in order
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
    code, message = run(target, args)
    if message:
        print(message, file=sys.stderr)
        with contextlib.suppress(OSError):
            if _LAST_WORDS.exists():  # only there does somebody read it
                _LAST_WORDS.write_bytes(message.encode()[:_MOST_WORDS])
    sys.exit(code)


if __name__ == "__main__":
    main()
