"""An HTTP proxy in front of a real server, on loopback: it counts the requests, and lets those go wrong that it is told to."""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Fault = Literal["busy", "full", "reset", "lost", "cut", "hang"]
_HANG_S = 3.0
_CODES = {"busy": (503, "SlowDown"), "full": (507, "XMinioStorageFull")}


@dataclass
class Rule:
    """What goes wrong with the next `times` requests of this method whose path or query contains `part`.

    busy, full: an error is answered; reset: the connection breaks before the request is passed on; lost: after it was done; cut: in the
    middle of the answer's body; hang: nothing is answered for some seconds."""

    fault: Fault
    method: str
    part: str
    times: int


class Proxy:
    def __init__(self, address: str) -> None:
        self._target = address
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._every = 0
        self._cycle: Iterator[Fault] = iter(())
        self.requests: list[str] = []  # "GET /bucket/path?query"
        self.faults = 0

    def fail(self, fault: Fault, method: str = "", part: str = "", times: int = 1) -> None:
        with self._lock:
            self._rules.append(Rule(fault, method, part, times))

    def fail_every(self, nth: int, *faults: Fault) -> None:
        """From now on every nth request goes wrong, by these faults in turn."""
        with self._lock:
            self._every, self._cycle = nth, itertools.cycle(faults)

    def calm(self) -> None:
        """Nothing goes wrong from now on."""
        with self._lock:
            self._rules.clear()
            self._every = 0

    def seen(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append(f"{method} {path}")
            for rule in self._rules:
                if rule.times > 0 and rule.method in ("", method) and rule.part in path:
                    rule.times -= 1
                    self.faults += 1
                    return rule.fault
            if self._every and len(self.requests) % self._every == 0:
                self.faults += 1
                return next(self._cycle)
        return None

    def forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._target, timeout=60)
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():  # Host is signed: it stays the proxy's
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:  # the client has gone
            self.close_connection = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        fault = self.server.proxy.seen(self.command, self.path)
        if fault in ("busy", "full"):
            status, code = _CODES[fault]
            self._answer(status, [("Content-Type", "application/xml")], f"<Error><Code>{code}</Code></Error>".encode())
            return
        if fault == "hang":
            time.sleep(_HANG_S)
        if fault == "reset":
            return self._break()
        reply = self.server.proxy.forward(self, body)
        data = reply.read()
        if fault == "lost":
            return self._break()
        headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in ("transfer-encoding", "connection")]
        self._answer(reply.status, headers, data, cut=fault == "cut")

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        known = {name.lower() for name, _ in headers}
        for name, value in headers:
            self.send_header(name, value)
        if "content-length" not in known:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self._break()

    def _break(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a polite end
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was broken on purpose is nothing to write about."""


@contextmanager
def proxied(endpoint: str) -> Iterator[tuple[str, Proxy]]:
    """(the proxy's endpoint, the proxy)"""
    proxy = Proxy(endpoint.removeprefix("http://"))
    server = _Server(proxy)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="proxy")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
