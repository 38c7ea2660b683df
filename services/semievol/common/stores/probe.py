"""Whether a store keeps the promise that fences writers (R3): tried with writers that race, before anything is built on it."""

from __future__ import annotations

import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

from semievol.common import errors
from semievol.ports import ObjectStore

WRITERS = 16
_RACES = 3  # a server that checks first and writes then is caught by nearly every race


def probe(store: ObjectStore) -> None:
    """Writes, races and deletes a few small objects under `probe/`.

    Raises NotSupported (a conditional create has no winner, or several), and what the store raises: it is not there, is read-only, ..."""
    base = f"probe/{uuid.uuid4().hex}"
    paths = [f"{base}/{race}" for race in range(_RACES + 1)]
    try:
        if not store.create(paths[0], b"first") or store.create(paths[0], b"second"):
            raise _refused("a second writer replaces what the first one created")
        for path in paths[1:]:
            _race(store, path)
    finally:
        with contextlib.suppress(errors.SemiEvolError):
            for path in paths:
                store.delete(path)


def _race(store: ObjectStore, path: str) -> None:
    start = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        start.wait()
        return store.create(path, b"%d" % number)

    with ThreadPoolExecutor(WRITERS, thread_name_prefix="probe") as pool:
        won = list(pool.map(write, range(WRITERS)))
    if sum(won) != 1:
        raise _refused(f"{sum(won)} of {WRITERS} writers at a time were told that they had created one and the same object")
    with store.open(path) as stream:
        if stream.read() != b"%d" % won.index(True):
            raise _refused("the object that is kept is not the one of the writer that was told so")


def _refused(what: str) -> errors.NotSupported:
    return errors.NotSupported(
        f"This artifact store has no safe conditional create (If-None-Match: *): {what}. Two attempts at one step could both publish. "
        "Use another store: a local directory, MinIO or AWS S3.",
        field="store",
    )
