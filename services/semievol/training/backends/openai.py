"""Fine-tuning by an OpenAI-compatible endpoint: the examples go there as chats, the model stays there, its name comes back.

One key is one job there, however often this process dies: that a job is wanted, and with which training file, is on record before it is
asked for (`remote.py`), and the job carries the key in its metadata. Where the record has no job's id, the endpoint's jobs are searched
before one is created. Two at once that both create one: the record knows whose counts, and the other cancels its own at once.

epochs      whole ones
update      `batch_size` x `gradient_accumulation` examples, the API's batch size
rate        as a multiple of the paper's 1e-4, the API's multiplier; at 1e-4 itself the endpoint chooses
seed        modulo 2^31, the API's range. What it repeats is the endpoint's affair
loss        as the events tell it, of which there may be fewer than updates
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol.algorithm.types import TrainingExample
from semievol.common import errors, openai_client
from semievol.common.keys import canonical_json, content_key
from semievol.common.trained_models import ENDPOINT_MODEL
from semievol.ports import Cancel, ObjectStore, TrainingSpec
from semievol.training.backends.openai_api import FineTuningApi, Job
from semievol.training.card import endpoint_card
from semievol.training.core import TRAINING_LOG, JobOptions, rate_multiplier
from semievol.training.remote import RemoteRecords

log = logging.getLogger(__name__)

Emit = Callable[[Mapping[str, object]], None]

_CANCEL_S = 0.1  # how soon a cancellation is noticed
_SERVED_WITHIN_S = (
    3600.0  # of a job's end; longer than a step's attempts wait together, so that none pays for another job in vain
)
_SEED_LIMIT = 2**31
_THEIR_FAULT = ("server_error", "internal_error", "internal_server_error")  # codes of failed jobs that are worth another one
_AWAY = (errors.Unavailable, errors.DeadlineExceeded, errors.Busy)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The job that counts: its number on record, its training file there, its id; empty: it cannot be made, since the file is gone."""

    number: int
    file: str
    job: str


class TuningRun:
    """One key's training. `run` returns the finished job, `save` writes what is published."""

    def __init__(
        self, store: ObjectStore, key: str, spec: TrainingSpec, options: JobOptions, examples: Sequence[TrainingExample]
    ) -> None:
        self._records = RemoteRecords(store, key)
        self._api = FineTuningApi(spec.endpoint, timeout_s=options.endpoint_timeout_s)
        self._key, self._spec, self._options, self._examples = key, spec, options, examples
        self._losses: dict[int, float] = {}
        self._total = 0

    def close(self) -> None:
        self._api.close()

    def run(self, cancel: Cancel, emit: Emit) -> Job:
        """Raises what went wrong there, in the endpoint's own words; Cancelled, which leaves the job there at work."""
        for _ in range(2):  # what the endpoint has lost is given to it again, once
            wanted = self._begin(cancel)
            job = self._follow(wanted, cancel, emit) if wanted.job else None
            if job is not None and self._is_served(job, cancel):
                return job
            lost = f"the model {job.model}" if job else f"the training file {wanted.file}"
            log.warning("%s has lost %s", self._spec.endpoint, lost)
            self._records.end(wanted.number, f"{lost} is gone")
        raise errors.Conflict(
            f"The endpoint at {self._spec.endpoint} has lost the training file or the model twice, at last {lost}; does it keep them? "
            "Asked for again, the run tries anew."
        )

    def save(self, directory: Path, job: Job, *, dataset_sha256: str) -> None:
        """The same files for the same job, whoever writes them."""
        told = self._api.metrics(job.id, everything=True)
        losses = [told.losses[step] for step in sorted(told.losses)]
        body = {"model": job.model, "base": self._spec.base_model, "job": job.id, "endpoint": self._spec.endpoint}
        (directory / ENDPOINT_MODEL).write_bytes(canonical_json(body))
        (directory / TRAINING_LOG).write_bytes(canonical_json({"loss": losses}))
        card = endpoint_card(body, self._spec, self._examples, dataset_sha256=dataset_sha256, losses=losses)
        (directory / "README.md").write_text(card)

    # ------------------------------------------------------------ the one job

    def _begin(self, cancel: Cancel) -> _Wanted:
        """The job of this key, found again or created."""
        number = self._records.last() or 1
        if self._records.ended(number):
            number += 1
        file, new = self._records.file(number), False
        if file is None:
            uploaded = self._api.upload(f"semievol-{self._key[:16]}.jsonl", chats(self._examples))
            new = self._records.want(number, uploaded)  # from here on the job may be there
            file = uploaded if new else self._records.file(number) or uploaded
        if known := self._records.job(number):
            return _Wanted(number, file, known)
        job = None if new else self._api.find(self._metadata(number), file)
        if job is None:
            job = self._create(number, file, cancel)
        return _Wanted(number, file, self._agree(number, job) if job else "")

    def _agree(self, number: int, job: str) -> str:
        counts = self._records.found(number, job)
        if counts != job:
            log.warning("Another attempt has created the job %s; %s is cancelled", counts, job)
            self._api.cancel(job)
        return counts

    def _create(self, number: int, file: str, cancel: Cancel) -> str | None:
        """The new job's id; None where the training file is gone. Waits for an endpoint that is busy or away."""
        arguments, once = self._arguments(number, file), f"{self._key}-{number}"
        end = time.monotonic() + self._options.endpoint_patience_s
        while True:
            try:
                job = self._api.create(arguments, once)
                log.info("Fine-tuning job %s at %s", job, self._spec.endpoint)
                return job
            except (errors.InvalidInput, errors.NotFound):
                if not self._api.has_file(file):
                    return None
                raise
            except _AWAY as error:
                pause_s = error.retry_after_s if isinstance(error, errors.Busy) else self._options.endpoint_poll_s
                if time.monotonic() + pause_s > end:
                    raise
                log.warning("%s Waiting %.1f s.", error.message, pause_s)
            self._pause(pause_s, cancel)
            if (found := self._api.find(self._metadata(number), file)) is not None:  # it was made, and the answer lost
                return found

    def _arguments(self, number: int, file: str) -> dict[str, Any]:
        spec = self._spec
        hyperparameters: dict[str, float] = {
            "n_epochs": round(spec.epochs),
            "batch_size": spec.batch_size * spec.gradient_accumulation,
        }
        multiplier = rate_multiplier(spec)
        if multiplier != 1:
            hyperparameters["learning_rate_multiplier"] = multiplier
        return {
            "model": spec.base_model,
            "training_file": file,
            "suffix": f"semievol-{self._key[:8]}",  # some servers take 18 characters
            "seed": spec.seed % _SEED_LIMIT,
            "metadata": self._metadata(number),
            "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        }

    def _metadata(self, number: int) -> dict[str, str]:
        return _metadata(self._key, number)

    # ------------------------------------------------------------ following it

    def _follow(self, wanted: _Wanted, cancel: Cancel, emit: Emit) -> Job | None:
        """The job when it has succeeded; None where it failed for want of its training file."""
        answered, shown = time.monotonic(), ""
        while True:
            try:
                job = self._api.retrieve(wanted.job)
                if job.status != shown:
                    log.info("Job %s: %s", job.id, job.status)
                    shown = job.status
                if job.status in ("running", "succeeded"):
                    self._report(job, emit)
                answered = time.monotonic()
            except errors.NotFound as error:
                raise self._lost(wanted, "is gone") from error
            except _AWAY as error:
                if time.monotonic() - answered > self._options.endpoint_patience_s:
                    raise
                log.warning("%s The job %s may go on meanwhile.", error.message, wanted.job)
            else:
                if job.status == "succeeded" and job.model:
                    return job
                if job.status == "cancelled":
                    raise self._lost(wanted, "was cancelled there")
                if job.status == "failed":
                    if "file" in job.error_param and not self._api.has_file(wanted.file):
                        return None
                    raise self._failed(wanted, job)
            self._pause(self._options.endpoint_poll_s, cancel)

    def _report(self, job: Job, emit: Emit) -> None:
        told = self._api.metrics(job.id)
        if not told.losses or max(told.losses) in self._losses:
            return
        self._losses |= told.losses
        self._total = max(self._total, told.total, *self._losses)
        step = max(self._losses)
        eta_s = max(0.0, job.finish_time - time.time()) if job.finish_time else 0.0
        progress = {"step": step, "total_steps": self._total, "loss": self._losses[step], "eta_s": eta_s}
        emit({"progress": progress})

    def _is_served(self, job: Job, cancel: Cancel) -> bool:
        """Waits for it: an endpoint may need some minutes. False: the job has ended long ago, so the model was deleted since. Raises
        Unavailable."""
        end = time.monotonic() + self._options.endpoint_patience_s
        while True:
            try:
                if self._api.serves(job.model):
                    return True
                if job.end_time and time.time() - job.end_time > _SERVED_WITHIN_S:
                    return False
            except _AWAY as error:
                log.warning("%s", error.message)
            if time.monotonic() > end:
                raise errors.Unavailable(
                    f"The endpoint at {self._spec.endpoint} has trained {job.model} (job {job.id}) and does not serve it yet. Asked for again, "
                    "the run waits again.",
                    field="endpoint",
                )
            self._pause(self._options.endpoint_poll_s, cancel)

    def _failed(self, wanted: _Wanted, job: Job) -> errors.SemiEvolError:
        """The job's own words."""
        self._records.end(wanted.number, f"failed: {job.error_code}")
        about = f", {job.error_param}" if job.error_param else ""
        said = job.error.rstrip(".") or "it does not say why"
        message = f"The fine-tuning job {job.id} at {self._spec.endpoint} failed: {said} ({job.error_code or 'no code'}{about})."
        if job.error_code in openai_client.OUT_OF_MONEY:
            return errors.NotAllowed(message, field="endpoint")
        if job.error_code in _THEIR_FAULT:
            return errors.Unavailable(message, field="endpoint")
        return errors.InvalidInput(message, field="spec.dataset_uri")

    def _lost(self, wanted: _Wanted, how: str) -> errors.SemiEvolError:
        self._records.end(wanted.number, how)
        return errors.Conflict(
            f"The fine-tuning job {wanted.job} at {self._spec.endpoint} {how}. Asked for again, the run creates another one."
        )

    def _pause(self, seconds: float, cancel: Cancel) -> None:
        end = time.monotonic() + seconds
        while not cancel.is_set() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _CANCEL_S))
        if cancel.is_set():
            raise errors.Cancelled(f"Nobody follows the training any more; {self._spec.endpoint} may go on with it.")


def chats(examples: Sequence[TrainingExample]) -> bytes:
    """The training file: a chat a line, whose last message is the response."""
    return b"".join(
        canonical_json(
            {
                "messages": [
                    *({"role": message.role, "content": message.content} for message in example.prompt),
                    {"role": "assistant", "content": example.completion},
                ]
            }
        )
        for example in examples
    )


def base_digest(spec: TrainingSpec) -> str:
    """What stands for the base model in a manifest: an endpoint's weights cannot be fingerprinted."""
    return content_key({"endpoint": spec.endpoint, "model": spec.base_model})


def cancel_job(store: ObjectStore, key: str, options: JobOptions) -> None:
    """Cancels the job of a key at the endpoint; one that has succeeded stays, for whoever asks for the key again. Raises as FineTuningApi."""
    records = RemoteRecords(store, key)
    number = records.last()
    if not number or records.ended(number):
        return
    api = FineTuningApi(options.endpoint, timeout_s=options.endpoint_timeout_s)
    try:
        job = records.job(number) or api.find(_metadata(key, number), records.file(number) or "")
        if job:
            api.cancel(job)
            if api.retrieve(job).status == "succeeded":
                return
        records.end(number, "cancelled")
    finally:
        api.close()


def _metadata(key: str, number: int) -> dict[str, str]:
    """What a job carries, to be found by."""
    return {"semievol_key": key, "semievol_number": str(number)}
