"""Entry points that the launcher tests run, here and in child processes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semievol.common import errors
from semievol.launchers.entrypoint import Emit

if TYPE_CHECKING:
    from semievol.ports import Cancel


def succeed(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    emit({"progress": {"done": 1, "total": 2}})
    logging.getLogger("job").warning("args: %s", " ".join(args))
    emit({"progress": {"done": 2, "total": 2}})


def append_a_line(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    with Path(args[0]).open("a") as file:
        file.write("ran\n")


def refuse_the_input(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    raise errors.InvalidInput("The labeled file has no rows.")


def crash(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    raise ZeroDivisionError("nobody foresaw this")


def wait_until_cancelled(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    emit({"progress": {"started": True}})
    while not cancel.is_set():
        time.sleep(0.01)
    raise errors.Cancelled("Stopped as asked.")


def print_everywhere(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("job").info("to the log")
    os.system("echo from a command")
    sys.stdout.write("no newline at the end")


def ignore_the_cancellation(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    """With a child of its own, whose pid it reports."""
    child = subprocess.Popen(["sleep", "600"])
    emit({"progress": {"job": os.getpid(), "child": child.pid}})
    while True:
        time.sleep(0.05)


def leave_a_child_behind(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    child = subprocess.Popen(["sleep", "600"])
    emit({"progress": {"job": os.getpid(), "child": child.pid}})


def kill_itself(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_the_arguments(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    Path(args[0]).write_text("".join(f"{word}\n" for word in args[1:]))


def write_the_shard(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    emit({"progress": {"done": 1, "total": 1}})
    with Path(args[0], f"shard-{args[1]}").open("a") as file:
        file.write("done\n")


def write_the_shard_but_one(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    if args[1] == args[2]:
        raise errors.Unavailable(f"Shard {args[1]} has no luck.")
    write_the_shard(args, cancel, emit)


def refuse_the_input_or_wait(args: Sequence[str], cancel: Cancel, emit: Emit) -> None:
    if args[0] == args[1]:
        refuse_the_input(args, cancel, emit)
    wait_until_cancelled(args, cancel, emit)
