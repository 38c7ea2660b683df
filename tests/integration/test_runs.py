"""Whole runs through the product with fake models: what a run gives, and what it survives."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.controller.v1 import controller_service_pb2 as pb

from tests.fake_suite import Suite, colour_script, fake_suite, wait_for, write_colours
from tests.manifests import manifests


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with fake_suite(tmp_path) as running:
        yield running


def kinds(suite: Suite, run: str) -> list[str]:
    return [str(event.WhichOneof("event")) for event in suite.client.watch(run) if event.number]


def test_a_run_ends_with_the_result_that_its_users_read(suite: Suite) -> None:
    result = suite.run(suite.spec())
    assert result["error"] == ""
    (iteration,) = result["iterations"]
    assert {name: iteration[name] for name in ("n", "labeled", "unlabeled", "no_answer")} == {
        "n": 1,
        "labeled": 20,
        "unlabeled": 20,
        "no_answer": 0,
    }
    assert iteration["unanimous"] + iteration["judged"] == 20
    assert 0 < iteration["selected"] <= 20
    assert iteration["threshold"] > 0
    assert iteration["accuracy"]["base"]["value"] == 0.0
    for role in ("warm", "evolved"):
        accuracy = iteration["accuracy"][role]
        assert accuracy["n"] == 20
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    gain = iteration["gain"]["warm_to_evolved"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert iteration["pseudo_label_accuracy"] is None
    assert set(iteration["models"]) == {"warm", "evolved"}
    assert (Path(iteration["models"]["evolved"]["directory"]) / "adapter_model.safetensors").is_file()
    assert {"intake", "warm", "judge", "select", "evolve", "evaluate-base"} <= set(iteration["seconds"])
    assert iteration["reused"] == []


def test_the_same_run_again_reuses_every_step(suite: Suite) -> None:
    first = suite.run(suite.spec())
    again = suite.run(suite.spec())
    assert again["run"] == first["run"]
    assert set(again["reused"]) == set(first["seconds"])
    assert again["iterations"][0]["accuracy"] == first["iterations"][0]["accuracy"]


def test_another_theta_reuses_all_inference(suite: Suite) -> None:
    suite.run(suite.spec())
    reused = suite.run(suite.spec(theta=30))["reused"]
    assert {"1/warm", "1/infer/warm-0", "1/infer/warm-1", "1/judge", "1/score", "1/evaluate-base"} <= set(reused)
    assert "1/select" not in reused


def test_several_iterations_learn_from_what_is_left(suite: Suite) -> None:
    result = suite.run(suite.spec(iterations=3))
    sizes = [(one["labeled"], one["unlabeled"], one["selected"]) for one in result["iterations"]]
    for (labeled, unlabeled, selected), (next_labeled, next_unlabeled, _) in itertools.pairwise(sizes):
        assert (next_labeled, next_unlabeled) == (labeled + selected, unlabeled - selected)
    models = [one["models"] for one in result["iterations"]]
    assert models[1]["warm"]["uri"] == models[0]["evolved"]["uri"]
    assert suite.trainer.created == 1 + len(sizes)


def test_answers_of_unlabeled_rows_change_the_report_and_nothing_else(suite: Suite) -> None:
    """METHOD, trap 6."""
    without = suite.run(suite.spec())
    before = manifests(suite.home)
    having = suite.run(suite.with_data(suite.spec(), unlabeled=write_colours(suite.home, "unlabeled", answers=True)))
    assert 0.5 < having["iterations"][0]["pseudo_label_accuracy"] <= 1.0
    new = [path for path in manifests(suite.home) if path not in before]
    contracts = {json.loads((suite.home / "artifacts" / path).read_bytes())["contract"] for path in new}
    assert contracts == {"intake/1", "report/1"}
    same = ("labeled", "unlabeled", "no_answer", "unanimous", "threshold", "selected", "accuracy", "gain")
    assert {key: having["iterations"][0][key] for key in same} == {key: without["iterations"][0][key] for key in same}


def test_two_homes_make_the_same_artifacts_byte_for_byte(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "other"):
        with fake_suite(tmp_path / name) as suite:
            suite.run(suite.spec())
            hashes.append(manifests(suite.home))
    assert hashes[0] == hashes[1]


def test_a_restarted_product_continues_a_run_where_it_stood(tmp_path: Path) -> None:
    """The controller goes away in the middle of training; the next one trains on and does nothing else twice."""
    with fake_suite(tmp_path, updates=5) as suite:
        suite.trainer.hold = True
        run = suite.client.submit(suite.spec()).id
        wait_for(lambda: suite.trainer.created == 1)
        spec = suite.spec()
    with fake_suite(tmp_path, updates=5) as suite:
        assert suite.client.get_run(run).state == pb.STATE_RUNNING
        result = suite.run(spec)
        assert result["run"] == run
        assert "0/intake" in result["reused"]
        assert result["error"] == ""
        events = kinds(suite, run)
        assert events[-1] == "run_succeeded"


def test_an_interrupted_run_ends_with_the_artifacts_of_an_undisturbed_one(tmp_path: Path) -> None:
    with fake_suite(tmp_path / "calm") as suite:
        suite.run(suite.spec())
        calm = manifests(suite.home)
    for stop_after in range(1, 9):
        with fake_suite(tmp_path / "disturbed") as suite:
            run = suite.client.submit(suite.spec()).id
            for seen, event in enumerate(suite.client.watch(run)):
                if event.WhichOneof("event") in ("run_succeeded", "run_failed") or seen >= 3 * stop_after:
                    break
    with fake_suite(tmp_path / "disturbed") as suite:
        assert suite.run(suite.spec())["error"] == ""
        assert manifests(suite.home) == calm


def test_a_damaged_blob_is_made_again_and_nothing_else(suite: Suite) -> None:
    suite.run(suite.spec())
    before = manifests(suite.home)
    judged = next(manifest for manifest in map(json.loads, before.values()) if manifest["contract"] == "judge/2")
    digest = judged["files"][0]["sha256"]
    blob = suite.home / "artifacts" / "blobs" / digest[:2] / digest
    blob.write_bytes(blob.read_bytes()[:-1])
    result = suite.run(suite.spec())
    assert "1/judge" not in result["reused"]
    assert {"1/infer/warm-0", "1/score", "1/evolve"} <= set(result["reused"])
    assert manifests(suite.home) == before


def test_a_flipped_bit_is_found_by_the_next_run_that_would_read_it(suite: Suite) -> None:
    suite.run(suite.spec())
    before = manifests(suite.home)
    judged = next(manifest for manifest in map(json.loads, before.values()) if manifest["contract"] == "judge/2")
    digest = judged["files"][0]["sha256"]
    blob = suite.home / "artifacts" / "blobs" / digest[:2] / digest
    intact = blob.read_bytes()
    blob.write_bytes(bytes([intact[0] ^ 1]) + intact[1:])
    result = suite.run(suite.spec(theta=30))
    assert result["error"] == ""
    assert "1/judge" not in result["reused"]
    assert blob.read_bytes() == intact


def test_vectors_that_are_lost_behind_our_back_are_rebuilt(suite: Suite) -> None:
    suite.run(suite.spec())
    suite.index.__init__()  # type: ignore[misc]  # the cache is empty again
    result = suite.run(suite.spec(references=2))
    assert result["error"] == ""
    assert "1/index" in result["reused"]


def test_a_run_whose_models_give_no_answers_stops_and_says_so(tmp_path: Path) -> None:
    """R6: nothing is trained on an absence."""

    def silent(model: str, messages: Sequence[Message], seed: int) -> str:
        return ""

    with fake_suite(tmp_path, silent) as suite:
        result = suite.run(suite.spec())
        assert result["state"] == "failed"
        assert "no collaborator gave a valid answer" in result["error"]
        assert "20 of 20" in result["error"]
        assert suite.trainer.created == 1  # the warm model only


@pytest.mark.parametrize("share", [10, 3])
def test_rows_without_any_answer_are_excluded_and_counted(tmp_path: Path, share: int) -> None:
    """One row in `share` gets empty replies from everybody; none of them becomes a pseudo-label."""

    def patchy(model: str, messages: Sequence[Message], seed: int) -> str:
        question = messages[-1].content
        number = int(question.partition("thing ")[2].partition("?")[0]) if "unlabeled thing" in question else 1
        return "" if number % share == 0 else colour_script(model, messages, seed)

    with fake_suite(tmp_path, patchy) as suite:
        result = suite.run(suite.spec(theta=100))
        (iteration,) = result["iterations"]
        assert iteration["no_answer"] == len(range(0, 20, share))
        assert iteration["selected"] == 20 - iteration["no_answer"]


def test_a_failed_step_is_tried_again_where_that_can_help(suite: Suite) -> None:
    suite.trainer.fail_next = [errors.Unavailable("The GPU fell off the bus.")]
    run = suite.run(suite.spec())
    assert run["error"] == ""
    assert kinds(suite, run["run"]).count("step_failed") == 1


def test_a_step_whose_input_is_bad_fails_the_run_at_once_and_a_retry_goes_on(suite: Suite) -> None:
    suite.trainer.fail_next = [errors.InvalidInput("The loss is not a number; lower the learning rate.")]
    failed = suite.run(suite.spec())
    assert failed["state"] == "failed"
    assert "learning rate" in failed["error"]
    assert failed["error_class"] == "InvalidInput"
    suite.client.retry_run(failed["run"])
    wait_for(lambda: suite.client.get_run(failed["run"]).state == pb.STATE_SUCCEEDED)


def test_a_bad_data_row_fails_the_run_with_file_line_and_reason(suite: Suite) -> None:
    file = suite.home / "labeled.csv"
    spec = suite.spec()
    file.write_text(file.read_text().replace(",A\n", ",Z\n", 1))
    data = spec.data.model_copy(update={"labeled": suite.client.upload(file)})
    result = suite.run(spec.model_copy(update={"data": data}))
    assert result["error_class"] == "InvalidInput"
    assert "labeled.csv:2: " in result["error"]
    assert "/" not in result["error"].partition("labeled.csv:2")[0].replace("0/intake", "")


def test_a_cancelled_run_stops_and_keeps_what_is_finished(suite: Suite) -> None:
    suite.trainer.hold = True
    run = suite.client.submit(suite.spec()).id
    wait_for(lambda: suite.trainer.created == 1)
    assert suite.client.cancel_run(run).state == pb.STATE_CANCELLED
    assert kinds(suite, run)[-1] == "run_cancelled"
    suite.trainer.hold = False
    result = suite.run(suite.spec())
    assert result["error"] == ""
    assert "0/intake" in result["reused"]


def test_a_run_that_is_at_work_cannot_be_retried(suite: Suite) -> None:
    suite.trainer.hold = True
    run = suite.client.submit(suite.spec()).id
    with pytest.raises(errors.Conflict, match="at work"):
        suite.client.retry_run(run)
    suite.client.cancel_run(run)


def test_a_run_for_another_model_is_refused_and_says_what_is_served(suite: Suite) -> None:
    with pytest.raises(errors.Conflict, match=r"the generation service serves fake") as caught:
        suite.client.submit(suite.spec().model_copy(update={"model": "other"}))
    assert caught.value.field == "model"


def test_an_unknown_run_names_the_known_ones(suite: Suite) -> None:
    run = suite.run(suite.spec())["run"]
    with pytest.raises(errors.NotFound, match=run):
        suite.client.get_run("nonsense")


def test_the_best_model_is_served_under_the_runs_name_and_can_be_rolled_back(suite: Suite) -> None:
    first = suite.run(suite.spec())["models"]["evolved"]["name"]
    second = suite.run(suite.spec(seed=1))["models"]["evolved"]["name"]
    (alias,) = suite.client.list_models().aliases
    assert (alias.name, alias.model, list(alias.previous_models)) == ("colours", second, [first])
    assert suite.client.rollback("colours").model == first
    with pytest.raises(errors.Conflict, match="nothing to go back to"):
        suite.client.rollback("colours")
    assert suite.client.promote(second, "colours").model == second


def test_progress_of_a_sharded_step_counts_its_rows(suite: Suite) -> None:
    """20 rows in shards of 8: the last shard is not full."""
    run = suite.client.submit(suite.spec()).id
    seen = [event.step_progress for event in suite.client.watch(run) if event.HasField("step_progress")]
    sharded = [(one.done, one.total) for one in seen if one.step.startswith(("infer", "judge", "score")) and one.total]
    assert {total for _, total in sharded} == {20}
    assert all(0 <= done <= total for done, total in sharded)


def test_logs_of_a_step_can_be_read(suite: Suite) -> None:
    run = suite.run(suite.spec())["run"]
    lines = [line for _, line in suite.client.logs(run, "1/judge")]
    assert any("progress" in line for line in lines)
    with pytest.raises(errors.NotFound, match="no step"):
        list(suite.client.logs(run, "1/nonsense"))


def test_an_upload_that_is_gone_from_the_store_says_so(suite: Suite) -> None:
    spec = suite.spec()
    shutil.rmtree(suite.home / "artifacts" / "blobs")
    assert "upload the file again" in suite.run(spec)["error"]


@pytest.mark.parametrize(
    "options",
    [
        {"in_weight": False, "collaborators": 2, "max_no_answer": 1.0},
        {"judge": "all"},
        {"entropy_source": "generated"},
        {"threshold_reference": "labeled"},
        {"include_labeled": False},
        {"train": {"references": 1}, "references": 1},
        {"references": 0, "collaborators": 1},
        {"theta": 100},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_option_of_the_method_runs_to_its_end(suite: Suite, options: dict[str, object]) -> None:
    """The base of this suite never answers, so without a warm model nothing is selected; everything else selects something."""
    result = suite.run(suite.spec(**options))
    assert result["error"] == ""
    assert (result["iterations"][0]["selected"] > 0) == ("in_weight" not in options)


def test_jobs_in_child_processes_give_the_same_artifacts(tmp_path: Path) -> None:
    hashes = []
    for launcher in ("inline", "subprocess"):
        with fake_suite(tmp_path / launcher, launcher=launcher) as suite:
            assert suite.run(suite.spec())["error"] == ""
            hashes.append(manifests(suite.home))
    assert hashes[0] == hashes[1]


def test_shards_side_by_side_give_the_same_artifacts(tmp_path: Path) -> None:
    hashes = []
    for parallelism in (1, 4):
        with fake_suite(tmp_path / str(parallelism), parallelism=parallelism) as suite:
            assert suite.run(suite.spec(iterations=2))["error"] == ""
            hashes.append(manifests(suite.home))
    assert hashes[0] == hashes[1]


def test_data_under_other_names_gives_the_run_that_it_gives_under_ours(suite: Suite) -> None:
    """The same rows: only intake is done again, and it makes the same files."""
    suite.run(suite.spec())
    before = manifests(suite.home)
    spec = suite.spec()
    uris = {}
    for role in ("labeled", "unlabeled", "test"):
        file = suite.home / f"{role}.csv"
        file.write_text(
            file.read_text().replace("question,options,answer", "text,choices,label").replace("question,", "text,", 1)
        )
        uris[role] = suite.client.upload(file)
    unmapped = suite.run(spec.model_copy(update={"data": spec.data.model_copy(update=uris)}))
    assert "--map question=text" in unmapped["error"]
    names = {"question": "text", "options": "choices", "answer": "label"}
    mapped = suite.run(spec.model_copy(update={"data": spec.data.model_copy(update=uris | {"map": names})}))
    assert mapped["error"] == ""
    assert "1/warm" in mapped["reused"]
    new = [json.loads(content) for path, content in manifests(suite.home).items() if path not in before]
    assert [manifest["contract"] for manifest in new] == ["intake/1"]
    assert new[0]["params"]["map"] == names
