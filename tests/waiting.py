"""Waiting for what happens elsewhere, and for not longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 60.0, what: str = "waited in vain", *, poll_s: float = 0.02) -> T:
    """What the condition says when it is true; fails the test, saying `what`, if that takes too long."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(poll_s)
    return found
