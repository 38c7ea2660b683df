"""The ConfigMap of a run, which owns whatever is made for it on a cluster."""

from __future__ import annotations

from semievol.common import errors
from semievol.common.kube import CONFIG_MAP, DEPLOYMENT, INSTANCE, Kube, KubernetesSettings, Object
from semievol.launchers import kubernetes_objects as objects


def run_owner(kube: Kube, settings: KubernetesSettings, template: objects.Template, run: str) -> Object:
    """Made where it is missing. Asked for every time: what an owner that is gone owns would be collected. Raises Conflict where another release
    of this namespace has a run of that id."""
    name = objects.run_object_name(run)
    try:
        return _ours(kube.get(CONFIG_MAP, name), template, run)
    except errors.NotFound:
        pass
    owner = kube.get(DEPLOYMENT, settings.owner) if settings.owner else None
    try:
        return kube.create(CONFIG_MAP, objects.run_object(run, template, owner))
    except errors.AlreadyExists:  # somebody else was quicker: launcher, engines and training service all make it
        return _ours(kube.get(CONFIG_MAP, name), template, run)


def forget_run(kube: Kube, template: objects.Template, run: str) -> None:
    """Deletes the ConfigMap of a run of this release, and with it what it owns."""
    try:
        owner = _ours(kube.get(CONFIG_MAP, objects.run_object_name(run)), template, run)
    except (errors.NotFound, errors.Conflict):
        return
    kube.delete(CONFIG_MAP, owner["metadata"]["name"], uid=owner["metadata"]["uid"])


def _ours(owner: Object, template: objects.Template, run: str) -> Object:
    """Releases of one namespace share its names: what is made for the other one's run must not be adopted, nor deleted."""
    theirs, ours = (owner["metadata"].get("labels") or {}).get(INSTANCE, ""), template.labels.get(INSTANCE, "")
    if theirs and ours and theirs != ours:
        raise errors.Conflict(
            f"The release {theirs} has a run {run} in this namespace, too; give this one another `name`, or each release a namespace of its own.",
            field="name",
        )
    return owner
