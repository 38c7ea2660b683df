"""A job as a process of its own: `python -m semievol.launchers.child ENTRYPOINT [ARG ...]`.

SIGTERM becomes the job's `cancel`; everything that is printed or logged goes to the process's output; the exit code is the job's.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from io import TextIOWrapper

from semievol.launchers import entrypoint


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


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m semievol.launchers.child ENTRYPOINT [ARG ...]")
    code, message = run(sys.argv[1], sys.argv[2:])
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
