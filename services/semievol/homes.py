"""Which store and which Milvus a home uses. It remembers what it was last started with (`backends.json`), so that later commands find the
same ones without being told. Addresses only: credentials come from the environment, every time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from semievol.common import errors

EMBEDDED = "embedded"  # the word for what lies in the home itself
_FILE = "backends.json"


@dataclass(frozen=True, slots=True)
class Backends:
    """`store`: URI of the artifact store; `milvus`: URI of a Milvus server, or a path ending in .db. Empty: the home's own."""

    store: str = ""
    milvus: str = ""

    def store_uri(self, home: Path) -> str:
        return self.store or (home / "artifacts").as_uri()

    def milvus_uri(self, home: Path) -> str:
        return self.milvus or str(home / "milvus.db")


def backends(home: Path, store: str = "", milvus: str = "") -> Backends:
    """What is asked for, else what the home remembers, else its own. Raises InvalidInput(field=store, milvus)."""
    known = recall(home)
    return Backends(
        _store(store, home) if store else _remembered(known.store),
        _milvus(milvus, home) if milvus else known.milvus,
    )


def recall(home: Path) -> Backends:
    """What the home was last started with."""
    try:
        body = json.loads((home / _FILE).read_text())
        return Backends(*(str(body.get(field.name, "")) for field in fields(Backends)))
    except (OSError, ValueError, AttributeError):
        return Backends()


def remember(home: Path, used: Backends) -> None:
    """Raises OSError."""
    if recall(home) == used:
        return
    write(home / _FILE, asdict(used))


def write(file: Path, body: Mapping[str, Any]) -> None:
    """A small file of a home as JSON; readers see all of it or what was there before. Raises OSError."""
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    scratch.write_text(json.dumps(body))
    scratch.replace(file)


def changes(home: Path, used: Mapping[str, str]) -> list[str]:
    """What differs from what the home remembers, in sentences; nothing for a home that was never used."""
    was_used = (home / _FILE).exists() or (home / "artifacts").exists()
    known = asdict(recall(home)) if was_used else dict(used)
    names = {"store": "The artifact store", "milvus": "Milvus"}
    return [
        f"{names[part]} is {value or EMBEDDED}; so far {home} used {known[part] or EMBEDDED}."
        for part, value in used.items()
        if value != known[part]
    ]


def _store(asked: str, home: Path) -> str:
    scheme = urlsplit(asked).scheme
    if asked == EMBEDDED:
        return ""
    if scheme == "s3":
        return _with_environment(asked)
    uri = asked if scheme else Path(asked).expanduser().absolute().as_uri()
    return "" if uri == Backends().store_uri(home) else uri


def _with_environment(uri: str) -> str:
    """An S3 URI that says where its server is, so that it names the same store tomorrow."""
    with contextlib.suppress(ImportError):  # opening it says what to install
        from semievol.common.stores.s3_bucket import Location

        return Location.parse(uri).uri
    return uri


def _remembered(uri: str) -> str:
    """The same store behind the endpoint that the environment names, if it names one: the server may have moved."""
    if urlsplit(uri).scheme != "s3":
        return uri
    with contextlib.suppress(ImportError):
        from semievol.common.stores.s3_bucket import Location

        return Location.parse(uri).in_this_environment().uri
    return uri


def _milvus(asked: str, home: Path) -> str:
    if asked == EMBEDDED:
        return ""
    if "@" in urlsplit(asked).netloc:
        raise errors.InvalidInput(
            "The address of a Milvus server holds no credentials; give them as SEMIEVOL_MILVUS_TOKEN.", field="milvus"
        )
    uri = asked if urlsplit(asked).scheme else str(Path(asked).expanduser().absolute())
    return "" if uri == Backends().milvus_uri(home) else uri
