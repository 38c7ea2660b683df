"""A training run as the reconciler sees it: one more job. The training service owns the Job; we only ask for it by key."""

from __future__ import annotations

from typing import Any

from semievol.common import errors
from semievol.common.artifacts import uri
from semievol.common.work import Work
from semievol.ports import JobState, JobStatus, Trainer, TrainingSpec, TrainingState

_TRAINER_FIELDS = (
    "epochs",
    "learning_rate",
    "lora_rank",
    "lora_alpha",
    "batch_size",
    "gradient_accumulation",
    "max_tokens",
    "seed",
    "endpoint",
)


def training_spec(work: Work) -> TrainingSpec:
    """FT(M_base, D) as the training service wants it."""
    dataset = work.inputs["examples"][0]
    values = {name: work.params[name] for name in _TRAINER_FIELDS if name in work.params}
    return TrainingSpec(base_model=work.params["base_model"], dataset_uri=uri(dataset.key, dataset.file.path), **values)


class TrainingJob:
    """The run under the step's key; asked for once, then looked at."""

    def __init__(self, trainer: Trainer, work: Work, run: str) -> None:
        self._trainer = trainer
        self._key = work.key
        self.elsewhere = bool(work.params.get("endpoint"))  # an endpoint trains, and goes on without us
        self._state: TrainingState = trainer.create_run(work.key, training_spec(work), run=run)

    def status(self) -> JobStatus:
        self._state = self._trainer.get_run(self._key)
        if self._state.state == "succeeded":
            return JobStatus(JobState.SUCCEEDED, 0)
        if self._state.state in ("failed", "cancelled"):
            cls = errors.BY_CODE.get(self._state.error_code, errors.InternalError)
            code = errors.Cancelled.exit_code if self._state.state == "cancelled" else cls.exit_code
            return JobStatus(JobState.FAILED, code, self._state.error)
        return JobStatus(JobState.RUNNING, reason=self._state.waiting_reason)

    def progress(self) -> dict[str, Any] | None:
        state = self._state
        if not state.total_steps:
            return None
        counted = {"done": state.step, "total": state.total_steps, "unit": "updates"}
        return {**counted, "loss": state.loss, "tokens_per_s": state.tokens_per_s}

    def cancel(self) -> None:
        self._trainer.cancel_run(self._key)
