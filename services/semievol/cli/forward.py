"""A way from this machine to a release on a cluster, by kubeconfig: each connection to a local port is carried to a pod that is ready then.

A pod that goes away ends its connections; the next one finds its successor, so that a client that connects again goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from semievol.cli import release
from semievol.cli.options import Cluster
from semievol.cli.relay import Listener, Stream
from semievol.common import errors
from semievol.common.kube import ClientTransport, Kube, Object, Request, api_client
from semievol.common.security import Access

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

log = logging.getLogger(__name__)

_POD_S = 15.0  # how long a connection waits for a pod that is ready; gRPC gives a connection 20 s
_LOOK_S = 5.0  # at other namespaces, for a hint
_HANDSHAKE = re.compile(r"Handshake status (?P<status>\d{3}) (?P<words>[^-]*)")

_CARRIER = "Kubernetes port forward proxy"  # how the client names its threads

Open = Callable[[Object], Stream]


@contextlib.contextmanager
def forwarded(cluster: Cluster, component: str) -> Iterator[tuple[str, Access]]:
    """The local address of a component, `controller` or `router`, and what opens it.

    Raises NotFound (no release), InvalidInput (kubeconfig, which of several), NotAllowed (in the API server's words), Unavailable (the API server,
    or no pod is ready), NotSupported (no Kubernetes client installed)."""
    # KUBECONFIG counts in a pod, too, whose service account would otherwise be used
    client, namespace = api_client(cluster.kubeconfig or os.environ.get("KUBECONFIG", ""), cluster.context)
    transport = ClientTransport(client)
    kube = Kube(transport, cluster.namespace or namespace or "default")
    found = _found(kube, transport, component, cluster.release)
    pod = found.ready_pod(_POD_S)
    access = found.access(pod)
    with Forwards(client, kube.namespace) as forwards:
        tunnel = Tunnel(found, lambda pod: forwards.open(pod, found.port_of(pod)), first=pod, wait_s=_POD_S)
        with tunnel, Listener(tunnel.connect) as listener:
            try:
                yield listener.address, access
            except errors.Unavailable as error:
                if listener.problem is not None:  # the reason, where the client saw a closed connection
                    raise listener.problem from error
                raise


def _found(kube: Kube, transport: ClientTransport, component: str, name: str) -> release.Component:
    try:
        return release.find(kube, component, name)
    except errors.NotFound:
        return release.find(kube, component, name, _namespaces(transport, component))


def _namespaces(transport: ClientTransport, component: str) -> list[str]:
    """Those that have the component, as far as the user may know."""
    selector = ",".join(f"{name}={value}" for name, value in release.labels(component).items())
    try:
        response = transport.send(Request("GET", "/api/v1/services", {"labelSelector": selector}), timeout_s=_LOOK_S)
        return sorted({one["metadata"]["namespace"] for one in json.loads(response.body).get("items") or ()})
    except (errors.SemiEvolError, ValueError):
        return []


class Tunnel:
    """Streams to a component's pods. One is opened at once, to the pod `first`, so that what is not allowed is known before anything waits."""

    def __init__(self, component: release.Component, open_to: Open, *, first: Object, wait_s: float) -> None:
        self._component = component
        self._open = open_to
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self._first: Stream | None = open_to(first)

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *error: object) -> None:
        if self._first is not None:
            self._first.close()

    def connect(self) -> Stream:
        """Waits a while for a pod that is ready. Raises Unavailable, NotAllowed."""
        with self._lock:
            first, self._first = self._first, None
        if first is not None:
            return first
        until = time.monotonic() + self._wait_s
        while True:
            try:
                return self._open(self._component.ready_pod())
            except (errors.Unavailable, errors.NotFound):  # NotFound: it went away in between
                if time.monotonic() >= until:
                    raise
            time.sleep(release.LOOK_EVERY_S)


class Forwards:
    """Connections to ports of pods through the API server, by the official client, while it is entered.

    The client carries each one by a thread, which dies with a traceback and leaves its stream open where the connection to the API server breaks
    off. Here the stream ends then, and nothing is printed."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._lock = threading.Lock()  # threads are told from those that were there before
        self._streams: weakref.WeakKeyDictionary[threading.Thread, Stream] = weakref.WeakKeyDictionary()
        self._hook = threading.excepthook

    def __enter__(self) -> Forwards:
        self._hook, threading.excepthook = threading.excepthook, self._broken_off
        return self

    def __exit__(self, *error: object) -> None:
        threading.excepthook = self._hook

    def open(self, pod: Object, port: int) -> Stream:
        """Raises NotAllowed, NotFound, Unavailable."""
        from kubernetes.client import ApiClient, CoreV1Api
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream import portforward

        name = pod["metadata"]["name"]
        # a client of its own: the call puts something else in place of its method `call_api` while it lasts
        api = CoreV1Api(ApiClient(self._client.configuration))
        with self._lock:
            before = set(threading.enumerate())
            try:
                forward: Any = portforward(api.connect_get_namespaced_pod_portforward, name, self._namespace, ports=str(port))
            except ApiException as error:
                raise _refused(error, f"{self._namespace}/{name}") from error
            stream: Stream = forward.socket(port)
            for thread in set(threading.enumerate()) - before:
                if thread.name.startswith(_CARRIER):
                    self._streams[thread] = stream
        return stream

    def _broken_off(self, args: threading.ExceptHookArgs) -> None:
        stream = self._streams.get(args.thread) if args.thread else None
        if stream is None:
            self._hook(args)
            return
        log.info("A port-forward broke off: %s", args.exc_value)
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)


def _refused(error: Any, pod: str) -> errors.SemiEvolError:
    """The handshake's answer, whose status stands only in a text."""
    said = _HANDSHAKE.search(str(error.reason))
    status = int(said["status"]) if said else 0
    if status in (401, 403):
        return errors.NotAllowed(
            f"You may not forward ports to the pod {pod}: ask for the right to get and create pods/portforward."
        )
    if status == 404:
        return errors.NotFound(f"The pod {pod} is gone.")
    words = f"{status} {said['words'].strip()}" if said else errors.first_line(error.reason)
    return errors.Unavailable(f"No port can be forwarded to the pod {pod} ({words}).", field="pod")
