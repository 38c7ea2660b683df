"""Implementations of `ports.ObjectStore`, opened by URI."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from semievol.common import errors
from semievol.ports import ObjectStore


def check_path(path: str) -> None:
    """Raises InvalidInput for what is no object path in every store: relative, `/`-separated, no empty, `.` or `..` parts, no NUL."""
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise errors.InvalidInput(f"{path!r} is not an object path.")


def open_store(uri: str) -> ObjectStore:
    """`file:///absolute/directory`, a plain path, or `s3://bucket[/prefix]` (`stores.s3_bucket.Location`).

    Raises InvalidInput(field=store) for any other scheme, NotSupported (a package is missing), StorageError."""
    from semievol.common.stores.local import LocalStore

    scheme = urlsplit(uri).scheme
    if scheme == "file":
        return LocalStore(Path(unquote(urlsplit(uri).path)))
    if not scheme:
        return LocalStore(Path(uri))
    if scheme == "s3":
        try:
            from semievol.common.stores.s3 import S3Store
        except ImportError as error:
            raise errors.NotSupported("Artifacts in S3 need a package: pip install 'semievol[s3]'.", field="store") from error
        return S3Store(uri)
    raise errors.InvalidInput(
        f"Artifact stores of scheme {scheme!r} are not known; use file:///DIRECTORY or s3://BUCKET/PREFIX.", field="store"
    )
