"""One connection to Milvus: opening, calling, closing, and what its failures mean in our errors."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import random
import time
from pathlib import Path
from typing import Any

import grpc

from semievol.common import errors
from semievol.common.endpoints import check_url, is_url

TOKEN_NAME = "SEMIEVOL_MILVUS_TOKEN"
_CONNECT_S = 10.0  # of one attempt to connect; pymilvus waits this long too when it reconnects
_AWAY_S = 10.0  # a call's patience with a server that restarts; the retries of clients and steps make two minutes of it
_BACKOFF_S = 0.2  # first wait; doubles

# Codes of a MilvusException (Milvus' merr package; pymilvus names only some of them).
_COLLECTION_NOT_FOUND = 100
_NOT_LOADED = (101, 103)  # released by somebody, or not all of it is loaded (again)
_DATABASE_NOT_FOUND = 800
_RATE_LIMIT = 8
_LOCK_FILE = "LOCK"  # Milvus Lite holds an advisory lock on it
_KEEPALIVE = {"grpc.keepalive_permit_without_calls": False}  # Milvus Lite hangs up on a client that pings while nothing is asked


class Connection:
    """`where` names the store in messages; `lite_path` is set for Milvus Lite only."""

    def __init__(self, client: Any, where: str, lite_path: Path | None, timeout_s: float) -> None:
        self.client = client
        self.where = where
        self.lite_path = lite_path
        self._timeout_s = timeout_s

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One method of pymilvus.MilvusClient. While the server is away it is tried again for some seconds: all that this package asks of
        Milvus may be asked twice. Raises NotFound, NotAllowed, NotSupported, Busy, Unavailable.
        """
        from pymilvus.exceptions import MilvusException

        end = time.monotonic() + (_AWAY_S if self.lite_path is None else 0.0)
        for attempt in itertools.count():
            try:
                return self._once(method, args, kwargs)
            except (MilvusException, grpc.RpcError) as error:
                wait = _BACKOFF_S * 2**attempt * random.uniform(0.5, 1.5)
                if _code(error) is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + wait > end:
                    raise translate(error, f"{method} failed", self.where) from error
            time.sleep(wait)

    def _once(self, method: str, args: Any, kwargs: Any) -> Any:
        from pymilvus.exceptions import MilvusException

        try:
            return getattr(self.client, method)(*args, timeout=self._timeout_s, **kwargs)
        except MilvusException as error:
            if error.code not in _NOT_LOADED:
                raise
        self.client.load_collection(args[0], timeout=self._timeout_s)
        return getattr(self.client, method)(*args, timeout=self._timeout_s, **kwargs)

    def server_version(self) -> str:
        """As the server writes it, without the v: `2.3.5`."""
        return str(self.call("get_server_version")).removeprefix("v")

    def server(self) -> str:
        """Product and version, and a server's address. Raises Unavailable."""
        if self.lite_path is not None:
            return f"Milvus Lite {importlib.metadata.version('milvus-lite')}"
        return f"Milvus {self.server_version()} at {self.where}"

    def close(self) -> None:
        self.client.close()
        if self.lite_path is not None:  # closing the client alone keeps the file locked
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(str(self.lite_path))


def connect(uri: str, token: str = "", *, database: str = "", call_timeout_s: float = 30.0) -> Connection:
    """`uri` is a server (http[s]://HOST:PORT) or a path ending in .db. `token` is `user:password` or an API key. Raises with field `uri`
    InvalidInput (it is neither), NotSupported (a package is missing); NotAllowed (token); NotFound (database); Unavailable (no server
    there, or another process has the file); StorageError.
    """
    lite = not is_url(uri)
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
    where = str(path or check_url(uri, field="uri"))
    options: dict[str, Any] = {"grpc_options": _KEEPALIVE} if lite else {"token": token, "db_name": database}
    try:
        # Of its own: pymilvus never closes a shared connection, and two of this process would share their reconnections' failures.
        client = MilvusClient(uri=where, timeout=min(call_timeout_s, _CONNECT_S), dedicated=True, **options)
        if not lite:
            client.list_collections(timeout=call_timeout_s)  # connecting alone does not look at the database's name
    except (MilvusException, grpc.RpcError) as error:
        if path is not None:
            raise errors.Unavailable(_why_lite_fails(path)) from error
        raise translate(error, "connecting failed", where) from error
    return Connection(client, where, path, call_timeout_s)


def translate(error: Exception, what: str, where: str) -> errors.SemiEvolError:
    """Our error for one of pymilvus' or gRPC's."""
    code = _code(error)
    text = str(getattr(error, "message", "") or (error.details() if isinstance(error, grpc.Call) else error))
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return errors.NotAllowed(f"Milvus at {where} refuses the token; check {TOKEN_NAME} (user:password or an API key).")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.NotSupported(f"Milvus at {where}: {what}, this server is too old for it ({_first_line(text)}).")
    if code == _COLLECTION_NOT_FOUND:
        return errors.NotFound(f"Milvus at {where} has no such collection (any more).", field="collection")
    if code == _DATABASE_NOT_FOUND:
        return errors.NotFound(
            f"Milvus at {where} has no such database; create it or check SEMIEVOL_RETRIEVAL_DATABASE.", field="database"
        )
    if code == _RATE_LIMIT:
        return errors.Busy(f"Milvus at {where}: {what}, it takes no more for now ({_first_line(text)}).")
    private = (
        " Is its certificate a private CA's? GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names a file with that."
        if where.startswith("https")
        else ""
    )
    return errors.Unavailable(f"Milvus at {where}: {what} ({_first_line(text)}); is it running and healthy?{private}")


def _code(error: BaseException) -> Any:
    """A gRPC status code or a number of Milvus' own. Where connecting fails, pymilvus hides the cause's code behind one of its own."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, grpc.Call):
            return cause.code()
        seen.append(cause)
        # pymilvus raises errors from themselves; then only the context still says what happened
        cause = cause.__cause__ if cause.__cause__ not in seen else cause.__context__
    return getattr(error, "code", None)


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
