"""Serving engines that yield: a Deployment is scaled to none while a run needs what it computes on, and back when no run does.

The number of replicas that somebody wished for is kept in an annotation of the Deployment, written by the same request that takes them away: it
cannot be lost with this process, and whoever starts next brings them back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from typing import Literal

from semievol.common import errors
from semievol.common.kube import COMPONENT, DEPLOYMENT, INSTANCE, POD, Kube, Object
from semievol.launchers import kubernetes_objects as objects
from semievol.launchers import kubernetes_states as states
from semievol.launchers.kubernetes_engines import COMPONENT as RUN_ENGINE
from semievol.launchers.kubernetes_engines import accelerators

log = logging.getLogger(__name__)

REPLICAS = "semievol.dev/yielded-replicas"
_LOOK_S = 5.0  # between two looks at whether serving is in the way, or somebody has brought it back
_ATTEMPTS = 5  # of a change that meets another one
_OURS = (RUN_ENGINE, "training", "step")
_AWAY = "The serving engines ({name}) have made room and come back when the run has ended: until then nothing is answered there."

Mode = Literal["auto", "true", "false"]


class DeploymentServing:
    """See `ports.ServingEngines`. `mode`: `true` makes room for every run; `auto` where a pod of a run finds no accelerator of the kind that the
    serving engines hold; `false` never."""

    def __init__(self, kube: Kube, deployment: str, mode: Mode, *, look_s: float = _LOOK_S) -> None:
        self._kube, self._name, self._mode, self._look_s = kube, deployment, mode, look_s
        self._runs: set[str] = set()  # that it has made room for
        self._looked = float("-inf")
        self._note = ""
        self._lock = threading.Lock()

    def yield_to(self, run: str) -> str:
        if self._mode == "false":
            return ""
        with self._lock:
            if self._note:  # away for another run: they stay away for this one, too
                self._runs.add(run)
            if time.monotonic() - self._looked < self._look_s:
                return self._note if run in self._runs else ""
            self._looked = time.monotonic()
            try:
                serving = self._kube.get(DEPLOYMENT, self._name)
                if self._mode == "true" or run in self._runs or self._in_the_way(serving):
                    self._runs.add(run)
                    self._note = _AWAY.format(name=self._name) if self._send_away(serving) else ""
            except errors.SemiEvolError as error:  # whoever finds no room says so
                log.warning("The serving engines do not make room: %s", error.message)
            return self._note if run in self._runs else ""

    def restore(self, run: str) -> None:
        if self._mode == "false":
            return
        with self._lock:
            self._runs.discard(run)
            if not self._runs:
                self._bring_back()

    def recover(self, runs: Collection[str]) -> None:
        if self._mode == "false" and runs:  # turned off during a run: what was taken before is given back all the same
            runs = ()
        with self._lock:
            self._runs = set(runs) if self._has_yielded() else set()
            if not self._runs:
                self._bring_back()

    # -------------------------------------------------------------- the Deployment

    def _in_the_way(self, serving: Object) -> bool:
        """Whether the scheduler says of a pod of a run that it lacks what these engines hold."""
        held = accelerators(serving["spec"]["template"]) if serving["spec"].get("replicas", 1) else {}
        if not held:
            return False
        release = {name: value for name, value in serving["metadata"].get("labels", {}).items() if name == INSTANCE}
        waiting = self._kube.list(POD, objects.OURS | release, fields="status.phase=Pending")
        reasons = [states.waiting_reason(pod) for pod in waiting if pod["metadata"].get("labels", {}).get(COMPONENT) in _OURS]
        return any(f"Insufficient {name}" in reason for name in held for reason in reasons)

    def _send_away(self, serving: Object) -> bool:
        """Whether they are away on our account: a Deployment that somebody else has scaled to none stays theirs."""
        wished = serving["spec"].get("replicas", 1)
        if wished:
            log.info("The serving engines %s make room", self._name)
            self._change(serving, {REPLICAS: str(wished)}, 0)
            return True
        return REPLICAS in _annotations(serving)

    def _has_yielded(self) -> bool:
        try:
            return REPLICAS in _annotations(self._kube.get(DEPLOYMENT, self._name))
        except errors.SemiEvolError as error:
            log.warning("Whether the serving engines are away cannot be told: %s", error.message)
            return False

    def _bring_back(self) -> None:
        self._note = ""
        self._looked = float("-inf")
        for _ in range(_ATTEMPTS):
            try:
                serving = self._kube.get(DEPLOYMENT, self._name)
                wished = _annotations(serving).get(REPLICAS)
                if wished is None:
                    return
                present = serving["spec"].get("replicas", 1)  # not 0: somebody has brought them back before us
                self._change(serving, {REPLICAS: None}, present or int(wished))
                log.info("The serving engines %s come back", self._name)
                return
            except errors.Conflict:
                continue
            except errors.SemiEvolError as error:
                log.warning("The serving engines stay away: %s Scale the Deployment %s by hand.", error.message, self._name)
                return

    def _change(self, serving: Object, annotations: dict[str, str | None], replicas: int) -> None:
        """Both at once, and only where nobody has changed the Deployment since. Raises Conflict."""
        version = serving["metadata"]["resourceVersion"]
        body = {"metadata": {"annotations": annotations, "resourceVersion": version}, "spec": {"replicas": replicas}}
        self._kube.patch(DEPLOYMENT, self._name, body)


def _annotations(one: Object) -> dict[str, str]:
    return one["metadata"].get("annotations") or {}
