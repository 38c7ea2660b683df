"""Every error of ours in the shape that clients of the public API know, and fields in the words of its requests.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

What the door itself finds wrong is an error of `semievol.common.errors` as everywhere; its detail `code` names the API's own code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from semievol.common import errors

_INVALID = "invalid_request_error"
_SERVER = "server_error"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    type: str
    code: str | None = None


_BY_CLASS: dict[type[errors.SemiEvolError], _Answer] = {
    errors.InvalidInput: _Answer(400, _INVALID),
    errors.NotFound: _Answer(404, _INVALID, "not_found"),
    errors.AlreadyExists: _Answer(409, _INVALID, "already_exists"),
    errors.Conflict: _Answer(409, _INVALID, "conflict"),
    errors.Busy: _Answer(429, "rate_limit_error", "rate_limit_exceeded"),
    errors.Unavailable: _Answer(503, _SERVER, "unavailable"),
    errors.DeadlineExceeded: _Answer(504, _SERVER, "timeout"),
    errors.Cancelled: _Answer(503, _SERVER, "cancelled"),  # by the services, which are going down: another attempt may succeed
    errors.Corrupt: _Answer(500, _SERVER, "corrupt"),
    errors.StorageError: _Answer(503, _SERVER, "storage_error"),
    errors.NotAllowed: _Answer(403, _INVALID, "not_allowed"),
    errors.NotAuthenticated: _Answer(
        503, _SERVER, "unavailable"
    ),  # the door's own token for the router, which no client can mend
    errors.NotSupported: _Answer(400, _INVALID, "not_supported"),  # clients repeat what failed with 5xx, which would not help
    errors.InternalError: _Answer(500, _SERVER, "internal_error"),
}
# The detail `code` of an error -> its status, where that is not the class's.
_BY_CODE = {
    "client_gone": 499,  # nobody reads it; metrics do (nginx's number)
    "invalid_api_key": 401,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "request_too_large": 413,
    "unsupported_media_type": 415,
}
# The detail `reason` with which the generation service explains an error -> the API's code.
_BY_REASON = {"context_length": "context_length_exceeded"}

_PLACE = re.compile(r"^(?P<what>prompts?|texts|sampling)(\[(?P<index>\d+)\])?\.?(?P<rest>.*)$")
_SAMPLING = {"sample_count": "n"}


@dataclass(frozen=True, slots=True)
class Names:
    """What a request calls the fields of ours that differ between paths. `prompt` holds the prompt or the messages, `limit` the most tokens;
    `many`: whether it may hold several prompts."""

    prompt: str = "messages"
    limit: str = "max_tokens"
    top_logprobs: str = "top_logprobs"
    many: bool = False


def going_down() -> errors.Unavailable:
    """What those hear whose answers are not whole when the door may not wait any longer."""
    return errors.Unavailable("The server is going down; ask again.", retry_after_s=1.0)


def answer(error: errors.SemiEvolError, names: Names | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """(status, body, headers). `names`: of the request that the services answer; without them the door itself has named the field."""
    known = _BY_CLASS[next(cls for cls in type(error).__mro__ if cls in _BY_CLASS)]
    code = error.details.get("code") or _BY_REASON.get(error.details.get("reason", "")) or known.code
    if isinstance(error, errors.NotFound) and error.field == "model":
        code = "model_not_found"
    status = _BY_CODE.get(code or "", known.status)
    body = {
        "message": error.message,
        "type": known.type,
        "param": _param(error.field, names) if names else error.field,
        "code": code,
    }
    return status, {"error": body}, _headers(error, status)


def _headers(error: errors.SemiEvolError, status: int) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    after_s = getattr(error, "retry_after_s", 0.0)  # of those that know it
    if not after_s:
        return {}
    return {"Retry-After": str(math.ceil(after_s)), "Retry-After-Ms": str(math.ceil(1000 * after_s))}


def _param(field: str | None, names: Names) -> str | None:
    """`prompts[0].messages[1].role` -> `messages[1].role`. What is no field of the request (an engine's setting) is None."""
    if not field:
        return None
    place = _PLACE.match(field)
    if place is None:
        return None if field in _NOT_THE_CLIENTS else field
    what, index, rest = place["what"], place["index"], place["rest"]
    if what == "texts":
        return f"input[{index}]" if index else "input"
    if what == "sampling":
        ours: Mapping[str, str] = _SAMPLING | {"max_tokens": names.limit, "top_logprobs": names.top_logprobs}
        return ours.get(rest, rest)
    if rest.startswith("seeds"):
        return "seed"
    if rest.startswith("messages"):
        return rest
    return f"{names.prompt}[{index}]" if names.many and index else names.prompt


_NOT_THE_CLIENTS = {"engine", "address", "endpoint", "entropy_source", "uri"}
