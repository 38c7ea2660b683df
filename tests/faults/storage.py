"""Writes that fail, and bytes that are damaged behind our back (R1, R2, R4)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from semievol.common.stores.local import LocalStore

from tests.faults.bench import Case, Ended, Place, contents, half_written, served
from tests.manifests import manifests

STORAGE = "Storage"
CALLS = ("fsync", "link", "replace")  # what makes a write of the store durable, each beneath the home
ATTEMPT = "attempt"
MOST_RUNS = 2000  # of a sweep: one a write, and some more
DAMAGED = 12


@contextlib.contextmanager
def watched_writes(home: Path, fails: Callable[[str], int]) -> Iterator[None]:
    """`fails` is asked before every durable write of this process below `home`, with what is written; other than 0 is the errno that it
    fails with. What is written has the same name whenever it is: the object, the call, and the file or directory that it is for."""
    now = threading.local()

    def writing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(store: LocalStore, path: str, data: bytes | Path) -> Any:
            now.what = _object(path, data)
            try:
                return real(store, path, data)
            finally:
                now.what = ""

        return call

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            target = os.path.realpath(args[-1] if len(args) > 1 else f"/proc/self/fd/{args[0]}")
            if target.startswith(f"{home}/"):
                place = _place(str(Path(target).relative_to(home)))
                if code := fails(f"{getattr(now, 'what', '')}: {real.__name__} of {place}"):
                    raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, failing(getattr(os, name))))
        for name in ("put", "create"):
            stack.enter_context(mock.patch.object(LocalStore, name, writing(getattr(LocalStore, name))))
        yield


def _object(path: str, data: bytes | Path) -> str:
    """What an object is, whoever writes it and however often: events and attempts are numbered, and the event of a step that is done is
    another one where a later run says it."""
    if "/events/" in path and isinstance(data, bytes):
        event = json.loads(data)
        event["type"] = {"step_succeeded": "step_done", "step_reused": "step_done"}.get(event["type"], event["type"])
        return " ".join(str(event[key]) for key in ("type", "iteration", "step", "shard", "model") if key in event)
    if "/attempts/" in path:
        return ATTEMPT
    return path


def _place(path: str) -> str:
    """What a call is for, likewise."""
    return "its bytes" if "/.tmp/" in path else _numberless(path)


def _numberless(path: str) -> str:
    return re.sub(r"(attempts|events)/[^/]+$", r"\1/", path)


def writes_of_a_run(place: Place) -> list[str]:
    """All durable writes of an undisturbed run, in order."""
    made: list[str] = []

    def note(name: str) -> int:
        made.append(name)
        return 0

    with watched_writes(place.home, note):
        assert place.run().code == 0
    return made


class Sweep:
    """Fails every write when it comes for the first time; `for_good`: the first of each kind, and all that come after it in the same run."""

    def __init__(self, codes: Sequence[int], *, for_good: bool) -> None:
        self.failed: set[str] = set()  # writes, or kinds of them
        self.name = _kind if for_good else _apart
        self._codes = itertools.cycle(codes)
        self._for_good = for_good
        self._code = 0  # that this run fails with
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A new run."""
        self._code = 0

    def fails(self, name: str) -> int:
        with self._lock:
            if self._for_good and self._code:
                return self._code
            name = self.name(name)
            if name in self.failed:
                return 0
            self.failed.add(name)
            self._code = next(self._codes)
            return self._code


def every_write_fails(*codes: int, for_good: bool) -> Callable[[Place], Ended]:
    """The same command in the same home, again and again until it ends well: by then every write of it has failed once, or, `for_good`, all
    writes from the first of each kind on. Whatever fails must leave nothing half-written, and in the end there must be an undisturbed run's
    artifacts."""

    def inject(place: Place) -> Ended:
        sweep, last = Sweep(codes, for_good=for_good), Ended(0)
        with tempfile.TemporaryDirectory(dir=place.directory) as scratch:
            with served(Path(scratch, "calm")) as calm:
                wanted = writes_of_a_run(one_shard(calm))
                artifacts = manifests(calm.home)
            often = 1 if for_good else 100  # a step that is tried again is quicker than a run
            with (
                served(Path(scratch, "own"), max_attempts=often, backoff_s=0.0) as own,
                watched_writes(own.home, sweep.fails),
            ):
                one_shard(own)
                for _ in range(MOST_RUNS):
                    sweep.begin()
                    ended = own.run()
                    assert ended.code in (0, 74), f"exit code {ended.code}: {ended.stderr[-500:]}"
                    assert half_written(own.home) == []
                    if ended.code == 0:
                        break
                    last = ended
                assert ended.code == 0, f"not done after {MOST_RUNS} runs"
                assert manifests(own.home) == artifacts, "other artifacts than an undisturbed run's"
        asked = {sweep.name(name) for name in wanted}
        spared = asked - sweep.failed
        assert not spared, f"{len(spared)} writes never failed, one of them: {min(spared)}"
        what = (
            f"the first of each of {len(asked)} kinds of {len(wanted)} writes"
            if for_good
            else f"{len(asked)} of {len(wanted)} writes"
        )
        figure = f"{what} swept; silent corruptions = 0"
        return Ended(last.code, last.stdout, last.stderr, figure)

    return inject


def _apart(name: str) -> str:
    """A write that fails on its own. Once a manifest has its name its step is done, whatever fails then, and nothing after it is written
    again: those writes are swept over the steps, the first of them failing in one step, the next in another."""
    what, _, call = name.partition(": ")
    after = what == ATTEMPT or (what.endswith("/MANIFEST.json") and call.startswith("fsync of artifacts"))
    return _kind(name) if after else name


def _kind(name: str) -> str:
    """Of a write, without the run, the step, the object that it is of."""
    what, _, call = name.partition(": ")
    return f"{_nameless(what.split()[0] if what else '')}: {_nameless(call)}"


def _nameless(text: str) -> str:
    return re.sub(
        r"/shard-\d+|[0-9a-f]{64}|(?<=/)[0-9a-f]{2}\b|colours[\w-]*", lambda found: "" if "shard" in found[0] else "*", text
    )


def one_shard(place: Place) -> Place:
    """Shards differ in nothing but their number."""
    place.run_file.write_text(place.run_file.read_text().replace("shard_rows: 8", "shard_rows: 64"))
    return place


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
    Case(
        STORAGE,
        "every write fails once, with EIO or ENOSPC in turn",
        (74,),
        r"[Ii]nput/output error|No space left",
        every_write_fails(errno.EIO, errno.ENOSPC, for_good=False),
    ),
    Case(
        STORAGE,
        "from one write on, all fail with ENOSPC",
        (74,),
        r"No space left",
        every_write_fails(errno.ENOSPC, for_good=True),
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
