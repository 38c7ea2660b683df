"""What the launcher `kubernetes` reads: Jobs and pods as the API shows them -> how a job stands, in our words. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from semievol.common import errors
from semievol.common.kube import Object, condition
from semievol.launchers import entrypoint
from semievol.launchers.kubernetes_objects import CONTAINER
from semievol.ports import JobState, JobStatus

_STARTING = {"", "ContainerCreating", "PodInitializing"}  # every pod waits for these, and not for long
SUSPENDED = "The job is suspended until its queue admits it."


def over(pod: Object) -> bool:
    """Whether it runs no more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def finished(job: Object) -> bool:
    """Whether nothing of it runs any more. (FailureTarget comes before Failed: pods are still ending.)"""
    return bool(condition(job, "Complete") or condition(job, "Failed"))


def pods_missing(job: Object) -> bool:
    """Whether a pod of it is not at work though it should be: then somebody may want to know why."""
    status = job.get("status") or {}
    return not finished(job) and (not status.get("active") or status.get("ready", 0) < status["active"])


def job_status(job: Object, pods: Sequence[Object]) -> JobStatus:
    """`pods`: those of this job, as far as they are known; they matter where it has failed or waits."""
    if condition(job, "Complete"):
        return JobStatus(JobState.SUCCEEDED, 0)
    failed = condition(job, "Failed")
    if not failed:
        return JobStatus(JobState.RUNNING, reason=_waiting(job, pods))
    ends = [ending(pod) for pod in pods if pod["status"].get("phase") == "Failed"]
    if failed.get("reason") == "DeadlineExceeded":
        return JobStatus(JobState.FAILED, errors.DeadlineExceeded.exit_code, f"Its time was up: {failed.get('message', '')}")
    if not ends:
        said = f"{failed.get('reason', '')}: {failed.get('message', '')}".strip(": ")
        return JobStatus(
            JobState.FAILED, entrypoint.KILLED, f"The job's pod is gone without a word ({said or 'no reason given'})."
        )
    first = errors.FINAL_EXIT_CODES
    code, message = min(ends, key=lambda end: first.index(end[0]) if end[0] in first else len(first))
    return JobStatus(JobState.FAILED, code, message)


def ending(pod: Object) -> tuple[int, str]:
    """(exit code, last words) of a pod that runs no more."""
    status = pod["status"]
    disrupted = condition(pod, "DisruptionTarget")
    state = _terminated(pod)
    if state is None or (disrupted and state["exitCode"]):
        said = (disrupted or {}).get("message") or status.get("message") or status.get("reason") or "no reason given"
        return entrypoint.KILLED, f"The cluster took the job's pod away: {said}"
    code = state["exitCode"]
    if state.get("reason") == "OOMKilled":
        return code, "The job was killed because it needed more memory than its limit; raise the limit, or give it less to do."
    last = (state.get("message") or "").strip()
    if not last and code > 128:
        return code, f"The job was killed by signal {code - 128}."
    return code, last


def _terminated(pod: Object) -> Object | None:
    for container in pod["status"].get("containerStatuses") or ():
        if container["name"] == CONTAINER:
            found: Object | None = container.get("state", {}).get("terminated")
            return found
    return None


def _waiting(job: Object, pods: Sequence[Object]) -> str:
    if job["spec"].get("suspend"):
        return SUSPENDED
    if not pods_missing(job):
        return ""
    return next(filter(None, map(waiting_reason, pods)), "")


def waiting_reason(pod: Object) -> str:
    """Why a pod does not begin, in the words of whoever holds it up (the scheduler, the kubelet); empty: it does, or will in a moment."""
    status = pod.get("status") or {}
    if over(pod):
        return ""
    for entry in status.get("conditions") or ():
        if entry["type"] == "PodScheduled" and entry["status"] == "False":
            return f"{entry.get('reason', 'Unschedulable')}: {entry.get('message', '')}".rstrip(": ")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        held = container.get("state", {}).get("waiting") or {}
        if held.get("reason", "") not in _STARTING:
            return f"{held['reason']}: {held.get('message', '')}".rstrip(": ")
    return ""


def creation_refused(events: Sequence[Object]) -> str:
    """Why no pod can be made for a Job, by the last event that says so: a quota, pod security."""
    told = sorted(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return str(told[-1].get("message", "")) if told else ""
