"""A release on a cluster as the command line finds it: a component's Service by its labels, its pods, and what opens it."""

from __future__ import annotations

import base64
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semievol.common import errors, security
from semievol.common.kube import COMPONENT, INSTANCE, NAME, POD, Kind, Kube, Object, condition
from semievol.common.security import Access

SERVICE, SECRET = Kind("api/v1", "services"), Kind("api/v1", "secrets")
_TLS, _TOKENS = "/etc/semievol/tls", "/etc/semievol/tokens"  # where the chart mounts Secrets
_CA, _CERTIFICATE, _KEY, _TOKEN_LIST = "ca.crt", "tls.crt", "tls.key", "tokens"

_TERMINATING, _NOT_READY = "Terminating", "running, not ready"
_ON_ITS_WAY = {_TERMINATING, _NOT_READY, "Pending", "PodInitializing", "ContainerCreating"}
LOOK_EVERY_S = 0.5


def labels(component: str, release: str = "") -> dict[str, str]:
    """Of everything that belongs to a component."""
    found = {NAME: "semievol", COMPONENT: component}
    return found | {INSTANCE: release} if release else found


@dataclass(frozen=True)
class Component:
    """One component of a release: where its pods are found, and at which port of theirs. `port`: a number, or a name."""

    kube: Kube
    release: str
    service: str
    selector: dict[str, str]
    port: int | str

    @property
    def where(self) -> str:
        """As messages name it."""
        return f"{self.kube.namespace}/{self.service}"

    def ready_pod(self, wait_s: float = 0.0) -> Object:
        """One that works; the youngest, since an older one may be on its way out. Where one is on its way, it is waited for.

        Raises Unavailable, saying what is wrong with each."""
        until = time.monotonic() + wait_s
        while True:
            pods = self.kube.list(POD, self.selector)
            if ready := [pod for pod in pods if _is_ready(pod)]:
                return max(ready, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
            states = {pod["metadata"]["name"]: _state(pod) for pod in pods}
            if time.monotonic() >= until or not _ON_ITS_WAY.intersection(states.values()):
                said = "; ".join(f"{name}: {state}" for name, state in states.items()) or "there is none"
                raise errors.Unavailable(
                    f"No pod of {self.where} is ready ({said}). `kubectl describe pod` says more.", field="pod"
                )
            time.sleep(LOOK_EVERY_S)

    def port_of(self, pod: Object) -> int:
        """Raises NotFound."""
        if isinstance(self.port, int):
            return self.port
        for container in pod["spec"]["containers"]:
            for port in container.get("ports") or ():
                if port.get("name") == self.port:
                    return int(port["containerPort"])
        raise errors.NotFound(f"The pods of {self.where} have no port {self.port!r}.")

    def access(self, pod: Object, found: security.SecuritySettings | None = None) -> Access:
        """What opens it: as the environment says, else as the release's Secrets say. Raises NotAllowed (they may not be read), InvalidInput."""
        mine = found or security.settings()
        own, tls, tokens = security.access(mine), _mounted(pod, _TLS), _mounted(pod, _TOKENS)
        token = own.token
        if tokens and not (mine.token_file or mine.token.get_secret_value()):
            lines = self._held(tokens, _TOKEN_LIST, "SEMIEVOL_TOKEN").decode().split()
            token = functools.partial(str, lines[0] if lines else "")
        if not tls:
            return Access(token=token, via=self.where)
        ca, pair = own.ca, own.pair
        if not ca:
            ca = self._held(tls, _CA, "SEMIEVOL_TLS_CA_FILE")
            security.check_ca(ca, f"{_CA} of the Secret of {self.where}")
        if not pair and _asks_for_certificates(pod):
            names = "SEMIEVOL_TLS_CERT_FILE and SEMIEVOL_TLS_KEY_FILE"
            pair = (self._held(tls, _KEY, names), self._held(tls, _CERTIFICATE, names))
        # the near end of the tunnel is called 127.0.0.1, which need not be in the certificate
        name = mine.tls_server_name or f"{self.service}.{self.kube.namespace}.svc"
        return Access(ca, pair, token, name, self.where)

    def _held(self, secrets: Sequence[tuple[str, dict[str, str]]], file: str, instead: str) -> bytes:
        """What a mounted file holds. `secrets`: name, and the key of each file that has another name than its key."""
        for secret, keys in secrets:
            try:
                data = self.kube.get(SECRET, secret).get("data") or {}
            except errors.NotAllowed as error:
                raise errors.NotAllowed(
                    f"{self.where} asks for what the Secret {secret} holds, and you may not read it: set {instead}, or ask for the right."
                ) from error
            if (key := keys.get(file, file)) in data:
                return base64.b64decode(data[key])
        names = " and ".join(name for name, _ in secrets)
        raise errors.NotFound(f"The Secret {names} of {self.where} holds no {file}; set {instead}.")


def find(kube: Kube, component: str, release: str, elsewhere: Sequence[str] = ()) -> Component:
    """Raises NotFound (no such release; `elsewhere`: namespaces that have one), InvalidInput (which of several)."""
    services = [one for one in kube.list(SERVICE, labels(component, release)) if one["spec"].get("selector")]
    by_release: dict[str, list[Object]] = {}
    for one in services:
        by_release.setdefault(one["metadata"]["labels"].get(INSTANCE, ""), []).append(one)
    if len(by_release) > 1:
        raise errors.InvalidInput(
            f"The namespace {kube.namespace} has several releases: choose one with --release: {', '.join(sorted(by_release))}.",
            field="release",
        )
    if not by_release:
        named = f"release {release!r}" if release else "release of semievol"
        hint = f"there is one in {', '.join(elsewhere)}" if elsewhere else "is it installed, and is this the right --context?"
        raise errors.NotFound(
            f"There is no {named} with a {component} in the namespace {kube.namespace}; {hint}", field="namespace"
        )
    name, found = next(iter(by_release.items()))
    # the headless one beside it has the same pods
    chosen = min(found, key=lambda one: (one["spec"].get("clusterIP") == "None", one["metadata"]["name"]))
    ports: list[dict[str, Any]] = chosen["spec"]["ports"]
    port = next((one for one in ports if one.get("name") == "grpc"), ports[0])
    return Component(
        kube, name, chosen["metadata"]["name"], dict(chosen["spec"]["selector"]), port.get("targetPort") or port["port"]
    )


def _is_ready(pod: Object) -> bool:
    return condition(pod, "Ready") is not None and "deletionTimestamp" not in pod["metadata"]


def _state(pod: Object) -> str:
    """In the cluster's own words."""
    if "deletionTimestamp" in pod["metadata"]:
        return _TERMINATING
    status = pod.get("status", {})
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = one.get("state", {}).get("waiting") or {}
        if waiting.get("reason"):
            return ": ".join(filter(None, [waiting["reason"], waiting.get("message", "").split("\n")[0]]))
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("message") or one.get("reason"))
    return _NOT_READY if status.get("phase") == "Running" else str(status.get("phase", "unknown"))


def _mounted(pod: Object, path: str) -> list[tuple[str, dict[str, str]]]:
    """The Secrets behind a mount: name, and the key of each file that has another name than its key."""
    mounts = [mount for container in pod["spec"]["containers"] for mount in container.get("volumeMounts") or ()]
    volumes = {mount["name"] for mount in mounts if mount["mountPath"].rstrip("/") == path}
    return [found for volume in pod["spec"].get("volumes") or () if volume["name"] in volumes for found in _secrets(volume)]


def _secrets(volume: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    projected = [one["secret"] for one in (volume.get("projected") or {}).get("sources") or () if "secret" in one]
    for one in [*([volume["secret"]] if "secret" in volume else []), *projected]:
        yield one.get("secretName") or one["name"], {item["path"]: item["key"] for item in one.get("items") or ()}


def _asks_for_certificates(pod: Object) -> bool:
    variables = [one for container in pod["spec"]["containers"] for one in container.get("env") or ()]
    return any(one["name"] == "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT" and one.get("value") == "true" for one in variables)
