"""The fine-tuning API of an OpenAI-compatible endpoint, by its official client: files, jobs, events, cancel. Plain values, our errors.

Every call but one may be repeated and is, by the client: after timeouts, 408, 409, 429 (as Retry-After says) and 5xx. Creating a job is
left to the caller, who looks for the job before asking again: what timed out may have been done.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semievol.common import errors, openai_client
from semievol.common.endpoints import check_url

if TYPE_CHECKING:
    import openai

FIELD = "endpoint"
_RETRIES = 3
_PAGE = 100
_UNREADABLE = ("error", "deleted", "expired")  # states of a file
_MOST_JOBS = 2000  # that are looked through for one of ours, newest first
_STEP = re.compile(r"^Step (\d+)/(\d+): training loss=([-\d.einf]+)")  # what an event says where it carries no data
_FIELDS = {  # a parameter of the API -> the run file's key
    "n_epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate_multiplier": "train.learning_rate",
    "training_file": "data.labeled",
    "seed": "seed",
    "model": "model",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. `status`: validating_files | queued | running | succeeded | failed | cancelled; `model`: what it made; `error_*`: of a
    failed job; `finish_time`: when it is expected to be done, `end_time`: when it was, seconds since 1970, 0 if unknown."""

    id: str
    status: str
    model: str = ""
    error: str = ""
    error_code: str = ""
    error_param: str = ""
    finish_time: float = 0.0
    end_time: float = 0.0


@dataclass(frozen=True, slots=True)
class Metrics:
    """`losses` by update, as far as the endpoint told; `total` updates, 0 if unknown."""

    losses: Mapping[int, float]
    total: int


class FineTuningApi:
    """Raises, from every call: NotAllowed, Busy, Unavailable, DeadlineExceeded, InvalidInput; the constructor also NotSupported."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._url = check_url(url, field=FIELD)
        self._timeout_s = timeout_s
        key = openai_client.api_key(self._url)
        self._client = openai_client.connect(self._url, key, timeout_s=timeout_s, max_retries=_RETRIES, field=FIELD)

    def close(self) -> None:
        self._client.close()

    # ------------------------------------------------------------ files

    def upload(self, name: str, data: bytes) -> str:
        """A training file's id."""
        with self._errors("to take the training file"):
            return str(self._client.files.create(file=(name, data), purpose="fine-tune").id)

    def has_file(self, file: str) -> bool:
        """Whether it can still be read: neither deleted nor expired."""
        try:
            with self._errors(f"to show the file {file}"):
                found: Any = self._client.files.retrieve(file)
                return found.status not in _UNREADABLE and not 0 < (found.expires_at or 0) < time.time()
        except errors.NotFound:
            return False

    # ------------------------------------------------------------ jobs

    def create(self, arguments: Mapping[str, Any], once: str) -> str:
        """A job's id; one attempt. `once`: sent as Idempotency-Key, for servers that heed it. Raises also NotFound (field `model`)."""
        client = self._client.with_options(max_retries=0)
        with self._errors("to create the fine-tuning job"):
            return str(client.fine_tuning.jobs.create(**arguments, extra_headers={"Idempotency-Key": once}).id)

    def retrieve(self, job: str) -> Job:
        """Raises also NotFound."""
        with self._errors(f"to show the job {job}"):
            found: Any = self._client.fine_tuning.jobs.retrieve(job)
            error = found.error if found.error and found.error.message else None
            return Job(
                str(found.id),
                str(found.status),
                str(found.fine_tuned_model or ""),
                str(error.message) if error else "",
                str(error.code or "") if error else "",
                str(error.param or "") if error else "",
                float(found.estimated_finish or 0),
                float(found.finished_at or 0),
            )

    def find(self, metadata: Mapping[str, str], file: str) -> str | None:
        """The newest job with all of this metadata; of a server that keeps none, the one with this training file."""
        with self._errors("to list its fine-tuning jobs"):
            for count, job in enumerate(self._client.fine_tuning.jobs.list(limit=_PAGE)):
                theirs = dict(job.metadata or {})
                if metadata.items() <= theirs.items() or (not theirs and job.training_file == file):
                    return str(job.id)
                if count >= _MOST_JOBS:
                    break
        return None

    def cancel(self, job: str) -> None:
        """A job that has ended, or is gone, is no error."""
        with contextlib.suppress(errors.NotFound, errors.InvalidInput), self._errors(f"to cancel the job {job}"):
            self._client.fine_tuning.jobs.cancel(job)

    def metrics(self, job: str, *, everything: bool = False) -> Metrics:
        """Of the latest events, or of all."""
        losses: dict[int, float] = {}
        total = 0
        with self._errors(f"to list the events of the job {job}"):
            page: Any = self._client.fine_tuning.jobs.list_events(job, limit=_PAGE)
            for event in page if everything else page.data:
                step, of, loss = _metrics(event)
                if step and loss is not None:
                    losses.setdefault(step, loss)
                total = max(total, of)
        return Metrics(losses, total)

    def serves(self, model: str) -> bool:
        with self._errors("to list its models"):
            return any(one.id == model for one in self._client.models.list())

    # ------------------------------------------------------------ errors

    def _errors(self, asked: str) -> AbstractContextManager[None]:
        return openai_client.translated(
            self._url,
            field=FIELD,
            timeout_s=self._timeout_s,
            refused=lambda error: self._refused(error, asked),
            malformed=lambda: errors.Unavailable(
                f"What the endpoint at {self._url} answers, asked {asked}, is not of the fine-tuning API; has it got one?",
                field=FIELD,
            ),
        )

    def _refused(self, error: openai.APIStatusError, asked: str) -> errors.SemiEvolError:
        words, where = openai_client.words(error), f"The endpoint at {self._url}"
        param = str(error.param or "")
        field = next((key for name, key in _FIELDS.items() if param.endswith(name)), FIELD)
        if error.code in ("model_not_found", "model_not_available") or (field == "model" and error.status_code == 404):
            return errors.NotFound(
                f"{where} cannot fine-tune this model: {words}. `model` must be one that it trains.", field="model"
            )
        if error.status_code == 404:
            return errors.NotFound(f"{where} was asked {asked}, and has no such path or object: {words}.", field=field)
        named = f" ({field})" if field != FIELD else ""
        return errors.InvalidInput(f"{where} refuses {asked}{named}: {words}.", field=field)


def _metrics(event: Any) -> tuple[int, int, float | None]:
    """Update, updates in all, loss; 0, 0, None where it tells none."""
    data = event.data if isinstance(event.data, dict) else {}
    step, total, loss = data.get("step"), data.get("total_steps"), data.get("train_loss")
    if step is None and (said := _STEP.match(event.message or "")):
        step, total, loss = said[1], said[2], said[3]
    try:
        return int(step or 0), int(total or 0), None if loss is None else float(loss)
    except (TypeError, ValueError):
        return 0, 0, None
