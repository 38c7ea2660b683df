"""A machine that does not give what a run needs: a place to write, space, a port, the home for itself; and runs that are stopped."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.bench import FAKES, TIMEOUT_S, Case, Ended, Place, finished, half_written, stop
from tests.manifests import manifests
from tests.waiting import wait_until

MACHINE, STOPS = "The machine", "Interrupted runs"
QUICK = {"SEMIEVOL_CONTROLLER_POLL_S": "0.01"}
DISK_KIB = (48, 96, 160, 224, 288)
KILLS, INTERRUPTS = 8, 3


def below_a_file(place: Place) -> Ended:
    (place.directory / "a-file").write_text("in the way")
    home = place.directory / "a-file" / "home"
    assert place.process("status", "--home", home).code == 74
    return place.process("run", "-f", place.run_file, "--home", home)


def a_file_as_home(place: Place) -> Ended:
    (place.directory / "a-file").write_text("in the way")
    return place.process("run", "-f", place.run_file, "--home", place.directory / "a-file")


def read_only_home(place: Place) -> Ended:
    """/proc can be written by nobody, root included."""
    return place.process("run", "-f", place.run_file, "--home", "/proc/semievol")


def port_in_use(offset: int) -> Callable[[Place], Ended]:
    def inject(place: Place) -> Ended:
        home = place.directory / "port"
        first = random.Random(os.getpid()).randrange(20_000, 30_000)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", first + offset))
            taken.listen()
            ended = place.process("serve", "--home", home, "--port", first, "--model", "fake", "--embedding", "fake")
        again = place.start("serve", "--home", home, "--port", first, "--model", "fake", "--embedding", "fake")
        wait_until(lambda: (home / "services.json").exists() or again.poll() is not None)
        assert stop(again, signal.SIGTERM).code == 0, "the same command does not work with the port free"
        shutil.rmtree(home)
        return ended

    return inject


# ---------------------------------------------------------------- a full disk


def full_disk(kib: int) -> Callable[[Place], Ended]:
    """A file system of this size as the home, in a mount namespace of its own; then it grows, and the same command goes on."""

    def inject(place: Place) -> Ended:
        directory = place.directory / f"disk-{kib}"
        command = [sys.executable, "-m", "tests.faults.machine", str(directory), str(kib)]
        script = f'mkdir -p "$1/home" && mount -t tmpfs -o size={kib}k none "$1/home" && shift && exec "$@"'
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", str(directory), *command],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**os.environ, **FAKES},
        )
        assert done.returncode == 0, f"a small file system cannot be made or used here: {done.stderr[-500:]}"
        report = json.loads(done.stdout)
        assert report["half_written"] == [], report["half_written"]
        assert report["again"]["code"] == 0, report["again"]["stderr"]
        return Ended(**report["ended"])

    return inject


def _on_the_small_disk(directory: Path) -> None:
    """What runs inside the namespace: prints how the command ended, what is left, and how it ends with more space."""
    place = Place(directory)
    arguments = ("run", "-f", place.run_file, "--home", place.home)
    ended = place.process(*arguments)
    left = half_written(place.home)
    subprocess.run(["mount", "-o", "remount,size=64m", str(place.home)], check=True)
    again = place.process(*arguments)
    left += half_written(place.home)
    print(json.dumps({"ended": vars(ended), "half_written": left, "again": vars(again)}))


# ---------------------------------------------------------------- two at once, and stops


def many_shards(place: Place) -> None:
    place.run_file.write_text(place.run_file.read_text().replace("shard_rows: 8", "shard_rows: 2"))


def a_second_run_while_the_first_hangs(place: Place) -> Ended:
    own = Place(place.directory / "hanging")
    many_shards(own)
    first = own.start("run", "-f", own.run_file, "--home", own.home)
    try:
        wait_until((own.home / "services.json").exists)
        first.send_signal(signal.SIGSTOP)
        second = own.process("run", "-f", own.run_file, "--home", own.home)
    finally:
        first.send_signal(signal.SIGCONT)
    assert finished(first).code == 0
    assert half_written(own.home) == []
    shutil.rmtree(own.directory)
    return second


def another_run_beside_the_first(place: Place) -> Ended:
    """The home belongs to a `semievol run`, whose services end with it."""
    own = Place(place.directory / "beside")
    many_shards(own)
    first = own.start("run", "-f", own.run_file, "--home", own.home)
    wait_until(lambda: (own.home / "services.json").exists() or first.poll() is not None)
    other = own.directory / "other.yaml"
    other.write_text(own.run_file.read_text().replace("colours", "other") + "seed: 7\n")
    second = own.process("run", "-f", other, "--home", own.home)
    ended = finished(first)
    assert ended.code == 0, ended.stderr
    assert half_written(own.home) == []
    assert own.process("run", "-f", other, "--home", own.home).code == 0
    shutil.rmtree(own.directory)
    return second


def events(home: Path) -> int:
    """How far the run of this home is: the number of events on its record."""
    return sum(1 for _ in (home / "artifacts" / "runs").glob("*/events/*.json"))


def _far_enough(home: Path, moment: int, process: subprocess.Popen[str]) -> bool:
    return events(home) >= moment or process.poll() is not None


def stopped(number: signal.Signals, times: int, seed: int = 0) -> Callable[[Place], Ended]:
    """The run is stopped at random events of it, and a moment later, and the same command given again; its artifacts must be those of
    an undisturbed run."""

    def inject(place: Place) -> Ended:
        own = Place(place.directory / f"stopped-{number.name}")
        many_shards(own)
        arguments = ("run", "-f", own.run_file, "--home")
        assert own.process(*arguments, own.directory / "calm", **QUICK).code == 0
        calm, length = manifests(own.directory / "calm"), events(own.directory / "calm")
        chance, mismatches, last = random.Random(seed), 0, Ended(0)
        for attempt in range(times):
            home = own.directory / f"home-{attempt}"
            process, moment = own.start(*arguments, home, **QUICK), chance.randrange(1, length - 5)
            wait_until(functools.partial(_far_enough, home, moment, process))
            time.sleep(chance.uniform(0, 0.05))
            ended = stop(process, number)
            assert ended.code, "the run had ended before the signal"
            again = own.process(*arguments, home, **QUICK)
            assert again.code == 0, again.stderr
            mismatches += manifests(home) != calm or half_written(home) != []
            last = ended
        assert mismatches == 0, f"{mismatches} of {times} runs ended with other artifacts"
        shutil.rmtree(own.directory)
        return Ended(last.code, last.stdout, last.stderr, f"mismatches / stops: 0 / {times}")

    return inject


MACHINE_CASES = [
    Case(MACHINE, "a home below a file", (74,), r"home .* cannot be written: .*another --home", below_a_file),
    Case(MACHINE, "a file as home", (2, 74), r"is a file|cannot be written", a_file_as_home),
    Case(MACHINE, "a home that nobody can write", (74,), r"home .* cannot be written: .*another --home", read_only_home),
    *(Case(MACHINE, f"a disk of {kib} KiB", (74,), r"[Nn]o space left on device", full_disk(kib)) for kib in DISK_KIB),
    Case(MACHINE, "a port in use", (69,), r"port is in use", port_in_use(0)),
    Case(MACHINE, "the fourth of seven ports in use", (69,), r"port is in use", port_in_use(3)),
    Case(MACHINE, "a second run while the first hangs", (75,), r"in use by process \d+", a_second_run_while_the_first_hangs),
    Case(MACHINE, "another run beside the first", (75,), r"in use by process \d+", another_run_beside_the_first),
]
STOP_CASES = [
    Case(STOPS, "SIGINT at random moments", (130,), r"continue with: semievol run -f", stopped(signal.SIGINT, INTERRUPTS)),
    Case(STOPS, "SIGTERM at random moments", (143,), r"continue with: semievol run -f", stopped(signal.SIGTERM, INTERRUPTS, 1)),
    Case(STOPS, "kill -9 at random moments", (-9,), r"", stopped(signal.SIGKILL, KILLS, 2)),
]


if __name__ == "__main__":
    _on_the_small_disk(Path(sys.argv[1]))
