"""The one place where errors of `semievol.common.errors` become gRPC statuses, and statuses become errors again.

A status carries google.rpc.ErrorInfo (the class's name and details), BadRequest where a field is at fault, and RetryInfo where
waiting helps, so that any client in any language sees the same facts as ours. It is kept small: it travels in HTTP/2 trailers, of
which gRPC takes 8 KiB by default, and a call whose trailers are larger fails with RESOURCE_EXHAUSTED instead.
"""

from __future__ import annotations

from typing import cast

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from semievol.common import errors

DOMAIN = "semievol"
_MAX_TEXT_BYTES = (
    800  # a message travels as itself, percent-encoded (three times its size at worst), in the status and for its field
)
_MAX_STATUS_BYTES = 3500  # base64 adds a third


def to_status(error: errors.SemiEvolError) -> status_pb2.Status:
    """The rich status of an error."""
    message = _short(error.message)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    details = {_short(name): _short(value) for name, value in error.details.items()}
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN, metadata=details))
    bad = error_details_pb2.BadRequest()
    if error.field:
        bad.field_violations.add(field=_short(error.field), description=message)
    for row in error.rows if isinstance(error, errors.InvalidInput) else ():
        violation = bad.field_violations.add(field=_short(f"{row.file}:{row.line}"), description=_short(row.reason))
        if (
            status.ByteSize() + bad.ByteSize() > _MAX_STATUS_BYTES
        ):  # the first ones say what is wrong, the message how many there are
            bad.field_violations.remove(violation)
            break
    if bad.field_violations:
        status.details.add().Pack(bad)
    if isinstance(error, errors.Busy | errors.Unavailable) and error.retry_after_s:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _short(text: str) -> str:
    """Text that protobuf takes (no lone surrogates), of bounded length."""
    data = text.encode(errors="replace")
    if len(data) > _MAX_TEXT_BYTES:
        data = data[: _MAX_TEXT_BYTES - 3] + b"..."
    return data.decode(errors="ignore")


def from_rpc_error(rpc_error: grpc.RpcError, where: str) -> errors.SemiEvolError:
    """The error that a failed call stands for. `where` names the service and its address, for messages that gRPC itself wrote."""
    call = rpc_error if isinstance(rpc_error, grpc.Call | grpc.aio.AioRpcError) else None
    code = call.code().name if call else "UNKNOWN"
    status = rich_status(call) if call else None
    if status is None:  # written by gRPC, not by a server of ours
        detail = (call.details() or "") if call else str(rpc_error)
        cls = errors.BY_CODE.get(code, errors.InternalError)
        if cls is errors.Unavailable:
            return errors.Unavailable(f"{where} does not answer ({detail}); is it running?")
        if cls is errors.DeadlineExceeded:
            return errors.DeadlineExceeded(f"{where} did not answer in time; it may be busy or its deadline too short.")
        if cls is errors.Busy and "larger than max" in detail:  # nothing that waiting helps against
            return errors.InvalidInput(
                f"{where} was sent, or sent, a message that is too large ({detail}); send fewer rows at a time."
            )
        return cls(f"{where}: {code}: {detail}")
    return _from_status(status, code)


def rich_status(call: grpc.Call | grpc.aio.AioRpcError) -> status_pb2.Status | None:
    """What a server of ours said; None where gRPC itself, or something on the way, wrote the status."""
    try:
        return rpc_status.from_call(cast(grpc.Call, call))  # it asks for what both kinds have
    except ValueError:  # a proxy on the way changed the code
        return None


def _from_status(status: status_pb2.Status, code: str) -> errors.SemiEvolError:
    field: str | None = None
    reason, details, rows, retry_after_s = "", {}, [], 0.0
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            reason, details = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            for violation in bad.field_violations:
                file, _, line = violation.field.rpartition(":")
                if file and line.isdigit():
                    rows.append(errors.BadRow(file, int(line), violation.description))
                else:
                    field = violation.field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    named = getattr(errors, reason, None)
    cls = (
        named
        if isinstance(named, type) and issubclass(named, errors.SemiEvolError)
        else errors.BY_CODE.get(code, errors.InternalError)
    )
    if cls is errors.Busy:
        return errors.Busy(status.message, retry_after_s=retry_after_s or 1.0, field=field)
    if issubclass(cls, errors.Unavailable):
        return cls(status.message, field=field, details=details, retry_after_s=retry_after_s)
    if cls is errors.InvalidInput:
        return errors.InvalidInput(status.message, field=field, details=details, rows=tuple(rows))
    return cls(status.message, field=field, details=details)
