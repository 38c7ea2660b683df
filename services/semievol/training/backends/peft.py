"""LoRA fine-tuning with PEFT on a GPU or a CPU.

The result is that of the plainest loop: AdamW steps on the mean loss over all response tokens of `batch_size x gradient_accumulation`
examples. Time is saved where it cannot show: an update's examples share few passes; on a CPU these are packed, without padding, and
the prefix that the prompts have in common (system message, instruction) is computed once; logits are made at response positions only;
activations are kept, not recomputed.

    n  examples of a pass    L  longest input    R  longest response    T  tokens of a packed pass    V  vocabulary
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, get_cosine_schedule_with_warmup
from transformers.utils.logging import disable_progress_bar

from semievol.algorithm.types import TrainingExample
from semievol.common import errors
from semievol.common.cpu_lane import lane_of
from semievol.common.models import LocalModel
from semievol.common.torch_models import flatten_head_input, torch_device, torch_precision
from semievol.ports import Cancel, TrainingSpec
from semievol.training import checkpoint
from semievol.training.batches import Pass, encode, passes, total_updates, update_indices
from semievol.training.core import JobOptions

MAX_GRADIENT_NORM = 1.0  # the trainer's usual default, as are AdamW's betas and no weight decay
_IGNORED = -100  # cross_entropy's own ignore_index
_PACKED_TOKENS = 1024  # attention over a packed sequence grows with its square, and beyond this shows
_RATE_UPDATES = 8  # tokens/s and ETA are those of the last updates

Emit = Callable[[Mapping[str, object]], None]


class PeftRun:
    """One fine-tuning run in this process. `losses`: one value an update; `cut`: prompts that lost their beginning."""

    def __init__(self, base: LocalModel, spec: TrainingSpec, options: JobOptions, examples: Sequence[TrainingExample]) -> None:
        self._base, self._spec, self._options = base, spec, options
        self._examples = encode(AutoTokenizer.from_pretrained(base.directory), examples, spec.max_tokens)
        self._update_examples = spec.batch_size * spec.gradient_accumulation
        self._total = total_updates(len(examples), spec.epochs, self._update_examples)
        self._device = torch.device(torch_device(options.device))
        self._dtype = getattr(torch, torch_precision(options.precision, self._device.type))
        self._on_lane = lane_of(self._device.type)
        self.model = self._on_lane(lambda: adapted_model(base, spec, self._device, self._dtype))
        if options.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        # A GPU has a quick attention for padded rows and none for our mask.
        self._packed = self._device.type == "cpu" and _can_pack(self.model)
        self._tokens_per_pass = min(options.tokens_per_pass, _PACKED_TOKENS) if self._packed else options.tokens_per_pass
        self._parameters = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.AdamW(self._parameters.values(), lr=spec.learning_rate, weight_decay=0.0, fused=True)
        warmup = math.ceil(self._total * spec.warmup_ratio)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, warmup, self._total)
        self.cut = sum(example.cut > 0 for example in self._examples)
        self.losses: list[float] = []
        self._resumed_at = 0
        self._tokens, self._seconds = 0, 0.0

    def train(self, checkpoints: Path, wanted: Mapping[str, Any], cancel: Cancel, emit: Emit) -> None:
        """All updates that are left. `wanted` says whose checkpoint may be continued. Raises Cancelled with a checkpoint saved,
        InvalidInput(field="spec.learning_rate") where the loss is no number any more."""
        torch.manual_seed(self._spec.seed)  # for models with dropout of their own; everything else is seeded where it is drawn
        self._restore(checkpoint.load(checkpoints, wanted))
        self.model.train()
        recent: deque[tuple[int, float]] = deque(maxlen=_RATE_UPDATES)
        emit({"progress": self._progress(recent)})
        saved_at, saved_step = time.monotonic(), len(self.losses)
        while len(self.losses) < self._total:
            started = time.monotonic()
            tokens = self._update_in_memory(cancel)
            if tokens is None:
                checkpoint.save(checkpoints, self._checkpoint(wanted))
                raise errors.Cancelled("The training was cancelled; its last checkpoint is kept.")
            recent.append((tokens, time.monotonic() - started))
            self._tokens, self._seconds = self._tokens + tokens, self._seconds + recent[-1][1]
            emit({"progress": self._progress(recent)})
            step, now = len(self.losses), time.monotonic()
            due = step - saved_step >= self._options.checkpoint_updates or now - saved_at >= self._options.checkpoint_interval_s
            if due and step < self._total:
                checkpoint.save(checkpoints, self._checkpoint(wanted))
                saved_at, saved_step = time.monotonic(), step

    def save(self, directory: Path) -> None:
        """The adapter as a plain PEFT directory."""
        self.model.peft_config["default"].base_model_name_or_path = self._base.reference
        self.model.save_pretrained(directory, save_embedding_layers=False)
        config = directory / "adapter_config.json"
        values = json.loads(config.read_text())
        values["target_modules"] = sorted(values["target_modules"])  # PEFT writes a set in the order of its hashes
        config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")

    def record(self) -> dict[str, Any]:
        """What this attempt did and how fast: tokens are the examples' own, padding and sharing left out."""
        return {
            "updates": len(self.losses) - self._resumed_at,
            "resumed_at": self._resumed_at,
            "train_seconds": self._seconds,
            "tokens": self._tokens,
            "tokens_per_s": self._tokens / self._seconds if self._seconds else 0.0,
            "device": str(self._device),
            "precision": str(self._dtype).removeprefix("torch."),
        }

    def _update_in_memory(self, cancel: Cancel) -> int | None:
        """`_update`, saying what to do where the GPU's memory is too small."""
        try:
            return self._on_lane(lambda: self._update(cancel))
        except torch.OutOfMemoryError as error:
            raise errors.Unavailable(
                "The GPU's memory is too small for this run: lower SEMIEVOL_TRAINING_TOKENS_PER_PASS, "
                "or set SEMIEVOL_TRAINING_GRADIENT_CHECKPOINTING."
            ) from error

    def _update(self, cancel: Cancel) -> int | None:
        """One AdamW step on the mean loss over the update's response tokens; the tokens of its examples. None: cancelled, nothing changed."""
        step = len(self.losses)
        indices = update_indices(step, len(self._examples), self._update_examples, self._spec.seed)
        examples = [self._examples[index] for index in indices]
        response_tokens = sum(len(example.response) for example in examples)
        loss = 0.0
        self._optimizer.zero_grad()
        for one in passes(examples, self._tokens_per_pass, packed=self._packed):
            if cancel.is_set():
                return None
            share = pass_loss(self.model, one) / response_tokens
            share.backward()
            loss += share.item()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRADIENT_NORM)
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise errors.InvalidInput(
                f"The loss is no finite number at update {step + 1} of {self._total}; lower the learning rate ({self._spec.learning_rate:g}).",
                field="spec.learning_rate",
            )
        self._optimizer.step()
        self._schedule.step()
        self.losses.append(loss)
        return sum(example.tokens for example in examples)

    def _progress(self, recent: Sequence[tuple[int, float]]) -> dict[str, Any]:
        tokens, seconds = sum(tokens for tokens, _ in recent), sum(seconds for _, seconds in recent)
        step = len(self.losses)
        return {
            "step": step,
            "total_steps": self._total,
            "loss": self.losses[-1] if self.losses else 0.0,
            "tokens_per_s": tokens / seconds if seconds else 0.0,
            "eta_s": seconds / len(recent) * (self._total - step) if recent else 0.0,
        }

    def _checkpoint(self, wanted: Mapping[str, Any]) -> checkpoint.Checkpoint:
        tensors = {"random/cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self._device)
        for name, parameter in self._parameters.items():
            tensors[f"adapter/{name}"] = parameter.detach()
            tensors |= {f"adamw/{part}/{name}": value for part, value in self._optimizer.state[parameter].items()}
        meta = {**wanted, "losses": self.losses, "schedule": self._schedule.state_dict()}
        return checkpoint.Checkpoint(len(self.losses), tensors, meta)

    def _restore(self, saved: checkpoint.Checkpoint | None) -> None:
        if saved is None:
            return
        self.losses = list(saved.meta["losses"])
        self._resumed_at = saved.step
        self._schedule.load_state_dict(dict(saved.meta["schedule"]))
        self._optimizer.param_groups[0]["lr"] = self._schedule.get_last_lr()[0]
        torch.set_rng_state(saved.tensors["random/cpu"])
        if "random/cuda" in saved.tensors and self._device.type == "cuda":
            torch.cuda.set_rng_state(saved.tensors["random/cuda"], self._device)
        for name, parameter in self._parameters.items():
            parameter.data.copy_(saved.tensors[f"adapter/{name}"])
            parts = ("step", "exp_avg", "exp_avg_sq") if saved.step else ()
            self._optimizer.state[parameter] = {part: saved.tensors[f"adamw/{part}/{name}"].to(self._device) for part in parts}


def adapted_model(base: LocalModel, spec: TrainingSpec, device: torch.device, dtype: torch.dtype) -> Any:
    """The base with a fresh adapter on all linear layers; equal seeds give equal weights on every device."""
    disable_progress_bar()  # a job's log is lines
    try:
        model = AutoModelForCausalLM.from_pretrained(base.directory, dtype=dtype, use_safetensors=True).to(device)
    except SafetensorError as error:
        reason = errors.first_line(error)
        raise errors.InvalidInput(f"The weights of {base.reference} are damaged: {reason}", field="spec.base_model") from error
    flatten_head_input(model)
    config = LoraConfig(
        r=spec.lora_rank, lora_alpha=spec.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)  # its weights are float32 whatever the base is
    generator = torch.Generator().manual_seed(spec.seed)
    for name, parameter in adapted.named_parameters():
        if "lora_A" in name:  # PEFT's own distribution, but drawn where no other thread draws
            fresh = torch.empty(parameter.shape)
            torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
            parameter.data.copy_(fresh)
    return adapted


def pass_loss(model: Any, one: Pass) -> torch.Tensor:
    """Sum of -log P over the response tokens of a pass, nats."""
    return _packed_loss(model, one) if one.packed else _padded_loss(model, one)


def _packed_loss(model: Any, one: Pass) -> torch.Tensor:
    """The examples in one sequence of T tokens: each sees the prefix and itself, at the positions that it would have alone."""
    device, shared = model.device, len(one.prefix)
    inputs = [(*rest.prompt, *rest.response[:-1]) for rest in one.rests]  # nothing follows a response's last token
    ids = [*one.prefix, *(token for tokens in inputs for token in tokens)]
    owner = torch.tensor([*[-1] * shared, *(row for row, tokens in enumerate(inputs) for _ in tokens)], device=device)
    positions = [*range(shared), *(shared + place for tokens in inputs for place in range(len(tokens)))]
    ends = [shared + sum(map(len, inputs[: row + 1])) for row in range(len(inputs))]
    kept = [place for rest, end in zip(one.rests, ends, strict=True) for place in range(end - len(rest.response), end)]
    seen = (owner == -1) | (owner == owner[:, None])  # [T, T]: by its row, of its column
    hidden = ~seen.tril()
    mask = torch.zeros(hidden.shape, dtype=model.dtype, device=device).masked_fill(hidden, torch.finfo(model.dtype).min)
    logits = model(
        input_ids=torch.tensor([ids], device=device),  # [1, T]
        attention_mask=mask[None, None],  # [1, 1, T, T], added to the scores
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        logits_to_keep=torch.tensor(kept, device=device),
    ).logits  # [1, response tokens, V]
    labels = torch.tensor([token for rest in one.rests for token in rest.response], device=device)
    return torch.nn.functional.cross_entropy(logits[0].float(), labels, reduction="sum")


def _padded_loss(model: Any, one: Pass) -> torch.Tensor:
    """The examples as rows, padded on the left, so that responses end together."""
    device, n = model.device, len(one.rests)
    inputs = [(*rest.prompt, *rest.response[:-1]) for rest in one.rests]
    width, kept = max(map(len, inputs)), max(len(rest.response) for rest in one.rests)
    ids = torch.zeros((n, width), dtype=torch.long)
    mask = torch.ones((n, width), dtype=torch.long)
    labels = torch.full((n, kept), _IGNORED)
    for row, (tokens, rest) in enumerate(zip(inputs, one.rests, strict=True)):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, : width - len(tokens)] = 0
        labels[row, kept - len(rest.response) :] = torch.tensor(rest.response)
    logits = model(
        input_ids=ids.to(device),  # [n, L]
        attention_mask=mask.to(device),  # [n, L]
        position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(device),  # [n, L]
        use_cache=False,
        logits_to_keep=kept,
    ).logits  # [n, R, V]
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.to(device).flatten(), ignore_index=_IGNORED, reduction="sum"
    )


def _can_pack(model: Any) -> bool:
    """Whether the model attends as our mask says: every layer to all earlier tokens, no windows, no recurrent states."""
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return model.config._attn_implementation in ("sdpa", "eager") and all(type(layer) is DynamicLayer for layer in layers)
