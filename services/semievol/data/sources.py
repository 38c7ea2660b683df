"""Where rows come from: a data file, a dataset directory, or a dataset of the hub; each becomes an open table, and a file to upload.

labeled.csv                       a file, by its ending (formats.py)
dataset, dataset:train            a directory (directories.py): what `save_to_disk` wrote, or the files of a hub repository
dataset:config/train              one configuration of such a repository
hub:owner/name, hub:owner/name:train   the same, downloaded into the hub's cache; a path is never spelt so
hub:owner/name@revision:train     as it was at a commit, a tag or a branch
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from semievol.common import errors
from semievol.common.errors import BadRow
from semievol.data import directories
from semievol.data.formats import read_table
from semievol.data.tables import UNREADABLE, Table

_HUB = re.compile(r"hub:(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<split>[^:@]+))?")


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed reference: `path` of a file or a directory, or else `hub`, the name of a dataset there, at its newest `revision` where none is
    named."""

    path: Path
    hub: str = ""
    config: str = ""
    split: str = ""
    revision: str = ""

    @property
    def is_dataset(self) -> bool:
        """Whether it is more than a file, and is made one before it is uploaded."""
        return bool(self.hub) or self.path.is_dir()

    @property
    def name(self) -> str:
        """What it is called as a file, without an ending."""
        base = self.hub.replace("/", "-") or self.path.resolve().name
        return "-".join(re.sub(r"[^\w.-]", "_", part) for part in (base, self.revision, self.config, self.split) if part)

    def directory(self) -> Path:
        """Of a dataset. Raises what `directories.download` raises."""
        return directories.download(self.hub, self.revision) if self.hub else self.path


def parse(reference: str) -> Source:
    """A path that exists is that path, whatever is in its name. Raises InvalidInput for a hub reference that is none."""
    if reference.startswith("hub:"):
        match = _HUB.fullmatch(reference)
        if not match:
            raise errors.InvalidInput(
                f"{reference!r} is no dataset of the hub; write hub:owner/name or hub:owner/name:split, with @revision after the name to "
                "pin it."
            )
        config, _, split = (match["split"] or "").rpartition("/")
        return Source(Path(), match["name"], config, split, match["revision"] or "")
    path = Path(reference)
    head, colon, tail = reference.rpartition(":")
    if colon and tail and not path.exists() and Path(head).is_dir():
        config, _, split = tail.rpartition("/")
        return Source(Path(head), "", config, split)
    return Source(path)


def parts(reference: str) -> list[str]:
    """The splits of a dataset that is named without one, each as a reference; of anything else, itself. Raises as `open_table`."""
    source = parse(reference)
    if not source.is_dataset or source.split:
        return [reference]
    found = directories.splits(source.directory(), source.config)
    return [f"{reference}{split}" if reference.endswith("/") else f"{reference}:{split}" for split in found] or [reference]


@contextlib.contextmanager
def open_table(reference: str, max_row_bytes: int, obvious: tuple[str, ...] = ()) -> Iterator[tuple[str, Table]]:
    """(what it is, in a word; its rows). `obvious`: splits that are meant where none is named and there are several.

    Raises NotFound, StorageError, InvalidInput, Unavailable (the hub), NotSupported (a package is missing)."""
    source = parse(reference)
    try:
        if source.is_dataset:
            with directories.opened(source.directory(), reference, source.config, source.split, obvious, max_row_bytes) as found:
                yield found
        else:
            with source.path.open("rb") as file:
                yield source.path.suffix.lower().removeprefix("."), read_table(source.path, file, max_row_bytes)
    except FileNotFoundError as error:
        raise errors.NotFound(f"There is no file {reference}.") from error
    except OSError as error:
        raise errors.StorageError(f"Cannot read {reference}: {error.strerror}.") from error


def as_file(reference: str, directory: Path, max_row_bytes: int, obvious: tuple[str, ...] = ()) -> Path:
    """The source as one file: itself, or a JSON-lines file made in `directory`, the same bytes for the same rows. Row n stands on line n; in
    place of one that cannot be read stands why, which its reader makes a bad row of again. Raises as `open_table`."""
    source = parse(reference)
    if not source.is_dataset:
        return source.path
    path = directory / f"{source.name}.jsonl"
    with open_table(reference, max_row_bytes, obvious) as (_, table), path.open("wb") as file:
        for record in table.records:
            values = {UNREADABLE: _reason(record, reference)} if isinstance(record, BadRow) else dict(record.values)
            # a surrogate stands for a byte that was no text: the reader of the file finds it as it was
            file.write(json.dumps(values, ensure_ascii=False).encode(errors="surrogateescape") + b"\n")
    return path


def _reason(bad: BadRow, reference: str) -> str:
    """Why a row of a dataset cannot be read; where, too, if it is in a file of its own."""
    return bad.reason if bad.file == reference else f"{Path(bad.file).name}:{bad.line}: {bad.reason}"
