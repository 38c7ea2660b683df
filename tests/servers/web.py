"""What the HTTP doubles have in common: a real server on a free port of loopback that can die, come back, and be told to misbehave."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What goes over the wire. `body`: bytes as they are, a string as text, anything else as JSON."""

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""  # content type; empty: what fits the body
    delay_s: float = 0.0
    hang_up: bool = False  # close the connection without a word
    lines: tuple[str, ...] | None = None  # a stream of server-sent events instead of a body

    def encoded(self) -> tuple[bytes, str]:
        if isinstance(self.body, bytes):
            return self.body, self.kind
        if isinstance(self.body, str):
            return self.body.encode(), self.kind or "text/plain; charset=utf-8"
        return json.dumps(self.body).encode(), self.kind or "application/json"


@dataclass(frozen=True)
class Call:
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class HttpDouble:
    """Subclasses answer. `faults`: answers for the next calls of a path, given instead of the right ones; `calls`: what came;
    `trap`: gets every call before it is answered, to do something to the server just then."""

    def __init__(self) -> None:
        self.faults: dict[str, deque[Answer]] = {}
        self.calls: list[Call] = []
        self.trap: Callable[[Call], None] | None = None
        self._awake = threading.Event()
        self._awake.set()
        self._server: ThreadingHTTPServer | None = None
        self.connections: set[socket.socket] = set()
        self._port = 0

    def answer(self, call: Call) -> Answer:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def fail(self, path: str, *answers: Answer) -> None:
        """The next calls of this path get these answers."""
        self.faults.setdefault(path, deque()).extend(answers)

    def called(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def start(self) -> None:
        """Listens; again at the same port after `die`."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def die(self) -> None:
        """Every connection breaks at once, and the port is closed."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """From now on calls are taken and not answered."""
        self._awake.clear()

    def wake(self) -> None:
        """Answers again, late calls too."""
        self._awake.set()

    @property
    def hanging(self) -> bool:
        return not self._awake.is_set()

    def wait_while_hanging(self) -> None:
        self._awake.wait()

    @contextmanager
    def running(self) -> Iterator[Any]:
        self.start()
        try:
            yield self
        finally:
            self.wake()
            self.die()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], double: HttpDouble) -> None:
        self.double = double
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; else the second waits for the client's delayed ACK

    def setup(self) -> None:
        super().setup()
        self.server.double.connections.add(self.connection)

    def finish(self) -> None:
        self.server.double.connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        double = self.server.double
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = Call(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        double.calls.append(call)
        if double.trap is not None:
            double.trap(call)
        double.wait_while_hanging()
        waiting = double.faults.get(call.path)
        try:
            answer = waiting.popleft() if waiting else double.answer(call)
        except Exception as error:  # the double's own bug: the test shall see it
            answer = Answer(599, f"the double failed: {error!r}")
        time.sleep(answer.delay_s)
        with suppress(OSError):  # the client has gone
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        if answer.hang_up:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.lines is not None:
            self._stream(answer.lines)
            return
        data, kind = answer.encoded()
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, lines: tuple[str, ...]) -> None:
        self.close_connection = True
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"data: {line}\n\n".encode())
            self.wfile.flush()
