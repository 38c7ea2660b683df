"""Training speed against TRL's SFTTrainer: the same rows in the same order, the same effective batch, the same initial adapter.

    .venv/bin/python benchmarks/training_vs_trl.py [--updates 6] [--rounds 3] [--setting short|long|all] [--cpu-time]

Prints tokens/s (the rows' own tokens, without padding; medians over updates, variants interleaved by round), the ratio of ours to
each way of running TRL, and the largest difference between the loss curves. Rows are already tokenised for both. `--cpu-time` counts
one thread's CPU seconds instead of the clock's, for a machine that has other work to do.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Message, TrainingExample
from semievol.common.models import LocalModel, resolve_model
from semievol.ports import TrainingSpec
from semievol.training.batches import encode, update_indices
from semievol.training.core import JobOptions

UPDATE_EXAMPLES = 8
_now = time.monotonic  # `--cpu-time` puts time.process_time here
_TEAMS = ("roads", "water", "parks", "noise", "waste", "lights")
_INSTRUCTION = (
    "You route messages of citizens to the team that can help. The teams are roads, water, parks, noise, waste and lights. "
    "Reply with the line 'Answer: TEAM' and nothing else. "
)
_PHRASES = (
    "the pavement in front of our house has a hole",
    "since Monday the tap gives brown water",
    "somebody cut down the old chestnut by the pond",
    "there is a party every night until four",
    "nobody has emptied the bins for three weeks",
    "the lamp at the crossing flickers all the time",
    "my daughter nearly fell there with her bicycle",
    "I have written about this before and got no answer",
    "please tell me when somebody will come and look at it",
    "the neighbours say the same and are just as tired of it",
)


@dataclass
class Variant:
    """One way to train; `train` returns (seconds, loss) of each update."""

    name: str
    train: Callable[[], list[tuple[float, float]]]
    seconds: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def run(self) -> None:
        timed = self.train()
        self.seconds.append([seconds for seconds, _ in timed])
        self.losses = [loss for _, loss in timed]


def rows(count: int, setting: str) -> list[TrainingExample]:
    """Messages of some 100 to 150 tokens with the chat template; replies of about 5 tokens, or 40 to 80 in the setting `long`."""
    draw = random.Random(0)
    made = []
    for i in range(count):
        message = ", ".join(draw.sample(_PHRASES, draw.randint(2, 5))).capitalize() + "."
        reply = f"Answer: {draw.choice(_TEAMS)}"
        if setting == "long":
            reply = "The message says that " + ", and that ".join(draw.sample(_PHRASES, draw.randint(3, 5))) + f". {reply}"
        made.append(TrainingExample(f"r{i}", (Message("user", _INSTRUCTION + message),), reply))
    return made


def ours(base: LocalModel, spec: TrainingSpec, examples: list[TrainingExample]) -> list[tuple[float, float]]:
    from semievol.training.backends.peft import PeftRun

    with tempfile.TemporaryDirectory() as scratch:
        run = PeftRun(base, spec, JobOptions(store="", cache="", checkpoints=scratch, precision="float32"), examples)
        ticks: list[float] = []

        def emit(event: Mapping[str, object]) -> None:
            ticks.append(_now())

        run.train(Path(scratch), {}, threading.Event(), emit)
    return [(after - before, loss) for before, after, loss in zip(ticks, ticks[1:], run.losses, strict=False)]


def trl(base: LocalModel, spec: TrainingSpec, examples: list[TrainingExample], **changes: Any) -> list[tuple[float, float]]:
    """SFTTrainer with its own defaults but for what has to be equal, and for `changes`."""
    import torch
    from transformers import AutoTokenizer, PrinterCallback
    from trl import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base.directory)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=_adapted(base, spec),
            args=_trl_arguments(spec, scratch, len(examples) // UPDATE_EXAMPLES, **changes),
            train_dataset=_trl_rows(tokenizer, examples, spec),
            processing_class=tokenizer,
            callbacks=[clock := _clock()],
        )
        assert all(value.dtype is torch.float32 for value in trainer.model.parameters() if value.requires_grad)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return list(zip(clock.seconds, losses, strict=True))


def _adapted(base: LocalModel, spec: TrainingSpec) -> Any:
    """The same base in float32 with the same initial adapter as ours."""
    import torch
    from semievol.training.backends.peft import adapted_model

    return adapted_model(base, spec, torch.device("cpu"), torch.float32)


def _trl_arguments(spec: TrainingSpec, directory: str, updates: int, **changes: Any) -> Any:
    from trl import SFTConfig

    values: dict[str, Any] = {
        "output_dir": directory,
        "per_device_train_batch_size": spec.batch_size,
        "gradient_accumulation_steps": spec.gradient_accumulation,
        "learning_rate": spec.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(updates * spec.warmup_ratio),
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",  # the rows come in our order
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "completion_only_loss": True,  # TRL assumes it for prompts and completions, not for rows that are tokenised already
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
    }
    return SFTConfig(**(values | changes))


def _trl_rows(tokenizer: Any, examples: list[TrainingExample], spec: TrainingSpec) -> Any:
    """Tokenised by us, in the order in which our loop sees them."""
    from datasets import Dataset

    encoded = encode(tokenizer, examples, spec.max_tokens)
    updates = len(encoded) // UPDATE_EXAMPLES
    order = [i for step in range(updates) for i in update_indices(step, len(encoded), UPDATE_EXAMPLES, spec.seed)]
    return Dataset.from_list(
        [
            {
                "input_ids": [*encoded[i].prompt, *encoded[i].response],
                "completion_mask": [0] * len(encoded[i].prompt) + [1] * len(encoded[i].response),
            }
            for i in order
        ]
    )


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds from each update's beginning to its end."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self._began = 0.0

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self._began = _now()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds.append(_now() - self._began)

    return Clock()


def variants(base: LocalModel, spec: TrainingSpec, examples: list[TrainingExample]) -> Iterator[Variant]:
    whole = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    yield Variant("ours", lambda: ours(base, spec, examples))
    yield Variant("TRL, its defaults (bf16 autocast, checkpointing)", lambda: trl(base, spec, examples, bf16=True))
    yield Variant("TRL in float32, else its defaults", lambda: trl(base, spec, examples))
    yield Variant("TRL in float32, no checkpointing", lambda: trl(base, spec, examples, gradient_checkpointing=False))
    yield Variant(
        "TRL in float32, no checkpointing, batch 8 x 1",
        lambda: trl(base, spec, examples, gradient_checkpointing=False, **whole),
    )


def compare(base: LocalModel, setting: str, updates: int, rounds: int, only: str) -> None:
    from transformers import AutoTokenizer

    spec = TrainingSpec(str(base.directory), "", epochs=1)
    examples = rows(updates * UPDATE_EXAMPLES, setting)
    encoded = encode(AutoTokenizer.from_pretrained(base.directory), examples, spec.max_tokens)
    tokens = sum(row.tokens for row in encoded)
    responses = sum(len(row.response) for row in encoded)
    print(
        f"\n{setting}: {len(examples)} rows, {tokens / len(examples):.0f} tokens each, {responses / len(examples):.0f} of them response"
    )
    chosen = [variant for variant in variants(base, spec, examples) if only in variant.name or variant.name == "ours"]
    for number in range(rounds):
        for variant in chosen if number % 2 == 0 else reversed(chosen):
            variant.run()
            print(f"  round {number + 1}: {variant.name}: {tokens / sum(variant.seconds[-1]):.0f} tokens/s", flush=True)
    report(chosen, tokens)


def report(chosen: list[Variant], tokens: int) -> None:
    """Every update has the median of its rounds; a run is their sum."""
    best = _seconds(chosen[0])
    print("| variant | tokens/s | ours is | largest loss difference |")
    print("|---|---|---|---|")
    for variant in chosen:
        apart = max(abs(a - b) for a, b in zip(variant.losses, chosen[0].losses, strict=True))
        print(f"| {variant.name} | {tokens / _seconds(variant):.0f} | {_seconds(variant) / best:.2f} x | {apart:.5f} |")
    print("our loss: " + " ".join(f"{loss:.4f}" for loss in chosen[0].losses), flush=True)


def _seconds(variant: Variant) -> float:
    return sum(statistics.median(update) for update in zip(*variant.seconds, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "semievol-bench"))
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--setting", choices=["short", "long", "all"], default="all")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its CPU seconds")
    parser.add_argument("--only", default="", help="run only the ways of TRL whose name contains this")
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if args.cpu_time:
        import torch

        global _now
        _now = time.process_time
        torch.set_num_threads(1)
    base = resolve_model(args.model, args.cache)
    for setting in ("short", "long") if args.setting == "all" else (args.setting,):
        compare(base, setting, args.updates, args.rounds, args.only)


if __name__ == "__main__":
    main()
