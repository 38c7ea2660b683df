"""Engines of runs as pods: made when a phase of a run needs them, gone before it trains.

    ConfigMap of the run  --owns-->  pod  (template `engine` of templates.yaml; ready: it has answered a prompt)

What is there is asked of the API server: a controller that is started anew finds its engines by their labels and goes on with them. A pod
is never started again in place: one that has ended is deleted, and the next `acquire` makes another one, a few times.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from semievol.common import errors
from semievol.common.kube import COMPONENT as COMPONENT_LABEL
from semievol.common.kube import INSTANCE, POD, Kube, KubernetesSettings, Object, condition, reference
from semievol.launchers import kubernetes_objects as objects
from semievol.launchers import kubernetes_states as states
from semievol.launchers.kubernetes_runs import run_owner
from semievol.ports import EngineState, ModelInfo

log = logging.getLogger(__name__)

COMPONENT = "run-engine"
SLOT, RUN_ID = "semievol.dev/engine", "semievol.dev/run-id"  # a label and an annotation
_PORT = 50053
_LOOK_S = 1.0  # the API server is asked no more often, however often a run's driver looks
_OVERDUE_S = 60.0  # a pod that should have ended so long ago is on a node that does not answer: nothing waits for it
_NODES = "/api/v1/nodes"


class EngineSettings(BaseSettings):
    """Environment variables SEMIEVOL_KUBERNETES_<FIELD>, beside those of common.kube."""

    model_config = SettingsConfigDict(env_prefix="SEMIEVOL_KUBERNETES_", frozen=True)

    engine_port: int = Field(default=_PORT, ge=1, le=65535)
    """Where the engines of runs listen in their pods."""

    engine_starts: int = Field(default=3, ge=1, le=100)
    """How often an engine that ends before it has answered is started, before the run fails."""

    serving_engine: str = ""
    """The Deployment of the engines that answer queries, which makes room for runs (SEMIEVOL_CONTROLLER_SERVING_YIELDS); empty: none does."""

    gpus: int | None = Field(default=None, ge=0)
    """GPUs that engines of runs may have side by side, for `placement: auto`. Unset: as many as the nodes say, if the controller's role may read
    nodes; else nobody knows, and all weights share an engine."""


@dataclass(frozen=True, slots=True)
class _Pod:
    """What matters of one."""

    name: str
    uid: str
    run: str
    slot: str
    body: Object

    @property
    def ended(self) -> bool:
        return states.over(self.body)

    @property
    def ending(self) -> bool:
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def ready(self) -> bool:
        return condition(self.body, "Ready") is not None


class PodEngines:
    """See `ports.Engines`. `ask`: what an engine at an address serves as its base; raises Unavailable. `by_name`: addresses are names, which
    certificates can hold, where the template gives pods a subdomain; else they are the pods' IPs."""

    takes_turns = True

    def __init__(
        self,
        kube: Kube,
        settings: KubernetesSettings,
        own: EngineSettings,
        ask: Callable[[str], ModelInfo],
        *,
        by_name: bool = False,
        look_s: float = _LOOK_S,
    ) -> None:
        """Raises InvalidInput (no usable template)."""
        self._kube, self._settings, self._own, self._ask = kube, settings, own, ask
        self._by_name, self._look_s = by_name, look_s
        template = self._template()
        self.settings = hashlib.sha256(json.dumps(_main(template.pod), sort_keys=True).encode()).hexdigest()
        instance = _labels(template.pod).get(INSTANCE)
        self._selector = {**objects.OURS, COMPONENT_LABEL: COMPONENT} | ({INSTANCE: instance} if instance else {})
        self._seen: list[_Pod] = []
        self._looked = float("-inf")
        self._answered: dict[str, ModelInfo] = {}  # by uid: what it said when it was first ready
        self._used: dict[str, dict[str, tuple[int, int]]] = {}  # run -> uid -> (starts, changes of weights)
        self._deaths: Counter[tuple[str, str]] = Counter()  # (run, slot) -> engines in a row that ended before they answered
        self._last_words: dict[tuple[str, str], tuple[int, str]] = {}
        self._lock = threading.RLock()

    # -------------------------------------------------------------- the port

    def capacity(self) -> int | None:
        """By the GPUs that one engine takes; None where it takes none, or where nobody says how many there are."""
        wanted = accelerators(self._template().pod)
        if not wanted:
            return None
        room = [(self._gpus(name), count) for name, count in wanted.items()]
        return None if any(have is None for have, _ in room) else min((have or 0) // count for have, count in room)

    def acquire(self, run: str, slot: str) -> EngineState:
        with self._lock:
            mine = [pod for pod in self._pods() if (pod.run, pod.slot) == (run, slot) and not pod.ending]
            for pod in mine:
                if pod.ended:
                    self._bury(pod)
            alive = [pod for pod in mine if not pod.ended]
            if alive:
                return self._state(alive[0])
            code, words = self._last_words.get((run, slot), (0, ""))
            if self._deaths[run, slot] and (
                code in errors.FINAL_EXIT_CODES or self._deaths[run, slot] >= self._own.engine_starts
            ):
                self._deaths.pop((run, slot))
                return EngineState(reason=words, failed=True)
            self._start(run, slot)
            return EngineState(
                reason=f"The engine {slot} is being started." + (f" The one before ended: {words}" if words else "")
            )

    def held(self, run: str) -> list[str]:
        with self._lock:
            return sorted({pod.slot for pod in self._pods() if pod.run == run and not pod.ending and not pod.ended})

    def release(self, run: str, slot: str = "") -> bool:
        with self._lock:
            mine = [pod for pod in self._pods() if pod.run == run and slot in ("", pod.slot)]
            for pod in mine:
                if not pod.ending:
                    self._count(pod)
                    self._kube.delete(POD, pod.name, uid=pod.uid)
                    self._looked = float("-inf")
            return all(_overdue(pod) for pod in mine)

    def used(self, run: str) -> tuple[int, int]:
        with self._lock:
            for pod in self._pods():
                if pod.run == run and not pod.ending:
                    self._count(pod)
            counted = self._used.get(run, {}).values()
            return sum(starts for starts, _ in counted), sum(swaps for _, swaps in counted)

    # -------------------------------------------------------------- at the start

    def recover(self, runs: Collection[str]) -> None:
        """`runs` are unfinished. Engines of others were left behind by a controller that died, and go. Raises nothing: it is tidying up."""
        try:
            with self._lock:
                for run in {pod.run for pod in self._pods(fresh=True)} - set(runs):
                    log.info("Engines of the run %s are left over and go", run)
                    self.release(run)
        except errors.SemiEvolError as error:
            log.warning("Engines that are left over stay: %s", error.message)

    # -------------------------------------------------------------- pods

    def _pods(self, *, fresh: bool = False) -> list[_Pod]:
        if fresh or time.monotonic() - self._looked >= self._look_s:
            self._seen = [_pod(body) for body in self._kube.list(POD, self._selector)]
            self._looked = time.monotonic()
            for pod in self._seen:
                self._used.setdefault(pod.run, {}).setdefault(pod.uid, (1, 0))
            there = {pod.uid for pod in self._seen}
            self._answered = {uid: base for uid, base in self._answered.items() if uid in there}
        return self._seen

    def _state(self, pod: _Pod) -> EngineState:
        if not pod.ready:
            reason = states.waiting_reason(pod.body)
            crowded = "Insufficient" in reason
            return EngineState(reason=reason or f"The engine {pod.slot} is being started (pod {pod.name}).", crowded=crowded)
        address = self._address(pod)
        if pod.uid not in self._answered:
            try:
                self._answered[pod.uid] = self._ask(address)
            except errors.SemiEvolError as error:
                return EngineState(reason=f"The engine {pod.slot} (pod {pod.name}) does not answer: {error.message}")
        self._deaths.pop((pod.run, pod.slot), None)
        self._last_words.pop((pod.run, pod.slot), None)
        return EngineState(address, base=self._answered[pod.uid])

    def _start(self, run: str, slot: str) -> None:
        """The number in the name makes it another one than any that was there, as far as that is known."""
        template = self._template()
        labelled = objects.Template(template.pod, {"labels": _labels(template.pod)})  # this template has no Job to give labels to
        owner = run_owner(self._kube, self._settings, labelled, run)
        first = len(self._used.get(run, ())) + 1
        for number in range(first, first + 100):
            try:
                made = self._kube.create(POD, engine_pod(run, slot, number, template, owner))
            except errors.AlreadyExists:
                continue
            log.info("Run %s: its engine %s is pod %s", run, slot, made["metadata"]["name"])
            self._looked = float("-inf")
            return
        raise errors.Unavailable(f"There are a hundred pods of the engine {slot} of the run {run}.")

    def _bury(self, pod: _Pod) -> None:
        """One that ended by itself."""
        code, words = states.ending(pod.body)
        words = words or f"It ended with code {code} and without a word."
        log.warning("Run %s: its engine %s (pod %s) has ended: %s", pod.run, pod.slot, pod.name, words)
        if pod.uid not in self._answered:
            self._deaths[pod.run, pod.slot] += 1
        self._last_words[pod.run, pod.slot] = code, words
        self._kube.delete(POD, pod.name, uid=pod.uid)
        self._looked = float("-inf")

    def _count(self, pod: _Pod) -> None:
        """What the engine says of itself; one that does not answer was started once."""
        if not pod.ready:
            return
        try:
            base = self._ask(self._address(pod))
        except errors.SemiEvolError as error:
            log.info("The engine in pod %s does not say what it did: %s", pod.name, error.message)
            return
        self._used.setdefault(pod.run, {})[pod.uid] = (max(1, base.engine_starts), base.weight_swaps)

    def _address(self, pod: _Pod) -> str:
        spec = pod.body["spec"]
        if self._by_name and spec.get("subdomain"):
            return f"{spec['hostname']}.{spec['subdomain']}.{self._kube.namespace}.svc:{self._own.engine_port}"
        ip = str(pod.body["status"].get("podIP", ""))
        return f"[{ip}]:{self._own.engine_port}" if ":" in ip else f"{ip}:{self._own.engine_port}"

    def _template(self) -> objects.Template:
        """Read anew each time, as the launcher does."""
        return objects.load_template(self._settings.templates, "engine")

    def _gpus(self, resource: str) -> int | None:
        return self._own.gpus if self._own.gpus is not None else allocatable(self._kube, resource)


def engine_pod(run: str, slot: str, number: int, template: objects.Template, owner: Object) -> Object:
    """The pod of an engine: the template with a name, labels and an owner."""
    ours = {**objects.OURS, COMPONENT_LABEL: COMPONENT, objects.RUN: objects.label_value(run), SLOT: objects.label_value(slot)}
    name = objects.object_name(f"{run}-engine-{slot}-{number}")
    pod = objects.filled(template, ours, {RUN_ID: run})
    if pod["spec"].get("subdomain"):
        pod["spec"]["hostname"] = name
    meta = {**pod["metadata"], "name": name, "ownerReferences": [reference("v1", "ConfigMap", owner)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": pod["spec"]}


def accelerators(pod: Mapping[str, Object]) -> dict[str, int]:
    """Extended resources that a pod takes (`nvidia.com/gpu`): what cannot be shared, and what there are few of."""
    taken: Counter[str] = Counter()
    for container in pod["spec"]["containers"]:
        for name, count in ((container.get("resources") or {}).get("limits") or {}).items():
            if "/" in name and not name.startswith("hugepages") and int(count):
                taken[name] += int(count)
    return dict(taken)


def allocatable(kube: Kube, resource: str) -> int | None:
    """How many of a resource the nodes have that take pods and work; None where the role may not read nodes, as that of the chart may not."""
    try:
        nodes = kube.cluster_list(_NODES)
    except errors.SemiEvolError as error:
        log.info("Nobody says how many %s there are: %s", resource, error.message)
        return None
    working = [node for node in nodes if not node["spec"].get("unschedulable") and condition(node, "Ready")]
    return sum(int((node["status"].get("allocatable") or {}).get(resource, 0)) for node in working)


def _main(pod: Mapping[str, Object]) -> Object:
    """What decides what an engine answers: its image, arguments and environment."""
    container = objects.main_container(pod)
    return {name: container.get(name) for name in ("image", "command", "args", "env")}


def _labels(pod: Mapping[str, Object]) -> dict[str, str]:
    return dict((pod.get("metadata") or {}).get("labels") or {})


def _pod(body: Object) -> _Pod:
    meta = body["metadata"]
    return _Pod(
        meta["name"], meta["uid"], (meta.get("annotations") or {}).get(RUN_ID, ""), (meta.get("labels") or {}).get(SLOT, ""), body
    )


def _overdue(pod: _Pod) -> bool:
    """Its deletion's time, which has the grace in it, is long past."""
    stamp = pod.body["metadata"].get("deletionTimestamp")
    return bool(stamp) and time.time() - datetime.fromisoformat(str(stamp)).timestamp() > _OVERDUE_S
