"""The near half of a port-forward: a local port whose connections are carried on by streams."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest
from semievol.cli.relay import Listener
from semievol.common import errors


def connected(listener: Listener) -> socket.socket:
    host, port = listener.address.split(":")
    made = socket.create_connection((host, int(port)), timeout=20)
    made.settimeout(20)
    return made


class Far:
    """Makes the far sides; the test holds the other ends of them."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.made = threading.Semaphore(0)

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.settimeout(20)
        self.ends.append(theirs)
        self.made.release()
        return ours

    def end(self, number: int) -> socket.socket:
        assert self.made.acquire(timeout=20)
        return self.ends[number]


def test_each_connection_gets_a_stream_of_its_own_and_bytes_go_both_ways() -> None:
    far = Far()
    with Listener(far.connect) as listener:
        first, second = connected(listener), None
        a = far.end(0)
        second = connected(listener)
        b = far.end(1)
        for near, end, word in ((first, a, b"one"), (second, b, b"two")):
            near.sendall(word)
            assert end.recv(10) == word
            end.sendall(word * 2)
            assert near.recv(10) == word * 2


def test_much_goes_through_while_much_comes_back() -> None:
    """Both directions at once, more than any buffer on the way holds: one must not wait for the other."""
    size = 8 << 20
    far = Far()

    def all_of(stream: socket.socket) -> int:
        count = 0
        while count < size and (piece := stream.recv(1 << 16)):
            count += len(piece)
        return count

    with Listener(far.connect) as listener:
        near = connected(listener)
        end = far.end(0)
        writers = [threading.Thread(target=one.sendall, args=(b"x" * size,)) for one in (near, end)]
        got: list[int] = []
        readers = [threading.Thread(target=lambda one=one: got.append(all_of(one))) for one in (near, end)]
        for thread in [*writers, *readers]:
            thread.start()
        for thread in [*writers, *readers]:
            thread.join(60)
        assert got == [size, size]


@pytest.mark.parametrize("side", ["near", "far"])
def test_an_end_on_one_side_ends_the_other(side: str) -> None:
    far = Far()
    with Listener(far.connect) as listener:
        near, end = connected(listener), far.end(0)
        gone, left = (near, end) if side == "near" else (end, near)
        gone.close()
        assert left.recv(1) == b""


def test_a_connection_that_cannot_be_carried_on_is_closed_and_says_why_until_one_can() -> None:
    far = Far()
    answers: list[Callable[[], socket.socket]] = []
    with Listener(lambda: answers.pop(0)()) as listener:

        def fail() -> socket.socket:
            raise errors.Unavailable("No pod is ready.")

        answers.append(fail)
        assert connected(listener).recv(1) == b""
        assert listener.problem is not None
        assert listener.problem.message == "No pod is ready."
        answers.append(far.connect)
        near, end = connected(listener), far.end(0)
        near.sendall(b"x")
        assert end.recv(1) == b"x"
        assert listener.problem is None


def test_leaving_ends_every_connection_and_the_port() -> None:
    far = Far()
    with Listener(far.connect) as listener:
        near, end = connected(listener), far.end(0)
    assert near.recv(1) == b""
    assert end.recv(1) == b""
    with pytest.raises(OSError, match="refused"):
        connected(listener)


def test_it_listens_on_loopback_alone() -> None:
    with Listener(Far().connect) as listener:
        assert listener.address.startswith("127.0.0.1:")
