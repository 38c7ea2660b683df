"""The ConfigMap of a run, which owns whatever is made for it on a cluster."""

from __future__ import annotations

from semievol.common import errors
from semievol.common.kube import CONFIG_MAP, DEPLOYMENT, Kube, KubernetesSettings, Object
from semievol.launchers import kubernetes_objects as objects


def run_owner(kube: Kube, settings: KubernetesSettings, template: objects.Template, run: str) -> Object:
    """Made where it is missing. Asked for every time: what an owner that is gone owns would be collected."""
    name = objects.run_object_name(run)
    try:
        return kube.get(CONFIG_MAP, name)
    except errors.NotFound:
        pass
    owner = kube.get(DEPLOYMENT, settings.owner) if settings.owner else None
    try:
        return kube.create(CONFIG_MAP, objects.run_object(run, template, owner))
    except errors.AlreadyExists:  # somebody else was quicker: launcher, engines and training service all make it
        return kube.get(CONFIG_MAP, name)
