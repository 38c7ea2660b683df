"""Writes that fail, and bytes that are damaged behind our back (R1, R2, R4)."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.faults.bench import Case, Ended, Place, contents, half_written, served
from tests.manifests import manifests

STORAGE = "Storage"
CALLS = ("fsync", "link", "replace")  # what makes a write of the store durable, each beneath the home
SWEPT = 12  # of the run's writes, evenly spread
DAMAGED = 12


@contextlib.contextmanager
def failing_writes(home: Path, first: int, code: int, *, for_good: bool) -> Iterator[list[str]]:
    """The durable writes of this process below `home` fail: the first-th of them, or all from there on. Yields those that were made."""
    made: list[str] = []

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            target = args[-1] if len(args) > 1 else f"/proc/self/fd/{args[0]}"
            if os.path.realpath(target).startswith(f"{home}/"):
                made.append(real.__name__)
                if len(made) == first or (for_good and len(made) > first):
                    raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, failing(getattr(os, name))))
        yield made


def writes_of_a_run(directory: Path) -> int:
    with served(directory) as place, failing_writes(place.home, 0, 0, for_good=False) as made:
        assert place.run().code == 0
    return len(made)


def nth_write_fails(code: int, *, for_good: bool) -> Callable[[Place], Ended]:
    """Swept over the writes of a whole run. The same command afterwards must give an undisturbed run's artifacts."""

    def inject(place: Place) -> Ended:
        with tempfile.TemporaryDirectory(dir=place.directory) as scratch:
            writes = writes_of_a_run(Path(scratch, "calm"))
            calm = manifests(Path(scratch, "calm", "home"))
            last = Ended(0)
            for number, nth in enumerate(sorted({1 + writes * step // SWEPT for step in range(SWEPT)})):
                with served(Path(scratch, f"own-{number}")) as own:
                    with failing_writes(own.home, nth, code, for_good=for_good):
                        ended = own.run()
                    assert ended.code in (0, 74), f"write {nth}: exit code {ended.code}: {ended.stderr[-500:]}"
                    assert half_written(own.home) == [], f"write {nth}: {half_written(own.home)}"
                    assert own.run().code == 0
                    assert manifests(own.home) == calm, f"write {nth}: other artifacts than an undisturbed run's"
                last = ended if ended.code else last
            return Ended(last.code, last.stdout, last.stderr, f"{SWEPT} of {writes} writes swept; silent corruptions = 0")

    return inject


def damage(change: Callable[[bytes, random.Random], bytes], pattern: str) -> Callable[[Place], Ended]:
    """After a good run, one object at a time is damaged, and the same command given: it has to find, and make anew or refuse."""

    def inject(place: Place) -> Ended:
        with tempfile.TemporaryDirectory(dir=place.directory) as scratch, served(Path(scratch, "own")) as own:
            assert own.run().code == 0
            root, chance, before = own.home / "artifacts", random.Random(0), contents(own.home)
            paths = chance.sample(sorted(path for path in root.glob(pattern) if path.stat().st_size > 1), DAMAGED)
            undetected, ended = [], Ended(0)
            for path in paths:
                intact = path.read_bytes()
                path.write_bytes(change(intact, chance))
                ended = own.run()
                assert ended.code == 0, f"{path.relative_to(root)}: {ended.stderr[-500:]}"
                if path.read_bytes() != intact:
                    undetected.append(str(path.relative_to(root)))
            after = contents(own.home)
            assert undetected == []
            assert [path for path, data in before.items() if after.get(path) != data] == [], "other objects changed"
            return Ended(ended.code, ended.stdout, ended.stderr, f"detected / injected: {len(paths)} / {len(paths)}")

    return inject


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]


def damaged_record(pattern: str, *command: str) -> Callable[[Place], Ended]:
    """One of the controller's own records is cut short: what reads it refuses it by its name, other runs go on, and its own run file
    writes it anew."""

    def inject(place: Place) -> Ended:
        with tempfile.TemporaryDirectory(dir=place.directory) as scratch:
            with served(Path(scratch, "own")) as own:
                assert own.run().code == 0
            path = sorted((own.home / "artifacts").glob(pattern))[0]
            path.write_bytes(path.read_bytes()[:-10])
            with served(own.directory) as own:  # nothing is remembered
                ended = own.semievol(*command, "--home", own.home)
                again = own.run()
                assert again.code == 0, again.stderr
                assert own.semievol(*command, "--home", own.home).code == 0
                assert own.next_good_run() == []
        return ended

    return inject


RE_READ = r"reused: |reused"
STORAGE_CASES = [
    Case(STORAGE, "the Nth write fails with EIO", (0, 74), r"", nth_write_fails(errno.EIO, for_good=False)),
    Case(STORAGE, "the Nth write fails with ENOSPC", (0, 74), r"", nth_write_fails(errno.ENOSPC, for_good=False)),
    Case(
        STORAGE,
        "all writes from the Nth on fail with ENOSPC",
        (74,),
        r"No space left",
        nth_write_fails(errno.ENOSPC, for_good=True),
    ),
    Case(STORAGE, "truncated blobs", (0,), RE_READ, damage(truncated, "blobs/*/*")),
    Case(STORAGE, "flipped bits in blobs", (0,), RE_READ, damage(flipped, "blobs/*/*")),
    Case(STORAGE, "truncated manifests", (0,), RE_READ, damage(truncated, "steps/**/MANIFEST.json")),
    Case(STORAGE, "flipped bits in manifests", (0,), RE_READ, damage(flipped, "steps/**/MANIFEST.json")),
    Case(
        STORAGE, "a run's record cut short", (74,), r"RUN\.json .*damaged", damaged_record("runs/*/RUN.json", "status", "colours")
    ),
    Case(STORAGE, "a run's event cut short", (0,), r"succeeded", damaged_record("runs/*/events/*.json", "status", "colours")),
    Case(STORAGE, "a model's record cut short", (74,), r"models/.*damaged", damaged_record("models/*.json", "models", "list")),
]
