"""Jobs of a Kubernetes cluster, one for each attempt; a step's shards are the indexes of one Job.

    ConfigMap of the run  --owns-->  Job  --owns-->  pods          deleting the run collects them all, and so does deleting the release

The API server is asked, level-triggered: one list of Jobs for all jobs that somebody asks about, not more often than every `poll_s`. Pods are
listed only where a Job waits or has failed. What has ended is remembered here: a Job that its time to live takes away does not run again, and
whoever starts anew decides by the manifests (R1, R11).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from typing import TypeVar

from semievol.common import errors
from semievol.common.kube import EVENT, JOB, POD, Kube, KubernetesSettings, Object, condition, connect
from semievol.launchers import entrypoint
from semievol.launchers import kubernetes_objects as objects
from semievol.launchers import kubernetes_states as states
from semievol.launchers.kubernetes_logs import JobLog, read_position
from semievol.launchers.kubernetes_runs import forget_run, run_owner
from semievol.ports import JobSpec, JobState, JobStatus, LogPart

log = logging.getLogger(__name__)

V = TypeVar("V")

_REASON_POLL_S = 5.0  # between two looks at why pods wait: people read it, nobody acts on it
_CANCEL_POLL_S = 0.25
_CANCEL_SPARE_S = 60.0  # beyond the pods' own grace
_REMEMBERED_ENDS, _REMEMBERED_LOGS = 10_000, 32
_AWAY = "The Kubernetes API does not answer; the job is taken to run on."


class KubernetesLauncher:
    """See `ports.Launcher`. `component`: which template of templates.yaml, and whose Jobs these are (`step`, `training`)."""

    group_size = 5_000  # one argument names them all, and may have 128 KiB
    lasting = True

    def __init__(self, kube: Kube, settings: KubernetesSettings, component: str) -> None:
        """Raises InvalidInput (no usable template)."""
        self._kube = kube
        self._settings = settings
        self._component = component
        self._selector = self._template().identity(component)
        self._jobs: dict[str, Object] | None = None  # by object name, as last seen; None: never seen
        self._looked = float("-inf")
        self._away = False
        self._ends: OrderedDict[str, JobStatus] = OrderedDict()
        self._logs: OrderedDict[str, JobLog] = OrderedDict()
        self._reasons: dict[str, tuple[float, str]] = {}  # by object name: when it was asked for, what was said
        self._lock = threading.Lock()

    @staticmethod
    def connected(component: str) -> KubernetesLauncher:
        """By the environment's settings."""
        settings = KubernetesSettings()
        return KubernetesLauncher(connect(settings), settings, component)

    # -------------------------------------------------------------- the port

    def submit(self, job: JobSpec) -> None:
        entrypoint.check(job, self.group_size)
        if job.name in self._ends:
            return
        run = job.labels.get("run", "")
        body = objects.job_object(job, self._template(), self._component, self._owner(run) if run else None)
        try:
            made = self._kube.create(JOB, body)
        except errors.AlreadyExists:
            made = self._adopted(job)
        with self._lock:
            if self._jobs is not None:
                self._jobs[made["metadata"]["name"]] = made

    def state(self, name: str) -> JobStatus:
        if name in self._ends:
            return self._ends[name]
        job = self._look().get(objects.object_name(name))
        if job is None:
            return JobStatus(JobState.UNKNOWN)
        if self._away and not states.finished(job):
            return JobStatus(JobState.RUNNING, reason=_AWAY)
        if not states.finished(job):
            return JobStatus(JobState.RUNNING, reason=self._reason(job))
        status = states.job_status(job, self._pods(job) if condition(job, "Failed") else [])
        _remember(self._ends, name, status, _REMEMBERED_ENDS)
        return status

    def logs(self, name: str, start: int = 0) -> list[str]:
        known = self._log(name)
        return known.read(start) if known else []

    def log_part(self, name: str, position: str = "") -> LogPart:
        seen = read_position(position)
        known = self._log(name)
        return known.part(seen) if known else LogPart([], position)

    def _log(self, name: str) -> JobLog | None:
        """As far as there is one by now."""
        job = self._look().get(objects.object_name(name))
        known = self._logs.get(name)
        if job is not None:
            known = known or _remember(self._logs, name, JobLog(_shards(job)), _REMEMBERED_LOGS)
            try:
                known.update(self._kube, lambda: self._pods(job), states.finished(job))
            except (errors.Unavailable, errors.NotAllowed) as error:
                log.warning("The log of %s cannot be read: %s", name, error.message)
        return known

    def cancel(self, name: str) -> None:
        """Raises DeadlineExceeded where a pod does not go (its node may be gone)."""
        try:
            job = self._kube.get(JOB, objects.object_name(name))
        except errors.NotFound:
            return
        if states.finished(job) or not _is(job, name):
            return
        self._kube.delete(JOB, job["metadata"]["name"], uid=job["metadata"]["uid"], foreground=True)
        last = self._wait_until_gone(job)
        _remember(self._ends, name, JobStatus(JobState.FAILED, entrypoint.CANCELLED, last), _REMEMBERED_ENDS)
        with self._lock:
            if self._jobs is not None:
                self._jobs.pop(job["metadata"]["name"], None)

    def close(self) -> None:
        """Jobs outlive this process: whoever comes next adopts them."""

    # -------------------------------------------------------------- runs

    def forget_run(self, run: str) -> None:
        """Deletes the run's ConfigMap, and with it what it owns: Jobs, pods, those of run engines included."""
        forget_run(self._kube, self._template(), run)

    def _owner(self, run: str) -> Object:
        return run_owner(self._kube, self._settings, self._template(), run)

    # -------------------------------------------------------------- looking

    def _template(self) -> objects.Template:
        """Read anew each time: a release that is upgraded during a run changes the Jobs that come next."""
        return objects.load_template(self._settings.templates, self._component)

    def _look(self) -> dict[str, Object]:
        """All Jobs of this kind, as of `poll_s` ago at most, or of when the API was last there. Raises Unavailable where it never was."""
        with self._lock:
            if self._jobs is not None and time.monotonic() - self._looked < self._settings.poll_s:
                return self._jobs
            try:
                found = self._kube.list(JOB, self._selector)
            except errors.Unavailable as error:
                if self._jobs is None:
                    raise
                if not self._away:
                    log.warning("%s Running jobs are taken to run on.", error.message)
                self._away = True
            else:
                self._away = False
                self._jobs = {job["metadata"]["name"]: job for job in found}
                self._reasons = {name: known for name, known in self._reasons.items() if name in self._jobs}
            self._looked = time.monotonic()
            return self._jobs

    def _adopted(self, job: JobSpec) -> Object:
        """The Job that has this name already, if it does the same. Raises AlreadyExists."""
        there = self._kube.get(JOB, objects.object_name(job.name))
        meta = there["metadata"]
        same = _is(there, job.name) and (meta.get("labels") or {}).get(objects.SPEC_HASH) == objects.spec_hash(job)
        if not same or meta.get("deletionTimestamp"):
            raise entrypoint.taken(job)
        return there

    def _pods(self, job: Object) -> list[Object]:
        return self._kube.list(POD, {objects.JOB_OF_POD: job["metadata"]["name"]})

    def _reason(self, job: Object) -> str:
        """Why pods of this Job are not at work. Not asked for in its first seconds: most begin in these."""
        name = job["metadata"]["name"]
        if job["spec"].get("suspend"):
            return states.SUSPENDED
        if not states.pods_missing(job):
            self._reasons.pop(name, None)
            return ""
        asked, said = self._reasons.setdefault(name, (time.monotonic(), ""))
        if time.monotonic() - asked < _REASON_POLL_S:
            return said
        try:
            said = self._ask_reason(job)
        except errors.SemiEvolError as error:  # nobody acts on it (R10)
            log.warning("Why %s waits cannot be told: %s", name, error.message)
        self._reasons[name] = (time.monotonic(), said)
        return said

    def _ask_reason(self, job: Object) -> str:
        pods = self._pods(job)
        said = states.job_status(job, pods).reason
        if pods or said:
            return said
        about = f"involvedObject.uid={job['metadata']['uid']},reason=FailedCreate"
        return states.creation_refused(self._kube.list(EVENT, fields=about))

    def _wait_until_gone(self, job: Object) -> str:
        """Waits until neither the Job nor a pod of it is there; the last words that a pod was seen to say."""
        last = "The job was cancelled."
        end = time.monotonic() + _grace(job) + _CANCEL_SPARE_S
        while time.monotonic() < end:
            pods = self._pods(job)
            for code, words in (states.ending(pod) for pod in pods if pod["status"].get("phase") == "Failed"):
                last = words if code == entrypoint.CANCELLED and words else last
            if not pods:
                try:
                    if self._kube.get(JOB, job["metadata"]["name"])["metadata"]["uid"] != job["metadata"]["uid"]:
                        return last
                except errors.NotFound:
                    return last
            time.sleep(_CANCEL_POLL_S)
        names = ", ".join(pod["metadata"]["name"] for pod in self._pods(job))
        raise errors.DeadlineExceeded(f"These pods do not end: {names or 'none is left, but the Job stays'}. Is their node gone?")


def _is(there: Object, name: str) -> bool:
    return bool((there["metadata"].get("annotations") or {}).get(objects.JOB_NAME) == name)


def _grace(job: Object) -> float:
    return float(job["spec"]["template"]["spec"].get("terminationGracePeriodSeconds") or 30)


def _shards(job: Object) -> tuple[int, ...]:
    """Those of an Indexed Job, by index."""
    main = next(one for one in job["spec"]["template"]["spec"]["containers"] if one["name"] == objects.CONTAINER)
    args: list[str] = main.get("args") or []
    return tuple(int(shard) for shard in args[2].split(",")) if "--shards" in args[:2] else ()


def _remember(known: OrderedDict[str, V], name: str, value: V, most: int) -> V:
    """The oldest go first."""
    known[name] = value
    while len(known) > most:
        known.popitem(last=False)
    return value
