"""One connection to Milvus: opening, calling, closing, and what its failures mean in our errors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import grpc

from semievol.common import errors

log = logging.getLogger(__name__)

_COLLECTION_NOT_FOUND = 100  # pymilvus.exceptions.ErrorCode
_LOCK_FILE = "LOCK"  # Milvus Lite holds an advisory lock on it


class Connection:
    """`where` names the store in messages; `lite_path` is set for Milvus Lite only."""

    def __init__(self, client: Any, where: str, lite_path: Path | None, timeout_s: float) -> None:
        self.client = client
        self.where = where
        self.lite_path = lite_path
        self._timeout_s = timeout_s

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One method of pymilvus.MilvusClient, retries of its own within the timeout. Raises NotFound, NotAllowed, Unavailable."""
        from pymilvus.exceptions import MilvusException

        try:
            return getattr(self.client, method)(*args, timeout=self._timeout_s, **kwargs)
        except (MilvusException, grpc.RpcError) as error:
            raise translate(error, f"{method} failed", self.where) from error

    def close(self) -> None:
        self.client.close()
        if self.lite_path is not None:  # closing the client alone keeps the file locked
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(str(self.lite_path))


def connect(uri: str, token: str = "", *, call_timeout_s: float = 30.0) -> Connection:
    """`uri` is a server (http://HOST:PORT) or a path ending in .db. Raises with field `uri` InvalidInput (it is neither), NotSupported (a
    package is missing); NotAllowed (token); Unavailable (no server there, or another process has the file); StorageError.
    """
    lite = not uri.startswith(("http://", "https://", "tcp://"))
    if lite and not uri.endswith(".db"):
        raise errors.InvalidInput(f"{uri!r} is neither http://HOST:PORT nor a path ending in .db.", field="uri")
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise errors.NotSupported(
            "The Milvus backend is not installed: pip install 'semievol[retrieval]'.", field="uri"
        ) from error
    for name in ("pymilvus", "milvus_lite"):  # they log, with tracebacks, what they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    path = _prepare_lite(uri) if lite else None
    where = str(path or uri)
    try:
        # Milvus Lite hangs up on a client that pings while nothing is asked, and gRPC then writes warnings to stderr.
        quiet = {"grpc_options": {"grpc.keepalive_permit_without_calls": False}} if lite else {}
        client = MilvusClient(uri=where, token=token, timeout=call_timeout_s, **quiet)
    except (MilvusException, grpc.RpcError) as error:
        if path is not None:
            raise errors.Unavailable(_why_lite_fails(path)) from error
        raise translate(error, "connecting failed", where) from error
    return Connection(client, where, path, call_timeout_s)


def translate(error: Exception, what: str, where: str) -> errors.SemiEvolError:
    """Our error for one of pymilvus' or gRPC's."""
    code = error.code() if isinstance(error, grpc.Call) else getattr(error, "code", None)
    text = str(getattr(error, "message", "") or (error.details() if isinstance(error, grpc.Call) else error))
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return errors.NotAllowed(f"Milvus at {where} refuses the token; check SEMIEVOL_RETRIEVAL_TOKEN.")
    if code == _COLLECTION_NOT_FOUND:
        return errors.NotFound(f"Milvus at {where} has no such collection (any more).", field="collection")
    return errors.Unavailable(f"Milvus at {where}: {what} ({_first_line(text)}); is it running and healthy?")


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[0][:200]


def _prepare_lite(uri: str) -> Path:
    path = Path(uri).expanduser().absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.StorageError(f"Cannot make {path.parent} for the vectors: {error.strerror}.") from error
    return path


def _why_lite_fails(path: Path) -> str:
    if _is_locked(path / _LOCK_FILE):
        return (
            f"Another process has the vectors in {path} open; stop it, or give each its own file or a Milvus server as the uri."
        )
    return f"Milvus Lite cannot open {path}; the vectors in it can be rebuilt, so delete it if it is damaged."


def _is_locked(lock: Path) -> bool:
    import fcntl

    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
