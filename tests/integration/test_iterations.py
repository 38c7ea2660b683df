"""Several iterations, the gate between them, rows that come later, steps that are done again, and making room."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.common.artifacts import blob_path
from semievol.common.runspec import RunSpec
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.ports import CollectionInfo
from semievol.retrieval.backends.fake import FakeVectorIndex

from tests.fake_suite import Suite, colour_script, fake_suite, write_colours


def script_of(*good: bool) -> Callable[[str, Sequence[Message], int], str]:
    """As the colour script, but the adapters answer held-out questions rightly or not at all, in the order in which they come."""
    seen: list[str] = []

    def script(model: str, messages: Sequence[Message], seed: int) -> str:
        question = messages[-1].content.rpartition("Question: ")[2].splitlines()[0]
        if model != "base" and model not in seen and "canary" not in question:
            seen.append(model)
        if " dev thing " in question and model in seen:
            index = min(seen.index(model), len(good) - 1)
            return (
                "Answer: " + "ABC"[next(i for i, c in enumerate(("red", "green", "blue")) if c in question)]
                if good[index]
                else "?"
            )
        return colour_script(model, messages, seed)

    return script


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with fake_suite(tmp_path) as running:
        yield running


def with_dev(suite: Suite, **changes: Any) -> RunSpec:
    return suite.with_data(suite.spec(**changes), dev=write_colours(suite.home, "dev", answers=True))


def alias_of(suite: Suite) -> str:
    (alias,) = suite.client.list_models().aliases
    return str(alias.model)


def lines(suite: Suite, kind: str, path: str) -> list[list[Any]]:
    """The records of every published file of this name, one list a step."""
    manifests = [json.loads(file.read_bytes()) for file in sorted((suite.home / "artifacts").rglob("MANIFEST.json"))]
    keys = [manifest["key"] for manifest in manifests if manifest["contract"].startswith(f"{kind}/")]
    found = [suite.artifacts.manifest(key) for key in keys]
    return [suite.artifacts.read_json_lines(manifest.file(path)) for manifest in found if manifest]


# ---------------------------------------------------------------- the gate


def test_a_worse_model_ends_the_iterations_and_the_best_one_keeps_the_alias(tmp_path: Path) -> None:
    with fake_suite(tmp_path, script_of(True, False)) as suite:
        result = suite.run(with_dev(suite, iterations=3))
        (iteration,) = result["iterations"]
        assert iteration["gate"]["passed"] is False
        assert (iteration["gate"]["n"], iteration["gate"]["before"], iteration["gate"]["after"]) == (20, 1.0, 0.0)
        assert result["stopped"] == "gate"
        assert result["best"]["name"] == iteration["models"]["warm"]["name"] == alias_of(suite)


def test_the_last_model_that_passed_keeps_the_alias(tmp_path: Path) -> None:
    with fake_suite(tmp_path, script_of(True, True, False)) as suite:
        result = suite.run(with_dev(suite, iterations=4))
        assert [one["gate"]["passed"] for one in result["iterations"]] == [True, False]
        assert result["best"]["name"] == result["iterations"][0]["models"]["evolved"]["name"] == alias_of(suite)


def test_models_that_pass_go_on_and_each_is_measured_once(tmp_path: Path) -> None:
    with fake_suite(tmp_path, script_of(True)) as suite:
        result = suite.run(with_dev(suite, iterations=2))
        assert [one["gate"]["passed"] for one in result["iterations"]] == [True, True]
        assert result["stopped"] is None
        assert {"1/dev-warm", "1/dev-evolved", "1/gate", "2/dev-evolved", "2/gate"} <= set(result["seconds"])
        assert "2/dev-warm" not in result["seconds"]


def test_without_a_warm_model_the_base_is_what_has_to_be_beaten(tmp_path: Path) -> None:
    with fake_suite(tmp_path, script_of(True)) as suite:
        collaborators = [{"model": "base", "references": 0}, {"model": "base", "references": 1}]
        result = suite.run(with_dev(suite, in_weight=False, collaborators=collaborators, max_no_answer=1.0))
        assert result["error"] == ""
        assert result["iterations"][0]["gate"]["before"] == 0.0


def test_labeled_rows_are_kept_out_where_there_is_no_dev_file(suite: Suite) -> None:
    result = suite.run(suite.spec(gate={"holdout": 0.25, "min_gain": -1.0}, iterations=2))
    assert result["error"] == ""
    assert result["iterations"][0]["labeled"] == 15
    assert [one["gate"]["n"] for one in result["iterations"]] == [5, 5]
    (held_out,) = lines(suite, "intake", "dev.jsonl")
    trained = {line["row_id"] for step in lines(suite, "examples", "train.jsonl") for line in step}
    assert len(held_out) == 5
    assert not {row["id"] for row in held_out} & trained


def test_few_labeled_rows_are_not_kept_out_unless_asked_for(suite: Suite) -> None:
    result = suite.run(suite.spec(iterations=2))
    assert result["iterations"][0]["labeled"] == 20
    assert "gate" not in result["iterations"][0]


def test_dev_rows_and_holdout_exclude_each_other(suite: Suite) -> None:
    with pytest.raises(errors.InvalidInput, match=r"gate.holdout.*data.dev"):
        suite.spec(data={"labeled": "a", "unlabeled": "b", "dev": "c"}, gate={"holdout": 0.1})


# ---------------------------------------------------------------- rows that come later


def add(suite: Suite, run: str, path: Path) -> pb.AddDataResponse:
    return suite.client.add_data(run, suite.client.upload(path))


def more(suite: Suite, name: str, rows: int = 6) -> Path:
    return write_colours(suite.home, name, answers=False, rows=rows)


def test_new_rows_are_taken_up_by_the_next_iteration(suite: Suite) -> None:
    first = suite.run(suite.spec())
    left = first["iterations"][0]["unlabeled"] - first["iterations"][0]["selected"]
    added = add(suite, first["run"], more(suite, "new"))
    assert added.iteration == 2
    assert (added.row_count, added.new_row_count) == (6, 6)
    assert added.run.state == pb.STATE_SUCCEEDED
    result = suite.run(suite.spec())
    assert result["run"] == first["run"]
    assert [one["n"] for one in result["iterations"]] == [1, 2]
    assert result["iterations"][1]["unlabeled"] == left + 6
    assert result["iterations"][1]["models"]["warm"]["uri"] == first["models"]["evolved"]["uri"]
    assert set(first["seconds"]) <= set(result["reused"])


def test_rows_that_the_run_has_seen_are_left_out(suite: Suite) -> None:
    first = suite.run(suite.spec())
    left = first["iterations"][0]["unlabeled"] - first["iterations"][0]["selected"]
    old_and_new = suite.home / "both.csv"
    old = write_colours(suite.home, "unlabeled", answers=False).read_text()
    old_and_new.write_text(old + more(suite, "new").read_text().partition("\n")[2])
    added = add(suite, first["run"], old_and_new)
    assert added.row_count == added.new_row_count + first["iterations"][0]["unlabeled"]
    assert added.new_row_count == 6
    assert suite.run(suite.spec())["iterations"][1]["unlabeled"] == left + 6


def test_an_id_of_another_row_is_refused_and_nothing_is_recorded(suite: Suite) -> None:
    first = suite.run(suite.spec())
    clash = suite.home / "clash.csv"
    clash.write_text(more(suite, "new").read_text().replace("new-003", "unlabeled-003"))
    with pytest.raises(errors.InvalidInput, match="'unlabeled-003' is that of another row"):
        add(suite, first["run"], clash)
    bad = suite.home / "bad.csv"
    bad.write_text("id,question,options\n1,,\n")
    with pytest.raises(errors.InvalidInput, match=r"bad.csv:2: the question is empty"):
        add(suite, first["run"], bad)
    assert len(suite.run(suite.spec())["iterations"]) == 1


def test_new_rows_revive_a_run_that_its_gate_stopped_and_the_discarded_selection_is_unlabeled_again(tmp_path: Path) -> None:
    with fake_suite(tmp_path, script_of(True, False, True)) as suite:
        spec = with_dev(suite, iterations=3)
        first = suite.run(spec)
        assert first["stopped"] == "gate"
        assert add(suite, first["run"], more(suite, "new")).iteration == 2
        result = suite.run(spec)
        assert result["iterations"][1]["labeled"] == 20
        assert result["iterations"][1]["unlabeled"] == 26
        assert result["iterations"][1]["gate"]["passed"] is True
        assert alias_of(suite) == result["best"]["name"] != first["best"]["name"]


# ---------------------------------------------------------------- again, and gone


def test_a_step_and_what_follows_from_it_is_done_again(suite: Suite) -> None:
    spec = suite.spec()
    first = suite.run(spec)
    before = {path: path.read_bytes() for path in (suite.home / "artifacts").rglob("MANIFEST.json")}
    run = suite.client.retry_run(first["run"], "1/judge")
    again = list(suite.client.watch(run.id, run.last_start_number))
    done = {f"{e.step_succeeded.iteration}/{e.step_succeeded.step}" for e in again if e.WhichOneof("event") == "step_succeeded"}
    reused = {f"{e.step_reused.iteration}/{e.step_reused.step}" for e in again if e.WhichOneof("event") == "step_reused"}
    assert {"1/judge", "1/score", "1/select", "1/examples-evolve", "1/evolve", "1/evaluate-evolved", "1/report"} == done
    assert {"0/intake", "1/warm", "1/infer/warm-0", "1/evaluate-warm"} <= reused
    assert {path: path.read_bytes() for path in (suite.home / "artifacts").rglob("MANIFEST.json")} == before
    with pytest.raises(errors.NotFound, match=r"no step '1/jugde'.*1/judge"):
        suite.client.retry_run(first["run"], "1/jugde")


def test_training_is_done_again_when_it_is_asked_for(suite: Suite) -> None:
    first = suite.run(suite.spec())
    trained = suite.trainer.created
    run = suite.client.retry_run(first["run"], "1/evolve")
    assert [event.WhichOneof("event") for event in suite.client.watch(run.id, run.last_start_number)][-1] == "run_succeeded"
    assert suite.trainer.created == trained + 1


def test_what_a_deleted_run_alone_needed_is_collected_and_nothing_else(suite: Suite) -> None:
    kept = suite.run(suite.spec(theta=30))
    gone = suite.run(suite.spec(name="other", theta=80))
    assert suite.client.collect_garbage(dry_run=True).object_count == 0
    model = suite.client.list_models()
    laid_out = Path(gone["models"]["warm"]["directory"])
    assert laid_out.is_dir()
    deleted = suite.client.delete_run(gone["run"])
    assert deleted.run == gone["run"]
    assert "other" in {alias.name for alias in model.aliases}
    with pytest.raises(errors.NotFound):
        suite.client.get_run(gone["run"])
    found = suite.client.collect_garbage(dry_run=True)
    assert found.object_count > 0
    assert suite.client.collect_garbage(dry_run=False) == found
    assert suite.client.collect_garbage(dry_run=True).object_count == 0
    assert not laid_out.exists()
    again = suite.run(suite.spec(theta=30))
    assert again["run"] == kept["run"]
    assert set(again["reused"]) == set(kept["seconds"])
    for alias in suite.client.list_models().aliases:  # a model with an alias outlives its run
        named = next(one for one in suite.client.list_models().models if one.name == alias.model)
        assert (Path(named.directory) / "adapter_model.safetensors").is_file()
        assert suite.artifacts.resolve(named.uri, field="uri")


def collections_of(suite: Suite) -> set[str]:
    return {name for name in suite.index._collections if name.startswith("labeled_")}


def other_rows(suite: Suite) -> RunSpec:
    """A run over labeled rows of its own."""
    file = write_colours(suite.home, "others", True)
    return suite.with_data(suite.spec(name="other"), labeled=file)


def test_a_collection_is_dropped_with_the_last_step_whose_vectors_it_holds(suite: Suite) -> None:
    kept = suite.run(suite.spec(theta=30))["run"]
    (shared,) = collections_of(suite)
    sharing = suite.run(suite.spec(theta=40, train={"references": 1}))["run"]  # another index step, the same vectors
    gone = suite.run(other_rows(suite))["run"]
    (own,) = collections_of(suite) - {shared}
    suite.client.delete_run(gone)
    suite.client.delete_run(sharing)
    assert list(suite.client.collect_garbage(dry_run=True).collections) == [own]
    assert collections_of(suite) == {shared, own}
    collected = suite.client.collect_garbage(dry_run=False)
    assert list(collected.collections) == [own]
    assert list(collected.notes) == []
    assert collections_of(suite) == {shared}
    suite.client.delete_run(kept)
    assert list(suite.client.collect_garbage(dry_run=False).collections) == [shared]
    assert collections_of(suite) == set()


class Leaving(FakeVectorIndex):
    """A test double of a vector store that goes away."""

    away = False

    def describe(self, name: str) -> CollectionInfo:
        if self.away:
            raise errors.Unavailable("The vector store has gone.")
        return super().describe(name)


def test_collections_of_a_vector_store_that_is_away_are_named_and_the_rest_is_collected(tmp_path: Path) -> None:
    index = Leaving()
    with fake_suite(tmp_path, index=index) as suite:
        suite.client.delete_run(suite.run(suite.spec())["run"])
        (name,) = [one for one in index._collections if one.startswith("labeled_")]
        index.away = True
        collected = suite.client.collect_garbage(dry_run=False)
        assert collected.object_count > 0
        assert list(collected.collections) == []
        (note,) = collected.notes
        assert name in note
        assert "The vector store has gone." in note


def test_steps_behind_a_missing_blob_are_kept_and_told(suite: Suite) -> None:
    """What intake made is gone, so the plan ends there; the run's record still names the other steps."""
    run = suite.run(suite.spec())
    manifests = [suite.artifacts.manifest_at(info.path) for info in suite.artifacts.store.list("steps/")]
    intake = next(one for one in manifests if one and one.contract.startswith("intake/"))
    suite.artifacts.store.delete(blob_path(intake.file("labeled.jsonl").sha256))
    collected = suite.client.collect_garbage(dry_run=False)
    (note,) = collected.notes
    assert f"step 0/intake of run {run['run']} made is missing" in note
    again = suite.run(suite.spec())
    assert again["error"] == ""
    assert set(run["seconds"]) - set(again["reused"]) == {"0/intake"}


def test_nothing_is_collected_where_a_damaged_record_says_no_longer_what_its_run_needs(suite: Suite) -> None:
    run = suite.run(suite.spec())["run"]
    record = suite.home / "artifacts" / "runs" / run / "RUN.json"
    record.write_bytes(record.read_bytes()[:40])
    with pytest.raises(errors.Corrupt, match=r"RUN.json.*damaged"):
        suite.client.collect_garbage(dry_run=False)
    assert set(suite.run(suite.spec())["reused"]) >= {"1/warm", "1/judge", "1/evolve"}


def test_nothing_is_collected_while_a_run_is_at_work(tmp_path: Path) -> None:
    with fake_suite(tmp_path, updates=5) as suite:
        suite.trainer.hold = True
        run = suite.client.submit(suite.spec()).id
        for call in (lambda: suite.client.collect_garbage(dry_run=False), lambda: suite.client.delete_run(run)):
            with pytest.raises(errors.Conflict, match="at work"):
                call()
        suite.client.cancel_run(run)
