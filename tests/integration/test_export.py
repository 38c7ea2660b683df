"""What a run trained on, as files that other people's trainers read unedited."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from semievol.cli.main import cli
from semievol.common import errors
from semievol.data.intake import Role, load

from tests.fake_suite import Suite, fake_suite

Record = dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, str]]:
    """A suite and a finished run of two iterations."""
    with fake_suite(tmp_path_factory.mktemp("export")) as suite:
        yield suite, suite.run(suite.spec(iterations=2))["run"]


@pytest.fixture
def export(exported: tuple[Suite, str], tmp_path: Path) -> Callable[..., Path]:
    """Exports the run with the command; the file."""

    def run(name: str, *options: object) -> Path:
        suite, run = exported
        result = invoke(suite, run, "-o", tmp_path / name, *options)
        assert result.exit_code == 0, result.stderr
        return tmp_path / name

    return run


def invoke(suite: Suite, run: str, *arguments: object) -> Result:
    address = suite.addresses["controller"]
    return CliRunner().invoke(cli, ["export", run, "--address", address, *map(str, arguments)])


def lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def artifact(suite: Suite, run: str, step: str, file: str, iteration: int = 1) -> list[Record]:
    """All lines of a step's file, over its shards."""
    found = next(one for one in suite.client.get_run(run).steps if (one.iteration, one.name) == (iteration, step))
    shards = [None] if found.shard_count == 1 and suite.artifacts.manifest(found.key) else range(found.shard_count)
    manifests = [suite.artifacts.manifest(found.key, shard) for shard in shards]
    return [line for manifest in manifests if manifest for line in suite.artifacts.read_json_lines(manifest.file(file))]


def test_the_export_is_the_training_set_with_pseudo_labels_first(
    exported: tuple[Suite, str], export: Callable[..., Path]
) -> None:
    suite, run = exported
    rows = lines(export("rows.jsonl", "--iteration", 1))
    trained = {line["row_id"]: line for line in artifact(suite, run, "examples-evolve", "train.jsonl")}
    assert [row["id"] for row in rows] == sorted(trained, key=lambda row_id: (trained[row_id]["source"] != "pseudo", row_id))
    for row in rows:
        example = trained[row["id"]]
        assert (row["prompt"], row["source"]) == (example["prompt"], example["source"])
        assert row["completion"] == [{"role": "assistant", "content": example["completion"]}]
        assert row["messages"] == row["prompt"] + row["completion"]
        assert row["run"] == run


def test_every_pseudo_label_says_how_it_came_about(exported: tuple[Suite, str], export: Callable[..., Path]) -> None:
    suite, run = exported
    verdicts = {line["id"]: line for line in artifact(suite, run, "judge", "verdicts.jsonl")}
    entropies = {line["id"]: line["entropy"] for line in artifact(suite, run, "score", "entropies.jsonl")}
    pseudo = [row for row in lines(export("rows.jsonl", "--iteration", 1)) if row["source"] == "pseudo"]
    assert pseudo
    for row in pseudo:
        verdict = verdicts[row["id"]]
        assert (row["answer"], row["decision"], row["agreement"]) == (
            verdict["answer"],
            verdict["decision"],
            verdict["agreement"],
        )
        assert row["entropy"] == entropies[row["id"]]
        assert [one["collaborator"] for one in row["collaborators"]] == ["warm-0", "warm-1"]
        share = sum(one["answer"] == row["answer"] for one in row["collaborators"]) / 2
        assert share == row["agreement"]
        assert (row["iteration"], row["model"].startswith("colours-warm-")) == (1, True)
        assert row["options"] == ["red", "green", "blue"]


def test_labeled_rows_claim_no_provenance(export: Callable[..., Path]) -> None:
    labeled = [row for row in lines(export("rows.jsonl")) if row["source"] == "labeled"]
    assert len(labeled) == 20
    nothing = {"entropy": None, "agreement": None, "decision": "", "collaborators": [], "iteration": 0, "model": ""}
    assert all({name: row[name] for name in nothing} == nothing for row in labeled)


def test_the_last_iterations_export_has_the_pseudo_labels_of_all_each_from_its_own(
    exported: tuple[Suite, str], export: Callable[..., Path]
) -> None:
    suite, run = exported
    first = {row["id"]: row for row in lines(export("first.jsonl", "--iteration", 1)) if row["source"] == "pseudo"}
    both = {row["id"]: row for row in lines(export("both.jsonl")) if row["source"] == "pseudo"}
    assert {row_id: row | {"run": run} for row_id, row in both.items() if row_id in first} == first
    later = [row for row_id, row in both.items() if row_id not in first]
    verdicts = {line["id"]: line for line in artifact(suite, run, "judge", "verdicts.jsonl", 2)}
    assert later
    assert {row["iteration"] for row in later} == {2}
    assert all(row["decision"] == verdicts[row["id"]]["decision"] for row in later)
    assert {row["model"] for row in later} != {row["model"] for row in first.values()}


def test_both_formats_hold_the_same_rows(export: Callable[..., Path]) -> None:
    from pyarrow import parquet

    assert parquet.read_table(export("rows.parquet")).to_pylist() == lines(export("rows.jsonl"))
    assert export("rows.txt", "--format", "jsonl").read_bytes() == export("again.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_trl_trains_on_the_file_as_it_is(export: Callable[..., Path], word_model: Path, tmp_path: Path, name: str) -> None:
    """`SFTTrainer` renders prompt and completion with the model's own template, takes the loss on the completion alone, and trains."""
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    path = export(name)
    kind = "parquet" if path.suffix == ".parquet" else "json"
    data = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == len(lines(export("plain.jsonl")))
    config = SFTConfig(output_dir=str(tmp_path / "out"), max_steps=1, report_to="none", use_cpu=True, save_strategy="no", seed=0)
    trainer = SFTTrainer(str(word_model), args=config, train_dataset=data)
    tokenizer = AutoTokenizer.from_pretrained(word_model)
    for given, made in zip(data, trainer.train_dataset, strict=True):
        assert made["input_ids"] == tokenizer.apply_chat_template(given["messages"], return_dict=True)["input_ids"]
        assert [label for label in made["labels"] if label != -100] == tokenizer(
            f"{given['completion'][0]['content']} <|im_end|>"
        )["input_ids"]
    assert trainer.train().training_loss > 0


def test_an_export_is_labeled_data_again(export: Callable[..., Path], exported: tuple[Suite, str]) -> None:
    suite, _ = exported
    path = export("rows.jsonl")
    data = load(path, suite.spec().task.task(), Role.LABELED)
    assert {row.id: row.answer for row in data.rows} == {row["id"]: row["answer"] for row in lines(path)}


def test_a_run_that_has_selected_nothing_yet_and_an_unknown_iteration_are_refused(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite:
        suite.trainer.hold = True
        run = suite.client.submit(suite.spec()).id
        early = invoke(suite, run, "-o", tmp_path / "a.jsonl")
        assert (early.exit_code, "has not selected" in early.stderr) == (73, True)
        suite.client.cancel_run(run)
        suite.trainer.hold = False
        suite.run(suite.spec())
        late = invoke(suite, run, "-o", tmp_path / "a.jsonl", "--iteration", 7)
        assert (late.exit_code, "has no iteration 7" in late.stderr) == (64, True)
        assert not (tmp_path / "a.jsonl").exists()
        with pytest.raises(errors.InvalidInput, match="count from 1"):
            list(suite.client.export(run, -1))


def test_a_damaged_artifact_leaves_no_file_behind(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite:
        run = suite.run(suite.spec())["run"]
        step = next(one for one in suite.client.get_run(run).steps if one.name == "examples-evolve")
        manifest = suite.artifacts.manifest(step.key)
        assert manifest is not None
        digest = manifest.file("train.jsonl").sha256
        blob = suite.home / "artifacts" / "blobs" / digest[:2] / digest
        intact = blob.read_bytes()
        blob.write_bytes(intact.replace(b"Answer", b"Anfwer", 1))
        result = invoke(suite, run, "-o", tmp_path / "a.jsonl")
        assert result.exit_code in (73, 74)  # found when its manifest is checked, or while it is read
        assert not (tmp_path / "a.jsonl").exists()
