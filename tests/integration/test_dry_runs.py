"""Dry runs through the product with fake models: what a plan foresees is what the run then does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.controller.v1 import controller_service_pb2 as pb

from tests.fake_suite import COLOURS, Suite, colour_script, fake_suite, write_colours


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with fake_suite(tmp_path) as running:
        yield running


def by_step(planned: pb.PlanRunResponse) -> dict[str, pb.PlannedStep]:
    return {f"{step.iteration}/{step.name}": step for step in planned.planned_steps}


def test_a_plan_knows_rows_and_steps_and_leaves_nothing_behind(suite: Suite) -> None:
    planned = suite.client.plan(suite.spec())
    assert [(one.role, one.file, one.row_count) for one in planned.rows] == [
        ("labeled", "labeled.csv", 20),
        ("unlabeled", "unlabeled.csv", 20),
        ("test", "test.csv", 20),
    ]
    assert {"0/intake", "1/warm", "1/infer/warm-1", "1/judge", "1/report"} <= set(by_step(planned))
    assert not any(step.reused for step in planned.planned_steps)
    assert list(suite.client.list_runs()) == []
    assert suite.artifacts.store.list("steps/") == []
    assert suite.trainer.created == 0
    assert not any(name.startswith("plan_") for name in suite.index._collections)  # the trial's own is gone


def test_the_calls_that_a_plan_counts_are_those_that_the_run_makes(tmp_path: Path) -> None:
    """20 rows, two collaborators, all rows judged, three models on 20 test rows: 40 + 20 + 60 replies."""
    replies: list[str] = []

    def counted(model: str, messages: Sequence[Message], seed: int) -> str:
        replies.append(model)
        return colour_script(model, messages, seed)

    with fake_suite(tmp_path, counted) as suite:
        spec = suite.spec(judge="all")
        total = suite.client.plan(spec).total
        replies.clear()
        assert suite.run(spec)["error"] == ""
        assert total.generation_count == len(replies) == 120
        assert total.score_count == 20
        assert total.embedding_count == 40  # labeled rows, then unlabeled ones
        assert total.search_count == 20


def test_a_plan_counts_the_answers_that_replace_scores_where_no_warm_model_answers(tmp_path: Path) -> None:
    """`entropy_source: generated` without a warm collaborator: 20 rows, two collaborators, all judged, all answered once more by the base,
    two models on 20 test rows: 40 + 20 + 20 + 40 replies."""
    replies: list[str] = []

    def counted(model: str, messages: Sequence[Message], seed: int) -> str:
        replies.append(model)
        return colour_script("knowing", messages, seed)

    with fake_suite(tmp_path, counted) as suite:
        base = [{"model": "base", "references": k} for k in (0, 1)]
        spec = suite.spec(judge="all", in_weight=False, entropy_source="generated", collaborators=base)
        total = suite.client.plan(spec).total
        replies.clear()
        assert suite.run(spec)["error"] == ""
        assert total.generation_count == len(replies) == 120
        assert total.score_count == 0


def test_updates_are_those_of_the_trainer(suite: Suite) -> None:
    """2 epochs; 20 rows in updates of 8 are 3 an epoch; with half of the 20 unlabeled ones, 30 rows are 4."""
    steps = by_step(suite.client.plan(suite.spec()))
    assert (steps["1/warm"].update_count, steps["1/evolve"].update_count) == (6, 8)


def test_prompt_tokens_are_exact_where_all_rows_have_one_length(suite: Suite) -> None:
    """The fake's tokens are words, and every question has as many."""
    planned = suite.client.plan(suite.spec())
    plain = next(prompt for prompt in planned.prompts if prompt.name == "warm-0")
    assert by_step(planned)["1/infer/warm-0"].prompt_token_count == pytest.approx(20 * plain.prompt_token_count, rel=0.02)


def test_every_configuration_of_collaborators_and_the_judge_are_shown_with_real_references(suite: Suite) -> None:
    planned = suite.client.plan(suite.spec())
    assert [prompt.name for prompt in planned.prompts] == ["warm-0", "warm-1", "judge"]
    plain, shown, judge = planned.prompts
    assert list(plain.reference_ids) == []
    (nearest,) = shown.reference_ids
    assert nearest == shown.row_id.replace("unlabeled", "labeled")  # of the fake's bags of words, the nearest has the same number
    assert f"labeled thing {int(nearest[-3:])}?" in shown.messages[0].content
    assert "Candidate 2" in judge.messages[0].content
    assert "labeled rows" in judge.note  # the base of this suite only chatters


def test_a_run_that_is_finished_is_reused_with_the_name_of_who_made_it(suite: Suite) -> None:
    run = suite.run(suite.spec())["run"]
    planned = suite.client.plan(suite.spec())
    assert planned.run_id == planned.compared_run == run
    assert all(step.reused for step in planned.steps)
    assert {step.reason for step in planned.planned_steps} == {f"made by {run}"}
    assert planned.total.generation_count == planned.total.seconds == 0


def test_the_maker_is_the_run_that_did_the_work_and_not_one_that_found_it_done(suite: Suite) -> None:
    first = suite.run(suite.spec())["run"]
    suite.run(suite.spec(theta=40))
    assert by_step(suite.client.plan(suite.spec(theta=30)))["1/warm"].reason == f"made by {first}"


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        ({"theta": 40}, "1/select", "theta changed 50 -> 40"),
        ({"max_tokens": 7}, "1/infer/warm-0", "max_tokens changed 128 -> 7"),
        ({"train": {"epochs": 3}}, "1/warm", "train.epochs changed 2 -> 3"),
        ({"judge": "all"}, "1/judge", "judge changed disagreement -> all"),
        ({"task": {"answer": "text"}}, "1/examples-warm", "task.answer changed letter -> text"),
        ({"references": 2}, "1/retrieve", "references changed 3 -> 2"),
        ({"collaborators": [{"model": "warm", "references": 2}]}, "1/infer/warm-2", "has no such step"),
        ({"shard_rows": 5}, "0/intake", "shard_rows changed 8 -> 5"),
    ],
    ids=lambda value: str(value),
)
def test_a_step_that_is_not_reused_says_what_changed(suite: Suite, change: dict[str, Any], step: str, reason: str) -> None:
    suite.run(suite.spec())
    planned = suite.client.plan(suite.spec(**change))
    found = by_step(planned)[step]
    assert not found.reused
    assert reason in found.reason
    assert len(planned.changes) >= 1


def test_a_changed_file_is_named_and_what_does_not_depend_on_it_is_reused(suite: Suite) -> None:
    suite.run(suite.spec())
    file = suite.home / "unlabeled.csv"
    spec = suite.spec()
    file.write_text(file.read_text().replace("thing 3?", "thing 33?"))
    planned = suite.client.plan(suite.with_data(spec, unlabeled=file))
    steps = by_step(planned)
    assert list(planned.changes) == ["unlabeled.csv changed"]
    assert steps["0/intake"].reason == "unlabeled.csv changed"
    assert steps["1/retrieve"].reason == "unlabeled.csv gives other rows"
    assert steps["1/warm"].reused
    assert steps["1/evaluate-warm"].reused
    assert steps["1/judge"].reason == "needs 1/infer/warm-0, 1/infer/warm-1"


def test_a_file_whose_bytes_changed_but_not_its_rows_changes_nothing_else(suite: Suite) -> None:
    """Intake is done again; what it gives is what is there."""
    suite.run(suite.spec())
    file = suite.home / "labeled.csv"
    spec = suite.spec()
    file.write_text(file.read_text() + "\n")
    steps = by_step(suite.client.plan(suite.with_data(spec, labeled=file)))
    assert [label for label, step in steps.items() if not step.reused] == ["0/intake"]


def test_a_plan_uses_the_times_and_the_share_of_judged_rows_of_an_earlier_run(suite: Suite) -> None:
    result = suite.run(suite.spec())
    planned = suite.client.plan(suite.spec(max_tokens=7))
    judge = by_step(planned)["1/judge"]
    assert judge.basis == f"run {result['run']}"
    assert judge.generation_count == result["iterations"][0]["judged"]
    assert judge.seconds == pytest.approx(result["iterations"][0]["seconds"]["judge"], rel=0.5)
    assert any(f"as in {result['run']}" in note for note in planned.notes)


def test_without_an_earlier_run_times_come_from_the_trial_and_say_so(suite: Suite) -> None:
    planned = suite.client.plan(suite.spec())
    steps = by_step(planned)
    assert steps["1/infer/warm-0"].basis == "trial"
    assert steps["1/infer/warm-0"].seconds > 0
    assert steps["1/warm"].basis == "assumed"
    assert any("assumed" in note for note in planned.notes)
    assert planned.total.seconds == pytest.approx(sum(step.seconds for step in planned.planned_steps))


def test_finished_shards_are_not_counted_again(suite: Suite) -> None:
    """20 rows in shards of 8: one of three shards is gone, so a third of the replies is to be made."""
    suite.run(suite.spec())
    key = next(step.key for step in suite.client.plan(suite.spec()).steps if step.name == "infer/warm-0")
    shutil.rmtree(suite.home / "artifacts" / "steps" / key / "shard-00001")
    step = by_step(suite.client.plan(suite.spec()))["1/infer/warm-0"]
    assert step.reason.startswith("2 of 3 shards are there")
    assert step.generation_count == 7  # a third of 20


def test_later_iterations_are_estimated_from_theta(suite: Suite) -> None:
    """theta 50 halves the unlabeled rows: 20, 10, 5; the warm model of an iteration is the evolved one of the last."""
    steps = by_step(suite.client.plan(suite.spec(iterations=3)))
    assert [steps[f"{n}/infer/warm-0"].generation_count for n in (1, 2, 3)] == [20, 10, 5]
    assert [steps[f"{n}/evolve"].row_count for n in (1, 2, 3)] == [30, 35, 38]
    assert [steps[f"{n}/warm"].reused for n in (1, 2, 3)] == [False, True, True]
    assert steps["2/judge"].reason == "needs 1/select"


def test_rows_that_are_kept_out_for_the_gate_are_taken_from_the_labeled_ones_once(suite: Suite) -> None:
    """A quarter of 20: 15 are trained on, 5 are answered by the model and decide."""
    steps = by_step(suite.client.plan(suite.spec(gate={"holdout": 0.25})))
    assert [steps[f"1/{name}"].row_count for name in ("index", "warm", "dev-warm", "dev-evolved")] == [15, 15, 5, 5]


def test_left_out_rows_and_duplicates_are_counted_as_intake_counts_them(suite: Suite) -> None:
    file = write_colours(suite.home, "labeled", answers=True, rows=20)
    options = '"[""red"", ""green"", ""blue""]"'
    same = f"Which colour is the {COLOURS[0]} labeled thing 0?"
    file.write_text(file.read_text() + f"again,{same},{options},A\nbad,Which?,{options},Z\n")
    uri = suite.client.upload(file)
    spec = suite.spec(bad_rows="quarantine")
    planned = suite.client.plan(spec.model_copy(update={"data": spec.data.model_copy(update={"labeled": uri})}))
    labeled = planned.rows[0]
    assert (labeled.row_count, labeled.bad_count, labeled.duplicate_count) == (21, 1, 1)
    assert any("more than once in labeled" in overlap for overlap in planned.overlaps)


def test_bad_rows_fail_a_plan_as_they_would_fail_the_run(suite: Suite) -> None:
    spec = suite.spec()
    file = suite.home / "labeled.csv"
    file.write_text(file.read_text().replace(",A\n", ",Z\n", 1))
    with pytest.raises(errors.InvalidInput) as caught:
        suite.client.plan(suite.with_data(spec, labeled=file))
    assert [row.line for row in caught.value.rows] == [2]
    assert caught.value.field == "data.labeled"


@pytest.mark.parametrize(
    "options",
    [
        {"in_weight": False, "collaborators": 2},
        {"entropy_source": "generated"},
        {"threshold_reference": "labeled"},
        {"include_labeled": False, "iterations": 2},
        {"train": {"references": 1}, "references": 1},
        {"references": 0, "collaborators": 1},
        {"theta": 100, "iterations": 3},
        {"theta": 0},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_option_of_the_method_can_be_planned(suite: Suite, options: dict[str, object]) -> None:
    planned = suite.client.plan(suite.spec(**options))
    run = suite.spec(**options).model_copy(update={"iterations": 1, "max_no_answer": 1.0})
    foreseen = {label for label in by_step(planned) if label.startswith("1/")}
    result = suite.run(run)
    assert foreseen == {label for label in result["seconds"] if label.startswith("1/")}


def test_a_service_that_is_down_fails_a_plan_with_its_name(tmp_path: Path) -> None:
    with fake_suite(tmp_path) as suite:
        spec = suite.spec()
        suite.engine.__init__(fails_after=0, base="fake")  # type: ignore[misc]  # every call fails from now on
        with pytest.raises(errors.Unavailable, match="out of order"):
            suite.client.plan(spec)
