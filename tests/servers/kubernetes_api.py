"""A double of a cluster's API server, over HTTP and websockets: objects as `FakeApiServer` keeps them, and port-forwards to ports of this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from semievol.cli.release import SECRET, SERVICE
from semievol.common.kube import POD, Request
from semievol.common.kube_fake import FakeApiServer

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_BINARY, _CLOSE = 2, 8


class Cluster:
    """`objects` are those of the namespace "test". `ports`: where a pod's port really is; `forbidden`: plurals that may not be read."""

    def __init__(self) -> None:
        self.objects = FakeApiServer()
        self.ports: dict[str, int] = {}
        self.forbidden: set[str] = set()
        self.forwards: list[tuple[str, str]] = []  # pod, port that was asked for
        self._connections: dict[str, list[socket.socket]] = {}

    def install(
        self, component: str, port: int, *, release: str = "demo", address: str, spec: dict[str, Any] | None = None
    ) -> str:
        """A component with one ready pod, whose port is really at `address`. The pod's name."""
        names = {"name": "semievol", "instance": release, "component": component}
        labels = {f"app.kubernetes.io/{name}": value for name, value in names.items()}
        service = f"{release}-{component}"
        ports = [{"name": "grpc", "port": port, "targetPort": "grpc"}]
        for name, ip in ((service, "10.0.0.1"), (f"{service}-headless", "None")):
            meta = {"name": name, "labels": labels, "namespace": "test"}
            self.objects.put(SERVICE, {"metadata": meta, "spec": {"selector": labels, "ports": ports, "clusterIP": ip}})
        return self.start(f"{service}-1", labels, port, address, spec)

    def start(self, pod: str, labels: dict[str, str], port: int, address: str, spec: dict[str, Any] | None = None) -> str:
        container = {"name": "main", "ports": [{"name": "grpc", "containerPort": port}]}
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        made = {"containers": [container | (spec or {}).get("container", {})], "volumes": (spec or {}).get("volumes", [])}
        self.objects.put(POD, {"metadata": {"name": pod, "labels": labels}, "spec": made, "status": status})
        self.ports[pod] = int(address.rpartition(":")[2])
        return pod

    def kill(self, pod: str) -> None:
        """Gone, and its connections with it."""
        self.objects.remove(POD, pod)
        for connection in self._connections.pop(pod, []):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def break_off(self, pod: str) -> None:
        """Its connections are reset, as when the API server itself dies."""
        for connection in self._connections.pop(pod, [])[::2]:  # the near sides
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RD)  # wakes its reader

    def hold(self, secret: str, **data: str) -> None:
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}
        self.objects.put(SECRET, {"metadata": {"name": secret}, "data": encoded})

    def forward(self, pod: str, port: str, near: socket.socket) -> None:
        """One port-forward, over a websocket whose handshake is done, until one side ends."""
        self.forwards.append((pod, port))
        far = socket.create_connection(("127.0.0.1", self.ports[pod]))
        self._connections.setdefault(pod, []).extend([near, far])
        for channel in (0, 1):  # data and errors each begin with the port
            _send(near, bytes([channel]) + struct.pack("<H", int(port)))
        back = threading.Thread(target=_copy_back, args=(far, near), daemon=True)
        back.start()
        with contextlib.suppress(OSError, EOFError):
            while (payload := _receive(near)) is not None:
                far.sendall(payload[1:])
        if near.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER):
            os.close(near.detach())  # reset
        for one in (far, near):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        back.join()
        far.close()


@contextmanager
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """A running double; the kubeconfig that is written leads to it, to the namespace "test"."""
    made = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    thread = threading.Thread(target=server.serve_forever, name="kubernetes-api")
    thread.start()
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "double",
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "me", "namespace": "test"}}],
        "clusters": [{"name": "double", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {"token": "token-of-mine"}}],
    }
    kubeconfig.write_text(json.dumps(body))
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(made: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query))
            parts = url.path.split("/")
            plural = parts[-1] if parts[-1] == "portforward" else parts[5] if len(parts) > 5 else parts[-1]
            if plural in made.forbidden or self.headers["Authorization"] != "Bearer token-of-mine":
                self._answer(403, json.dumps({"kind": "Status", "message": f"{plural} is forbidden"}).encode())
            elif plural == "portforward":
                self._upgrade(parts[-2], query["ports"])
            else:
                response = made.objects.send(Request("GET", url.path, query), timeout_s=1)
                self._answer(response.status, response.body)

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _upgrade(self, pod: str, port: str) -> None:
            key = f"{self.headers['Sec-WebSocket-Key']}{_GUID}"
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
            self.end_headers()
            self.close_connection = True
            made.forward(pod, port, self.connection)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


# ---------------------------------------------------------------- frames of RFC 6455


def _send(stream: socket.socket, payload: bytes) -> None:
    size = len(payload)
    head = bytes([0x80 | _BINARY]) + (bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size))
    stream.sendall(head + payload)


def _copy_back(far: socket.socket, near: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := far.recv(1 << 15):
            _send(near, b"\x00" + piece)
    with contextlib.suppress(OSError):
        near.shutdown(socket.SHUT_RDWR)


def _receive(stream: socket.socket) -> bytes | None:
    """The next message; None at the end."""
    first, second = _exactly(stream, 2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", _exactly(stream, 2))
    elif size == 127:
        (size,) = struct.unpack(">Q", _exactly(stream, 8))
    mask = _exactly(stream, 4)  # clients always mask
    payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(_exactly(stream, size)))
    return None if first & 0x0F == _CLOSE else payload


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
