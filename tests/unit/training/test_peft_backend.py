"""LoRA training on a tiny model: the fast loop against the plainest one, checkpoints, what is published."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from semievol.algorithm.types import Message, TrainingExample
from semievol.common import errors
from semievol.common.models import LocalModel, resolve_model
from semievol.training import checkpoint, dataset, job
from semievol.training.batches import encode, passes, update_indices

from tests.training_runs import Bench, records

torch = pytest.importorskip("torch")

KEY = "d" * 64
CPU = torch.device("cpu")


@pytest.fixture
def bench(tmp_path: Path, word_model: Path) -> Bench:
    return Bench(tmp_path, word_model)


@pytest.fixture
def base(word_model: Path, tmp_path: Path) -> LocalModel:
    return resolve_model(str(word_model), tmp_path)


def examples(rows: int = 20) -> list[TrainingExample]:
    return dataset.parse(b"\n".join(json.dumps(record).encode() for record in records(rows)), "train.jsonl")


def encoded(base: LocalModel) -> Any:
    from transformers import AutoTokenizer

    return encode(AutoTokenizer.from_pretrained(base.directory), examples(), 1024)


def train(
    bench: Bench,
    spec: Any,
    *,
    emit: Callable[[Mapping[str, object]], None] = lambda event: None,
    cancel: Any = None,
    **changes: Any,
) -> Any:
    """Trains in this thread as the job does; the published manifest."""
    from dataclasses import asdict

    from semievol.common.keys import canonical_json

    args = (KEY, "1", canonical_json(asdict(spec)).decode(), canonical_json(asdict(bench.options(**changes))).decode())
    job.run(args, cancel or threading.Event(), emit)
    return bench.artifacts.manifest(KEY)


def naive_losses(base: LocalModel, spec: Any, updates: int) -> tuple[list[float], Any]:
    """The plainest loop: one example a forward pass, full logits, no cache, no padding."""
    from semievol.training.backends.peft import adapted_model
    from transformers import get_cosine_schedule_with_warmup

    model = adapted_model(base, spec, CPU, torch.float32)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=spec.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(updates * spec.warmup_ratio), updates)
    rows, losses = encoded(base), []
    for step in range(updates):
        chosen = [rows[index] for index in update_indices(step, len(rows), 8, spec.seed)]
        count = sum(len(row.response) for row in chosen)
        optimizer.zero_grad()
        total = 0.0
        for row in chosen:
            ids = torch.tensor([[*row.prompt, *row.response]])
            log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
            start = len(row.prompt)
            loss = -sum(log_probs[start - 1 + k, token] for k, token in enumerate(row.response)) / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(total)
    return losses, model


@pytest.mark.parametrize("tokens_per_pass", [1, 60, 100_000])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_the_loss_curve_is_the_plainest_loops_however_passes_are_cut(
    bench: Bench, base: LocalModel, tokens_per_pass: int, gradient_checkpointing: bool
) -> None:
    """Nine updates at a high rate; float32 sums in another order differ by some 1e-6."""
    spec = bench.spec(epochs=3)
    changes = {"tokens_per_pass": tokens_per_pass, "gradient_checkpointing": gradient_checkpointing}
    manifest = train(bench, spec, **changes)
    log = json.loads(bench.artifacts.read(manifest.file("training_log.json")))
    expected, _ = naive_losses(base, spec, 9)
    assert log["loss"] == pytest.approx(expected, abs=2e-4)
    assert expected[0] - expected[-1] > 0.05  # it does learn


def test_gradients_are_those_of_the_plainest_loop_padded_and_packed(bench: Bench, base: LocalModel) -> None:
    from semievol.training.backends.peft import adapted_model, pass_loss

    rows = encoded(base)[:8]
    gradients = []
    for tokens_per_pass, packed in ((1, False), (100_000, False), (100_000, True), (250, True)):
        model = adapted_model(base, bench.spec(), CPU, torch.float32)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zeros would hide the gradients of A
                torch.nn.init.constant_(parameter, 0.01)
        made = passes(rows, tokens_per_pass, packed=packed)
        assert bool(made[0].prefix) == packed
        for one in made:
            pass_loss(model, one).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    naive, *others = gradients
    assert len(naive) == 28  # A and B of seven linear layers in two blocks
    for name, gradient in naive.items():
        for other in others:
            torch.testing.assert_close(other[name], gradient, rtol=1e-3, atol=1e-5)


def test_the_loss_is_on_the_response_only(base: LocalModel, bench: Bench) -> None:
    """-log P of `road` and of the end of the turn, from a plain forward pass of the base model (B = 0: the adapter adds nothing)."""
    from semievol.training.backends.peft import adapted_model, pass_loss
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.directory)
    example = TrainingExample("a", (Message("user", "the road is broken"),), "road")
    (row,) = encode(tokenizer, [example], 1024)
    assert tokenizer.convert_ids_to_tokens(list(row.response)) == ["road", "<|im_end|>"]
    ids = torch.tensor([[*row.prompt, *row.response]])
    log_probs = AutoModelForCausalLM.from_pretrained(base.directory)(input_ids=ids).logits[0].log_softmax(-1)
    start = len(row.prompt)
    expected = -(log_probs[start - 1, row.response[0]] + log_probs[start, row.response[1]])
    model = adapted_model(base, bench.spec(), CPU, torch.float32)
    for packed in (False, True):
        (one,) = passes([row], 1000, packed=packed)
        torch.testing.assert_close(pass_loss(model, one), expected)


def published(bench: Bench) -> dict[str, bytes]:
    manifest = bench.artifacts.manifest(KEY)
    assert manifest is not None
    return {file.path: bench.artifacts.read(file) for file in manifest.files}


def cancelling(at_step: int) -> tuple[threading.Event, Callable[[Mapping[str, Any]], None]]:
    """A cancel that is set when the run reports this update."""
    cancel = threading.Event()

    def emit(event: Mapping[str, Any]) -> None:
        if event["progress"]["step"] == at_step:
            cancel.set()

    return cancel, emit


@pytest.mark.parametrize("at_step", [0, 1, 4])
def test_a_cancelled_run_saves_a_checkpoint_and_ends_with_the_undisturbed_runs_bytes(
    bench: Bench, tmp_path: Path, word_model: Path, at_step: int
) -> None:
    undisturbed = Bench(tmp_path / "undisturbed", word_model)
    train(undisturbed, undisturbed.spec(epochs=3))
    cancel, emit = cancelling(at_step)
    with pytest.raises(errors.Cancelled):
        train(bench, bench.spec(epochs=3), emit=emit, cancel=cancel)
    (saved,) = Path(bench.options().checkpoints, KEY).iterdir()
    assert saved.name.startswith(f"step-{at_step:08d}-")
    seen: list[Any] = []
    train(bench, bench.spec(epochs=3), emit=seen.append)
    assert seen[0]["progress"]["step"] == at_step
    assert published(bench) == published(undisturbed)
    assert not Path(bench.options().checkpoints, KEY).exists()


def test_checkpoints_come_by_updates_and_only_the_last_is_kept(bench: Bench, base: LocalModel) -> None:
    cancel, emit = cancelling(at_step=5)
    directory = Path(bench.options().checkpoints, KEY)
    seen: list[list[str]] = []

    def watching(event: Mapping[str, Any]) -> None:
        seen.append([path.name[:13] for path in directory.glob("step-*")])
        emit(event)

    with pytest.raises(errors.Cancelled):
        train(bench, bench.spec(epochs=3), emit=watching, cancel=cancel, checkpoint_updates=2)
    assert seen == [[], [], [], ["step-00000002"], ["step-00000002"], ["step-00000004"]]


def test_checkpoints_come_by_time_too(bench: Bench) -> None:
    cancel, emit = cancelling(at_step=2)
    directory = Path(bench.options().checkpoints, KEY)
    seen: list[int] = []

    def watching(event: Mapping[str, Any]) -> None:
        seen.append(len(list(directory.glob("step-*"))))
        emit(event)

    with pytest.raises(errors.Cancelled):
        train(bench, bench.spec(epochs=3), emit=watching, cancel=cancel, checkpoint_interval_s=1e-6)
    assert seen == [0, 0, 1]


def test_a_damaged_checkpoint_is_ignored_and_the_run_starts_over(bench: Bench, tmp_path: Path, word_model: Path) -> None:
    undisturbed = Bench(tmp_path / "undisturbed", word_model)
    train(undisturbed, undisturbed.spec())
    cancel, emit = cancelling(at_step=3)
    with pytest.raises(errors.Cancelled):
        train(bench, bench.spec(), emit=emit, cancel=cancel)
    (saved,) = Path(bench.options().checkpoints, KEY).iterdir()
    data = bytearray(saved.read_bytes())
    data[-5] ^= 1
    saved.write_bytes(bytes(data))
    train(bench, bench.spec())
    assert published(bench) == published(undisturbed)


def test_a_checkpoint_of_other_data_is_ignored(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoint(3, {"a": torch.ones(2)}, {"dataset_sha256": "x", "losses": [1.0]})
    checkpoint.save(tmp_path, saved)
    assert checkpoint.load(tmp_path, {"dataset_sha256": "y"}) is None
    found = checkpoint.load(tmp_path, {"dataset_sha256": "x"})
    assert found is not None
    assert (found.step, found.meta["losses"], found.tensors["a"].tolist()) == (3, [1.0], [1.0, 1.0])


def test_peft_and_transformers_load_the_published_directory_unedited(bench: Bench, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    manifest = train(bench, bench.spec(epochs=4))
    directory = bench.artifacts.fetch(manifest, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(bench.model)
    ids = torch.tensor([[1, 4, 7, 8, 9]])
    plain = base(input_ids=ids).logits.detach()
    by_transformers = AutoModelForCausalLM.from_pretrained(directory)  # finds the base by adapter_config.json
    by_peft = PeftModel.from_pretrained(base, directory)
    torch.testing.assert_close(by_peft(input_ids=ids).logits, by_transformers(input_ids=ids).logits)
    assert (by_peft(input_ids=ids).logits - plain).abs().max() > 0.01  # the adapter is applied


def test_the_model_card_says_what_it_was_made_from(bench: Bench, base: LocalModel) -> None:
    train(bench, bench.spec())
    files = published(bench)
    card = files["README.md"].decode()
    assert f"| base model | `{bench.model}` |" in card
    assert base.sha256 in card
    assert "| examples by source | 15 labeled, 5 pseudo |" in card
    config = json.loads(files["adapter_config.json"])
    assert config["base_model_name_or_path"] == str(bench.model)
    assert config["target_modules"] == sorted(config["target_modules"])


def test_the_attempts_record_has_the_speed_and_the_artifact_has_no_times(bench: Bench) -> None:
    train(bench, bench.spec())
    (record,) = bench.artifacts.attempts(KEY)
    assert record["updates"] == 6
    assert record["tokens"] > 0
    assert record["tokens_per_s"] > 0
    assert set(json.loads(published(bench)["training_log.json"])) == {"loss", "prompts_cut"}


def test_a_loss_that_explodes_is_an_error_and_nothing_is_published(bench: Bench) -> None:
    with pytest.raises(errors.InvalidInput, match="lower the learning rate") as caught:
        train(bench, bench.spec(learning_rate=1e30, epochs=20, warmup_ratio=0.0))
    assert caught.value.field == "spec.learning_rate"
    assert bench.artifacts.manifest(KEY) is None


def test_prompts_over_the_limit_are_cut_and_counted(bench: Bench) -> None:
    manifest = train(bench, bench.spec(max_tokens=24))
    assert json.loads(bench.artifacts.read(manifest.file("training_log.json")))["prompts_cut"] > 0


def test_a_second_pod_of_a_finished_job_does_nothing(bench: Bench) -> None:
    train(bench, bench.spec())
    events: list[Any] = []
    train(bench, bench.spec(), emit=events.append)
    assert events == []


def test_a_device_that_is_not_there_is_named(bench: Bench) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(errors.Unavailable, match="no CUDA device"):
        train(bench, bench.spec(), device="cuda")


def test_a_base_with_damaged_weights_is_refused(bench: Bench, base: LocalModel, tmp_path: Path) -> None:
    from semievol.training.backends.peft import adapted_model

    directory = shutil.copytree(base.directory, tmp_path / "damaged")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    damaged = LocalModel(base.reference, directory, base.sha256)
    with pytest.raises(errors.InvalidInput, match="are damaged") as caught:
        adapted_model(damaged, bench.spec(), torch.device("cpu"), torch.float32)
    assert caught.value.field == "spec.base_model"
