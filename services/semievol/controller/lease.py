"""Who acts among the replicas of the controller: the holder of a Lease. Only that one drives runs; the others answer what can be read.

It decides who does the work, not what counts: a holder that was paused and wakes up late finds by its own clock that its time is over, and what it
was writing at that very moment is fenced by the conditional create of the store (R3).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from semievol.common import errors
from semievol.common.kube import LEASE, Clock, Kube, Object, reference, uptime

log = logging.getLogger(__name__)

_RENEWALS = 3  # in the time that a holder may be silent
ADDRESS = "semievol.dev/address"  # annotation of the Lease: where its holder is called
_NOBODY = ("none has been chosen yet", "")
_QUICKER = (errors.Conflict, errors.AlreadyExists)  # somebody else was


class Elector:
    """Holds the Lease, or waits for it, on a thread of its own. `changed` is called on that thread when this replica begins or ceases to act.
    `address`: where others call this replica, HOST:PORT, which it writes beside its name; empty: they cannot.

    One request a renewal, two where somebody else's hold ends. `owner`: the Deployment that a Lease made here goes with. `duration_s`: how long a
    holder that has gone silent counts; measured from when its last change was *seen*, by the watcher's own clock, since those of machines differ.
    """

    def __init__(
        self,
        kube: Kube,
        name: str,
        identity: str,
        *,
        address: str = "",
        owner: Callable[[], Object | None] = lambda: None,
        duration_s: float = 30.0,
        changed: Callable[[], None] = lambda: None,
        clock: Clock = uptime,
    ) -> None:
        self._kube, self._name, self._identity = kube, name, identity
        self._address = address
        self._owner = owner
        self._duration_s = duration_s
        self._changed = changed
        self._clock = clock
        self._held_until = float("-inf")
        self._holds = 0  # how often it began to be held: a hold may lapse and come back between two looks of whoever cares
        self._other = _NOBODY
        self._seen: tuple[str, float] = ("", float("-inf"))  # the Lease's version that was seen last, and when it was new
        self._mine: Object | None = None  # as last written
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def leader(self) -> str:
        """Which other replica acts; empty: this one does, by a hold that is not over."""
        return self.acting()[0]

    def acting(self) -> tuple[str, str]:
        """(which other replica acts, its address if that is known); both are empty where this one does."""
        return ("", "") if self._clock() < self._held_until else self._other

    def start(self, changed: Callable[[], None] | None = None) -> None:
        """Tries once at once. Raises what the API says no with: a missing role should be known at the start."""
        self._changed = changed or self._changed
        with contextlib.suppress(*_QUICKER):
            self.look()
        self._thread.start()

    def stop(self) -> None:
        """Gives the Lease back, so that the next one need not wait for it."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.leader():
            return
        self._held_until = float("-inf")
        try:
            self._write(self._body("", self._mine))
        except errors.SemiEvolError as error:
            log.warning("The lease %s was not given back: %s", self._name, error.message)

    def look(self) -> None:
        """Renews the Lease, takes it where it is free, or sees who has it. Raises what the API answers."""
        if self._mine is not None and not self.leader():
            try:
                self._take(self._mine)
                return
            except errors.Conflict:  # somebody else took it, or it is gone
                self._mine = None
            except errors.NotFound:
                self._mine = None
        try:
            there = self._kube.get(LEASE, self._name)
        except errors.NotFound:
            self._take(None)
            return
        if self._free(there):
            self._take(there)

    def _keep(self) -> None:
        before = self._hold()
        if before[0]:
            self._changed()
        while not self._stop.wait(self._duration_s / _RENEWALS):
            try:
                self.look()
            except _QUICKER:
                pass
            except errors.SemiEvolError as error:
                log.warning("The lease %s: %s", self._name, error.message)
            if (now := self._hold()) != before:
                before = now
                log.info("%s %s", self._identity, "acts from now on" if now[0] else f"no longer acts; {self._other[0]}")
                self._changed()

    def _hold(self) -> tuple[bool, int]:
        """(whether this replica acts, by which hold of its own)."""
        return not self.leader(), self._holds

    def _free(self, there: Object) -> bool:
        """Whether nobody holds it: it was given back, it is ours from before, or its holder has been silent for too long."""
        holder, version = there["spec"].get("holderIdentity") or "", there["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, self._clock())
        self._other = (holder, _annotations(there).get(ADDRESS, "")) if holder else _NOBODY
        silent_s = self._clock() - self._seen[1]
        return holder in ("", self._identity) or silent_s > float(there["spec"].get("leaseDurationSeconds") or self._duration_s)

    def _take(self, there: Object | None) -> None:
        asked = self._clock()  # not when the answer comes: others count from when they see the change
        self._write(self._body(self._identity, there))
        self._holds += self._clock() >= self._held_until
        self._held_until = asked + self._duration_s
        self._other = _NOBODY

    def _body(self, holder: str, there: Object | None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict((there or {}).get("spec") or {})
        changes = int(spec.get("leaseTransitions") or 0) + (there is not None and spec.get("holderIdentity") != holder)
        spec |= {
            "holderIdentity": holder,
            "leaseDurationSeconds": round(self._duration_s),
            "renewTime": now,
            "leaseTransitions": changes,
        }
        meta = {name: value for name, value in there["metadata"].items() if name != "managedFields"} if there else self._new()
        others = {name: value for name, value in _annotations(there).items() if name != ADDRESS}
        where = {ADDRESS: self._address} if holder and self._address else {}
        meta["annotations"] = others | where
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}

    def _new(self) -> Object:
        owner = self._owner()
        owners = {"ownerReferences": [reference("apps/v1", "Deployment", owner)]} if owner else {}
        return {"name": self._name, **owners}

    def _write(self, body: Object) -> None:
        new = "resourceVersion" not in body["metadata"]
        self._mine = self._kube.create(LEASE, body) if new else self._kube.replace(LEASE, body)


def _annotations(there: Object | None) -> dict[str, str]:
    return dict((there or {}).get("metadata", {}).get("annotations") or {})
