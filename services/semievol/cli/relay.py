"""A port of this machine whose connections are carried on by something else, each by a stream of its own: the near half of a port-forward."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from semievol.common import errors

log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 16


class Stream(Protocol):
    """What a socket does, as far as it is used here."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


class Listener:
    """Listens on 127.0.0.1 while it is entered, at `address`. `connect` makes the far side of a connection, and may take its time: what the near
    side sends waits. Where it raises one of our errors, the connection is closed, and `problem` is that error until another one is made."""

    def __init__(self, connect: Callable[[], Stream]) -> None:
        self._connect = connect
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._socket.getsockname()[:2])
        self.problem: errors.SemiEvolError | None = None
        self._open: set[Stream] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Listener:
        threading.Thread(target=self._accept, name="port-forward", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends all connections."""
        with self._lock:
            self._closed = True
            streams = list(self._open)
        for stream in [self._socket, *streams]:
            _shut(stream)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:  # closed
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._carry, args=(near,), name="port-forward-connection", daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        try:
            far = self._connect()
        except errors.SemiEvolError as error:
            log.info("A connection could not be carried on: %s", error.message)
            self.problem = error
            near.close()
            return
        self.problem = None
        with self._lock:
            closed = self._closed
            if not closed:
                self._open |= {near, far}
        if not closed:
            back = threading.Thread(target=_pump, args=(far, near), name="port-forward-back", daemon=True)
            back.start()
            _pump(near, far)
            back.join()
        with self._lock:
            self._open -= {near, far}
        for stream in (near, far):
            with contextlib.suppress(OSError):
                stream.close()


def _pump(source: Stream, sink: Stream) -> None:
    """Until one side ends: then both do. (gRPC never closes one direction alone.)"""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
    for stream in (source, sink):
        _shut(stream)


def _shut(stream: Stream) -> None:
    """Wakes whoever reads from it."""
    with contextlib.suppress(OSError):
        stream.shutdown(socket.SHUT_RDWR)
