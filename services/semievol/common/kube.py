"""The Kubernetes API, as plain JSON over the official client: that brings configuration, TLS and tokens; deadlines, bounded retries and our
errors are here. Plain JSON, since what is listed every second is not worth a model object a field, and nothing that a newer server says is lost.

    Kube  --Request-->  Transport    ClientTransport: the official client    FakeApiServer (common.kube_fake): a test's memory
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

import semievol
from semievol.common import errors
from semievol.common.endpoints import pause

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

log = logging.getLogger(__name__)

Object = dict[str, Any]

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECT_S, _ANSWER_S = 5.0, 30.0
_ATTEMPTS = 5  # about eight seconds of pauses: as long as an API server takes to hand over to its neighbour
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_PAGE = 500


class KubernetesSettings(BaseSettings):
    """Environment variables SEMIEVOL_KUBERNETES_<FIELD>; the controller and the training service read them."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_KUBERNETES_", frozen=True)

    namespace: str = ""
    """Where Jobs, pods and ConfigMaps are made; empty: the service account's own namespace, or the context's."""

    owner: str = ""
    """The Deployment that owns the runs' ConfigMaps, so that they go with the release; empty: nobody does."""

    templates: Path = Path("/etc/semievol/jobs/templates.yaml")
    """What Jobs look like, by kind (`step`, `training`); see launchers.kubernetes_objects."""

    kubeconfig: str = ""
    """A kubeconfig file, outside of a cluster; empty: the pod's service account where there is one, else the usual file."""

    context: str = ""
    """Its context; empty: the current one."""

    lease: str = ""
    """The Lease that says which replica of the controller acts; empty: this one does, and it is the only one."""

    lease_s: float = Field(30.0, ge=5, le=600)
    """How long a leader that has gone silent still counts. A third of it passes between two renewals: at 30 s, six requests a minute."""

    poll_s: float = Field(1.0, gt=0, le=60)
    """Seconds between two looks at the Jobs, while any is at work: one request for all of them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of namespaced object. `api`: `api/v1`, `apis/batch/v1`."""

    api: str
    plural: str


JOB = Kind("apis/batch/v1", "jobs")
POD = Kind("api/v1", "pods")
EVENT = Kind("api/v1", "events")
CONFIG_MAP = Kind("api/v1", "configmaps")
DEPLOYMENT = Kind("apis/apps/v1", "deployments")
LEASE = Kind("apis/coordination.k8s.io/v1", "leases")


@dataclass(frozen=True, slots=True)
class Request:
    """`path` begins with a slash and holds no query."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Object | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """Any answer of the API server, whatever its status. `retry_after_s`: 0 where it does not say."""

    status: int
    body: bytes
    retry_after_s: float = 0.0


class Transport(Protocol):
    """Sends one request, once."""

    def send(self, request: Request, *, timeout_s: float) -> Response:
        """Raises Unavailable where there is no answer."""
        ...


NAME, INSTANCE, COMPONENT = (f"app.kubernetes.io/{label}" for label in ("name", "instance", "component"))


def condition(one: Object, kind: str) -> Object | None:
    """The condition of this type, if it holds."""
    found = (one.get("status") or {}).get("conditions") or ()
    return next((entry for entry in found if entry["type"] == kind and entry["status"] == "True"), None)


def reference(api_version: str, kind: str, owner: Object) -> Object:
    """An entry of ownerReferences: what has it goes when the owner goes."""
    meta = owner["metadata"]
    return {"apiVersion": api_version, "kind": kind, "name": meta["name"], "uid": meta["uid"]}


class Kube:
    """Objects of one namespace. Safe to share between threads. `attempts` bounds how often a request is sent, `timeout_s` how long an answer may
    take to begin.

    All requests may be repeated: names are given by us, so a second creation is AlreadyExists; replacements carry a resource version.
    """

    def __init__(self, transport: Transport, namespace: str, *, attempts: int = _ATTEMPTS, timeout_s: float = _ANSWER_S) -> None:
        self.namespace = namespace
        self._timeout_s = timeout_s
        self._transport = transport
        self._attempts = attempts

    def get(self, kind: Kind, name: str) -> Object:
        """Raises NotFound."""
        return self._json(Request("GET", self._path(kind, name)), f"read {kind.plural} {name}")

    def cluster_list(self, path: str) -> list[Object]:
        """Objects that are in no namespace (`/api/v1/nodes`), the first page of them. Raises NotAllowed, as a rule: that takes a ClusterRole."""
        found: list[Object] = self._json(Request("GET", path, {"limit": str(_PAGE)}), f"list {path}").get("items") or []
        return found

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None, *, fields: str = "") -> list[Object]:
        """All objects with these labels, read in pages. `fields`: a field selector."""
        query = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
        if fields:
            query["fieldSelector"] = fields
        found: list[Object] = []
        while True:
            page = self._json(Request("GET", self._path(kind), query), f"list {kind.plural}")
            found += page.get("items") or []
            following = page.get("metadata", {}).get("continue")
            if not following:
                return found
            query = {**query, "continue": following}

    def create(self, kind: Kind, body: Object) -> Object:
        """Raises AlreadyExists, InvalidInput, NotAllowed (by role, quota or pod security)."""
        return self._json(Request("POST", self._path(kind), body=body), f"create {kind.plural} {body['metadata']['name']}")

    def replace(self, kind: Kind, body: Object) -> Object:
        """Where the object still has this body's resource version. Raises Conflict, NotFound."""
        name = body["metadata"]["name"]
        return self._json(Request("PUT", self._path(kind, name), body=body), f"replace {kind.plural} {name}")

    def patch(self, kind: Kind, name: str, body: Object) -> Object:
        """A merge patch. Raises NotFound."""
        request = Request("PATCH", self._path(kind, name), body=body, content_type="application/merge-patch+json")
        return self._json(request, f"change {kind.plural} {name}")

    def delete(self, kind: Kind, name: str, *, uid: str = "", foreground: bool = False) -> None:
        """With what it owns; `foreground`: the object itself goes last. What is not there (under this uid) is no error."""
        policy = "Foreground" if foreground else "Background"
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._json(Request("DELETE", self._path(kind, name), body=body), f"delete {kind.plural} {name}")
        except (errors.NotFound, errors.Conflict):
            return

    def log(self, pod: str, container: str, *, since: str = "", limit_bytes: int = 4 << 20) -> str:
        """What a container wrote, each line behind its time; `since` is a time in whole seconds. Raises NotFound, InvalidInput (not begun)."""
        query = {"container": container, "timestamps": "true", "limitBytes": str(limit_bytes)}
        if since:
            query["sinceTime"] = since
        request = Request("GET", f"{self._path(POD, pod)}/log", query)
        return self._send(request, f"read the log of pod {pod}").body.decode(errors="replace")

    def _path(self, kind: Kind, name: str = "") -> str:
        return f"/{kind.api}/namespaces/{self.namespace}/{kind.plural}" + (f"/{name}" if name else "")

    def _json(self, request: Request, action: str) -> Object:
        answer: Object = json.loads(self._send(request, action).body)
        return answer

    def _send(self, request: Request, action: str) -> Response:
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                response = self._transport.send(request, timeout_s=self._timeout_s)
            except errors.Unavailable as error:
                if last:
                    raise errors.Unavailable(f"Cannot {action}: {error.message}", field=error.field) from error
                pause(attempt, _FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                continue
            if response.status < 300:
                return response
            if response.status not in _TRANSIENT or last:
                raise _error(action, response)
            pause(attempt, _FIRST_PAUSE_S, _LONGEST_PAUSE_S, asked_s=response.retry_after_s)
        raise AssertionError


def _error(action: str, response: Response) -> errors.SemiEvolError:
    """Our error for an answer that says no, in the API server's own words."""
    try:
        status = json.loads(response.body)
        said, reason = str(status.get("message", "")), str(status.get("reason", ""))
    except (ValueError, AttributeError):
        said, reason = response.body[:200].decode(errors="replace"), ""
    message = f"Kubernetes refuses to {action}: {said or response.status}"
    if response.status == 401:  # perhaps of a pod that was deleted by force and is still ending: no word about what it was doing
        return errors.NotTrusted(
            f"Cannot {action}: the Kubernetes API does not take our credentials ({said or 'they are not valid'})."
        )
    if response.status == 403:
        return errors.NotAllowed(message)
    if response.status == 404:
        return errors.NotFound(message)
    if response.status == 409:
        return errors.AlreadyExists(message) if reason == "AlreadyExists" else errors.Conflict(message)
    if response.status in (400, 422):
        return errors.InvalidInput(message)
    return errors.Unavailable(f"Cannot {action}: the Kubernetes API answers {response.status} ({said}).")


class ClientTransport:
    """Requests by the official client."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def send(self, request: Request, *, timeout_s: float) -> Response:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json, */*", "Content-Type": request.content_type}
        try:
            ready = self._client.param_serialize(
                request.method,
                request.path,
                query_params=list(request.query.items()),
                header_params=headers,
                body=request.body,
                auth_settings=["BearerToken"],
            )
            answer = self._client.call_api(*ready, _request_timeout=(_CONNECT_S, timeout_s))
            body = bytes(answer.read() or b"")
        except (ApiException, HTTPError, OSError) as error:  # an ApiException of its own making: TLS
            host = self._client.configuration.host
            raise errors.Unavailable(
                f"The Kubernetes API at {host} cannot be reached ({_reason(error)}).", field="Kubernetes"
            ) from error
        return Response(answer.status, body, _seconds(answer.getheader("Retry-After")))


def _reason(error: Exception) -> str:
    return errors.system_reason(error) or errors.first_line(getattr(error, "reason", None) or error)


def _seconds(header: str | None) -> float:
    return float(header) if header and header.isdigit() else 0.0


def connect(settings: KubernetesSettings, *, attempts: int = _ATTEMPTS, timeout_s: float = _ANSWER_S) -> Kube:
    """The API that the settings name. Raises NotSupported (no client installed), InvalidInput (no usable configuration)."""
    client, namespace = api_client(settings.kubeconfig, settings.context)
    transport = ClientTransport(client)
    return Kube(transport, settings.namespace or namespace or "default", attempts=attempts, timeout_s=timeout_s)


def api_client(kubeconfig: str = "", context: str = "") -> tuple[ApiClient, str]:
    """A client of one's own, and the namespace that its configuration names (or empty): in a pod without `kubeconfig` the service account's,
    else a kubeconfig file's. Raises NotSupported, InvalidInput(field=kubeconfig)."""
    try:
        import yaml
        from kubernetes import client, config
    except ImportError as error:
        raise errors.NotSupported("Clusters need a package: pip install 'semievol[kubernetes]'.", field="kubeconfig") from error
    settings = client.Configuration()
    settings.retries = False  # ours are the only ones
    in_cluster = not kubeconfig and not context and _NAMESPACE_FILE.exists()
    try:
        if in_cluster:
            config.load_incluster_config(client_configuration=settings)
            return _named(client.ApiClient(settings)), _NAMESPACE_FILE.read_text().strip()
        file, wanted = kubeconfig or None, context or None
        config.load_kube_config(config_file=file, context=wanted, client_configuration=settings, persist_config=False)
        contexts, active = config.list_kube_config_contexts(file)
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError) as error:
        raise errors.InvalidInput(f"No cluster can be talked to: {errors.first_line(error)}", field="kubeconfig") from error
    chosen = next((one for one in contexts if one["name"] == wanted), active)
    return _named(client.ApiClient(settings)), chosen["context"].get("namespace", "")


def _named(client: ApiClient) -> ApiClient:
    """Who asks, in the API server's audit log and among the managers of a field."""
    client.user_agent = f"semievol/{semievol.__version__}"
    return client


Clock = Callable[[], float]


def uptime() -> float:
    """Seconds since the machine started, those included that it slept through: `time.monotonic` would let a sleeper believe itself young."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
