"""An API server in memory: a named test double for whoever talks to Kubernetes. It keeps objects and the promises that callers build on: names
are taken once, a replacement needs the present resource version, what is owned goes with its owner. Nothing runs in it; tests set states."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from semievol.common import errors
from semievol.common.kube import Kind, Kube, Object, Request, Response


class FakeApiServer:
    """See `kube.Transport`. `requests` lists all that came; `down` refuses connections; `answers` are given before anything is done;
    `written` is called with every object that is created."""

    def __init__(self, namespace: str = "test", written: Callable[[Object], None] = lambda created: None) -> None:
        self.requests: list[Request] = []
        self.down = False
        self.answers: list[Response] = []
        self.logs: dict[str, str] = {}  # by pod: lines behind their times
        self._objects: dict[str, Object] = {}  # by path
        self._namespace = namespace
        self._version = 0
        self._written = written
        self._lock = threading.RLock()

    def kube(self) -> Kube:
        return Kube(self, self._namespace, attempts=1)

    def put(self, kind: Kind, body: Object) -> Object:
        """Makes or changes an object behind everybody's back, as the cluster's own controllers do."""
        with self._lock:
            path = f"/{kind.api}/namespaces/{self._namespace}/{kind.plural}/{body['metadata']['name']}"
            return self._keep(path, _merged(self._objects.get(path, {}), body))

    def remove(self, kind: Kind, name: str) -> None:
        with self._lock:
            self._delete(f"/{kind.api}/namespaces/{self._namespace}/{kind.plural}/{name}")

    def names(self, kind: Kind) -> list[str]:
        return [path.rpartition("/")[2] for path in sorted(self._objects) if path.split("/")[-2] == kind.plural]

    def send(self, request: Request, *, timeout_s: float) -> Response:
        with self._lock:
            self.requests.append(request)
            if self.down:
                raise errors.Unavailable("The fake API server is down.")
            if self.answers:
                return self.answers.pop(0)
            if request.path.endswith("/log"):
                return self._log(request)
            return getattr(self, f"_{request.method.lower()}")(request)  # type: ignore[no-any-return]

    def _get(self, request: Request) -> Response:
        if request.path in self._objects:
            return _ok(self._objects[request.path])
        if request.path.split("/")[-2] != self._namespace:
            return _refusal(404, "NotFound", f"{request.path} not found")
        found = [one for path, one in sorted(self._objects.items()) if path.rpartition("/")[0] == request.path]
        return _ok({"items": [one for one in found if _selected(one, request)], "metadata": {}})

    def _post(self, request: Request) -> Response:
        assert request.body is not None
        path = f"{request.path}/{request.body['metadata']['name']}"
        if path in self._objects:
            return _refusal(409, "AlreadyExists", f"{path} already exists")
        meta = {"uid": str(uuid.uuid4()), "creationTimestamp": datetime.now(UTC).isoformat(), **request.body["metadata"]}
        created = self._keep(path, {**request.body, "metadata": meta})
        self._written(created)
        return _ok(self._objects.get(path, created), 201)

    def _put(self, request: Request) -> Response:
        assert request.body is not None
        known = self._objects.get(request.path)
        if known is None:
            return _refusal(404, "NotFound", f"{request.path} not found")
        if request.body["metadata"].get("resourceVersion") != known["metadata"]["resourceVersion"]:
            return _refusal(409, "Conflict", "the object has been modified")
        return _ok(self._keep(request.path, request.body))

    def _patch(self, request: Request) -> Response:
        assert request.body is not None
        known = self._objects.get(request.path)
        if known is None:
            return _refusal(404, "NotFound", f"{request.path} not found")
        return _ok(self._keep(request.path, _merged(known, request.body)))

    def _delete(self, request: Request | str) -> Response:
        path = request if isinstance(request, str) else request.path
        known = self._objects.get(path)
        if known is None:
            return _refusal(404, "NotFound", f"{path} not found")
        wanted = {} if isinstance(request, str) else (request.body or {}).get("preconditions", {})
        if wanted.get("uid") not in (None, known["metadata"].get("uid")):
            return _refusal(409, "Conflict", "the uid is another")
        del self._objects[path]
        for other, one in list(self._objects.items()):
            if any(owner["uid"] == known["metadata"].get("uid") for owner in one["metadata"].get("ownerReferences", ())):
                self._delete(other)
        return _ok({"kind": "Status", "status": "Success"})

    def _log(self, request: Request) -> Response:
        pod = request.path.split("/")[-2]
        if pod not in self.logs:
            return _refusal(400, "BadRequest", f'container "main" in pod "{pod}" is waiting to start')
        since = request.query.get("sinceTime", "").removesuffix("Z")
        lines = [line for line in self.logs[pod].splitlines(keepends=True) if line[: len(since)] >= since]
        return Response(200, "".join(lines).encode()[: int(request.query.get("limitBytes", 1 << 30))])

    def _keep(self, path: str, body: Object) -> Object:
        self._version += 1
        body = json.loads(json.dumps(body))
        body["metadata"]["resourceVersion"] = str(self._version)
        self._objects[path] = body
        return body


def _ok(body: Object, status: int = 200) -> Response:
    return Response(status, json.dumps(body).encode())


def _refusal(status: int, reason: str, message: str) -> Response:
    return Response(status, json.dumps({"kind": "Status", "reason": reason, "message": message}).encode())


def _merged(known: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict) or not isinstance(known, dict):
        return patch
    merged = {name: _merged(known.get(name), value) for name, value in patch.items() if value is not None}
    return {name: value for name, value in known.items() if name not in patch} | merged


def _selected(one: Object, request: Request) -> bool:
    labels = one["metadata"].get("labels", {})
    wanted = [term.partition("=")[::2] for term in request.query.get("labelSelector", "").split(",") if term]
    fields = [term for term in request.query.get("fieldSelector", "").split(",") if term]
    return all(labels.get(name) == value for name, value in wanted) and all(_field(one, term) for term in fields)


def _field(one: Object, term: str) -> bool:
    path, _, value = term.partition("=")
    found: Any = one
    for name in path.removesuffix("!").split("."):
        found = found.get(name, "") if isinstance(found, dict) else ""
    return (found == value) is not path.endswith("!")
