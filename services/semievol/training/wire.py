"""pb2 messages <-> plain values of the training service; used by the servicer and the client."""

from __future__ import annotations

from dataclasses import asdict

from semievol.ports import TrainingSpec, TrainingState
from semievol.training.v1 import training_service_pb2 as pb

_PREFIX = "RUN_STATE_"


def spec_from_wire(message: pb.TrainingSpec) -> TrainingSpec:
    """Fields that are zero take their documented defaults; negative ones stay, for the core to refuse."""
    default = TrainingSpec("", "")
    rank = message.lora_rank or default.lora_rank
    return TrainingSpec(
        base_model=message.base_model,
        dataset_uri=message.dataset_uri,
        epochs=message.epochs or default.epochs,
        learning_rate=message.learning_rate or default.learning_rate,
        lora_rank=rank,
        lora_alpha=message.lora_alpha or 2 * rank,
        batch_size=message.batch_size or default.batch_size,
        gradient_accumulation=message.gradient_accumulation or default.gradient_accumulation,
        max_tokens=message.max_tokens or default.max_tokens,
        warmup_ratio=message.warmup_ratio if message.HasField("warmup_ratio") else default.warmup_ratio,
        seed=message.seed,
        endpoint=message.endpoint,
    )


def spec_to_wire(spec: TrainingSpec) -> pb.TrainingSpec:
    return pb.TrainingSpec(**asdict(spec))


def state_from_wire(run: pb.TrainingRun) -> TrainingState:
    return TrainingState(
        key=run.key,
        state=pb.RunState.Name(run.state).removeprefix(_PREFIX).lower(),
        step=run.step,
        total_steps=run.total_steps,
        loss=run.loss,
        tokens_per_s=run.tokens_per_second,
        eta_s=run.eta.ToMicroseconds() / 1e6,
        adapter_uri=run.adapter_uri,
        error=run.error,
        error_code=run.error_code,
        waiting_reason=run.waiting_reason,
    )


def state_to_wire(state: TrainingState) -> pb.TrainingRun:
    run = pb.TrainingRun(
        key=state.key,
        state=pb.RunState.Value(_PREFIX + state.state.upper()),
        step=state.step,
        total_steps=state.total_steps,
        loss=state.loss,
        tokens_per_second=state.tokens_per_s,
        adapter_uri=state.adapter_uri,
        error=state.error,
        error_code=state.error_code,
        waiting_reason=state.waiting_reason,
    )
    if state.eta_s:
        run.eta.FromMicroseconds(round(state.eta_s * 1e6))
    return run
