"""Every error that SemiEvol raises on purpose, in one tree.

    SemiEvolError                 code (gRPC status name)   exit code of the command line
    ├── InvalidInput              INVALID_ARGUMENT          64   the caller's data or arguments are wrong
    ├── NotFound                  NOT_FOUND                 64   the named thing does not exist
    ├── AlreadyExists             ALREADY_EXISTS            73   the name is taken by something else
    ├── Conflict                  FAILED_PRECONDITION       73   the request does not fit the present state
    ├── Busy                      RESOURCE_EXHAUSTED        75   a limit is reached; try again later
    ├── Unavailable               UNAVAILABLE               69   a backend is down or not ready
    │   ├── NotActing             UNAVAILABLE               69   this replica leaves acting to another one, and has begun nothing
    │   └── NotTrusted            UNAVAILABLE               77   a certificate, or our own credentials, are not taken
    ├── DeadlineExceeded          DEADLINE_EXCEEDED         75   no answer in time
    ├── Cancelled                 CANCELLED                 130  somebody asked for the work to stop
    ├── Corrupt                   DATA_LOSS                 74   stored bytes are not what was written
    ├── StorageError              UNAVAILABLE               74   a disk or an object store failed
    ├── NotAllowed                PERMISSION_DENIED         77   the caller may not do this
    │   └── NotAuthenticated      UNAUTHENTICATED           77   the caller has not shown who it is
    ├── NotSupported              UNIMPLEMENTED             69   this backend or version cannot do it
    └── InternalError             INTERNAL                  70   our bug

A message says what, where and what to do next in one or two sentences. The server's interceptor is the only
place that turns these into gRPC statuses, and the client's the only one that turns statuses back into these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class SemiEvolError(Exception):
    """Base of all errors that are raised on purpose.

    `field` names the offending request field or configuration key in dotted form (`train.epochs`), if there is one.
    `details` are short machine-readable facts (they travel as google.rpc.ErrorInfo metadata).
    """

    code = "INTERNAL"
    exit_code = 70

    def __init__(self, message: str, *, field: str | None = None, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = dict(details or {})


def first_line(reason: object) -> str:
    """Of what a library says, what fits into a sentence; the name of its type where it says nothing."""
    return (str(reason).strip().splitlines() or [type(reason).__name__])[0]


def system_reason(error: BaseException) -> str:
    """What the operating system says at the bottom of an error (`Connection refused`); empty where it said nothing."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return ""


@dataclass(frozen=True)
class BadRow:
    """One row of a data file that cannot be used: `file:line: reason`."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class InvalidInput(SemiEvolError):
    """The caller's data or arguments are wrong; the same call cannot succeed. `rows` lists bad data rows (R7)."""

    code = "INVALID_ARGUMENT"
    exit_code = 64

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        details: Mapping[str, str] | None = None,
        rows: tuple[BadRow, ...] = (),
    ) -> None:
        super().__init__(message, field=field, details=details)
        self.rows = rows


class NotFound(SemiEvolError):
    """The named thing does not exist."""

    code = "NOT_FOUND"
    exit_code = 64


class AlreadyExists(SemiEvolError):
    """The name is taken by something with other contents."""

    code = "ALREADY_EXISTS"
    exit_code = 73


class Conflict(SemiEvolError):
    """The request is well formed but does not fit the present state."""

    code = "FAILED_PRECONDITION"
    exit_code = 73


class Busy(SemiEvolError):
    """A limit is reached; the same call may succeed after `retry_after_s` seconds."""

    code = "RESOURCE_EXHAUSTED"
    exit_code = 75

    def __init__(self, message: str, *, retry_after_s: float = 1.0, field: str | None = None) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class Unavailable(SemiEvolError):
    """A backend is down or not ready; an idempotent call may be repeated, best after `retry_after_s` seconds (0: nobody knows)."""

    code = "UNAVAILABLE"
    exit_code = 69

    def __init__(
        self, message: str, *, field: str | None = None, details: Mapping[str, str] | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message, field=field, details=details)
        self.retry_after_s = retry_after_s


class NotActing(Unavailable):
    """A replica was asked for what only the one that acts may do. Nothing was begun, so that any call may be repeated."""


class NotTrusted(Unavailable):
    """A server cannot be asked since its certificate is not trusted, or the credentials that this process has. Another server, or another process,
    may do; asking again does not help."""

    exit_code = 77


class DeadlineExceeded(SemiEvolError):
    """No answer within the caller's deadline."""

    code = "DEADLINE_EXCEEDED"
    exit_code = 75


class Cancelled(SemiEvolError):
    """Somebody asked for the work to stop."""

    code = "CANCELLED"
    exit_code = 130


class Corrupt(SemiEvolError):
    """Stored bytes are not what was written (size or sha256 differ, or they are gone)."""

    code = "DATA_LOSS"
    exit_code = 74


class StorageError(SemiEvolError):
    """A disk or an object store failed (EIO, ENOSPC, 5xx after the retries)."""

    code = "UNAVAILABLE"
    exit_code = 74


class NotAllowed(SemiEvolError):
    """The caller may not do this."""

    code = "PERMISSION_DENIED"
    exit_code = 77


class NotAuthenticated(NotAllowed):
    """The caller has shown no token, or one that the server does not know."""

    code = "UNAUTHENTICATED"


class NotSupported(SemiEvolError):
    """This backend or this version cannot do it."""

    code = "UNIMPLEMENTED"
    exit_code = 69


class InternalError(SemiEvolError):
    """Our bug; the message carries a request id and nothing of the exception."""


# Trying again cannot help: the input is bad, the code has a bug, a name is taken, somebody forbids it.
FINAL_EXIT_CODES = tuple(cls.exit_code for cls in (InvalidInput, InternalError, Conflict, NotAllowed))

# Status code -> the class that a client raises for it (where two classes share a code, the commoner one).
BY_CODE: dict[str, type[SemiEvolError]] = {
    cls.code: cls
    for cls in (
        InternalError,
        StorageError,
        InvalidInput,
        NotFound,
        AlreadyExists,
        Conflict,
        Busy,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Corrupt,
        NotAllowed,
        NotAuthenticated,
        NotSupported,
    )
}
