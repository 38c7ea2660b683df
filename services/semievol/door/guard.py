"""What stands before every path: the key, the number of requests at work, the request's id, metrics, and the last word on errors.

Plain ASGI, since Starlette's own middleware class would hide from a stream that its reader has gone."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
import uuid
from collections.abc import Collection, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semievol.common import errors
from semievol.door.errors import answer, going_down
from semievol.door.metrics import Metrics, label

log = logging.getLogger(__name__)


class Guard:
    """`keys`: any of them opens every path; none: no key is asked for. `open_paths`: those that need none. What is not among them is guarded,
    whether it exists or not, so that a path that is added later is guarded from its first day."""

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], open_paths: Collection[str], max_requests: int, metrics: Metrics
    ) -> None:
        self._app = app
        self._digests = [_digest(key.encode()) for key in keys]
        self._open_paths = frozenset(open_paths)
        self._max_requests = max_requests
        self._metrics = metrics
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # nothing else is served
            return
        state = scope.setdefault("state", {})
        state["started"], state["id"] = time.monotonic(), uuid.uuid4().hex
        status = 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", state["id"].encode())]
            await send(message)

        self._at_work += 1
        self._metrics.open_requests.set(self._at_work)
        try:
            self._check(scope)
            await self._app(scope, receive, tell)
        except errors.SemiEvolError as error:
            await _refuse(error, tell)
        except asyncio.CancelledError:  # uvicorn's, when the grace of a shutdown is over
            if status:
                raise
            await _refuse(going_down(), tell)
        except Exception as error:
            log.error("%s %s failed, request id %s", scope["method"], scope["path"], state["id"], exc_info=error)
            if status:
                raise  # too late for an answer: the connection breaks
            await _refuse(errors.InternalError(f"Internal error; the door's log has it under request id {state['id']}."), tell)
        finally:
            self._at_work -= 1
            self._metrics.open_requests.set(self._at_work)
            path = label(scope["path"])
            self._metrics.requests.labels(path, str(status or 499)).inc()
            self._metrics.duration.labels(path).observe(time.monotonic() - state["started"])

    def _check(self, scope: Scope) -> None:
        if scope["path"] in self._open_paths:
            return
        if self._digests and not self._opens(scope):
            raise errors.NotAllowed(
                "This server asks for an API key that it knows, as `Authorization: Bearer KEY`.",
                details={"code": "invalid_api_key"},
            )
        if self._at_work > self._max_requests:
            raise errors.Busy(f"{self._max_requests} requests are at work already; try again in a second.")

    def _opens(self, scope: Scope) -> bool:
        """Takes as long for every key: digests have one length, and all of them are compared."""
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = sent.partition(b" ")
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, one) for one in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _refuse(error: errors.SemiEvolError, send: Send) -> None:
    status, body, headers = answer(error)
    data = json.dumps(body).encode()
    pairs = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in pairs.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": data})
