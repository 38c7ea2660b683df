"""Work of a test double that goes on until somebody cancels it."""

from __future__ import annotations

import threading
import time

from semievol.common import errors
from semievol.ports import Cancel


class StoppableWork:
    """To be mixed into a fake: works until it is told to stop, or for ten seconds. `started` and `cancelled` say what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.cancelled = threading.Event()

    def work(self, cancel: Cancel) -> None:
        self.started.set()
        for _ in range(200):
            if cancel.is_set():
                self.cancelled.set()
                raise errors.Cancelled("Stopped.")
            time.sleep(0.05)
