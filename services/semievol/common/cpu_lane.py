"""One thread of this process for all tensor work on the CPU.

OpenMP gives every thread that computes a pool of its own. Once the pools together have more threads than the machine has cores, idle
workers sleep after each operation instead of spinning, and one layer's dozens of small operations each pay for waking them: on two
cores training beside a loaded model was two to ten times slower. With one computing thread there is one pool, and work
that arrives from several rooms of one process takes turns, a batch or an update at a time, instead of fighting for cores.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
_starting = threading.Lock()
_lane: threading.Thread | None = None


def on_cpu_lane(work: Callable[[], T]) -> T:
    """work() on the lane, in order of arrival; returns or raises what it does. In the lane itself it is a plain call."""
    _start()
    if threading.current_thread() is _lane:
        return work()
    future: Future[T] = Future()
    _work.put((work, future))
    return future.result()


def lane_of(device: str) -> Callable[[Callable[[], T]], T]:
    """How to run tensor work for a device ("cpu", "cuda", ...): a GPU orders its own work."""
    return on_cpu_lane if device == "cpu" else _in_place


def _in_place(work: Callable[[], T]) -> T:
    return work()


def _start() -> None:
    global _lane
    with _starting:
        if _lane is None:
            _lane = threading.Thread(target=_serve, name="cpu-lane", daemon=True)
            _lane.start()


def _serve() -> None:
    while True:
        work, future = _work.get()
        try:
            result = work()
        except BaseException as error:  # raised where the work was asked for
            future.set_exception(error)
        else:
            future.set_result(result)
        del work, future  # or the last work's tensors would live until the next
