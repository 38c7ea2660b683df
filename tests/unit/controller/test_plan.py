"""The planner, driven by a make-believe world in which running a step means publishing a manifest."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from semievol.common.artifacts import Manifest
from semievol.controller.plan import Done, StepPlan, StepState, Work, plan
from semievol.controller.training import training_spec

from tests.planning import RESOLVED, World, spec


def labels(steps: list[StepPlan]) -> list[str]:
    return [step.label for step in steps]


def test_a_new_run_begins_with_intake_alone() -> None:
    assert [(step.label, step.state) for step in plan(spec(), RESOLVED, World().manifest_of)] == [("0/intake", StepState.READY)]


def test_a_run_goes_through_every_step_of_the_method_in_order() -> None:
    run = spec(collaborators=[{"model": "base", "references": 0}, {"model": "warm", "references": 2}])
    assert labels(World().run_to_end(run)) == [
        "0/intake",
        "1/index",
        "1/examples-warm",
        "1/warm",
        "1/retrieve",
        "1/infer/base-0",
        "1/infer/warm-2",
        "1/judge",
        "1/score",
        "1/select",
        "1/examples-evolve",
        "1/evolve",
        "1/evaluate-base",
        "1/evaluate-warm",
        "1/evaluate-evolved",
        "1/report",
    ]


def test_what_earlier_plans_found_changes_no_plan_and_spares_the_questions() -> None:
    world, run, done = World(), spec(iterations=3), Done()
    steps = world.run_to_end(run, done)
    assert steps == plan(run, RESOLVED, world.manifest_of)
    asked: list[tuple[str, int | None]] = []

    def ask(key: str, shard: int | None) -> Manifest | None:
        asked.append((key, shard))
        return world.manifest_of(key, shard)

    assert plan(run, RESOLVED, ask, done=done) == steps
    assert asked == []
    world.manifests.clear()
    assert plan(run, RESOLVED, ask, done=done) == steps  # until somebody doubts it
    done.clear()
    assert [step.state for step in plan(run, RESOLVED, ask, done=done)] == [StepState.READY]


def test_a_step_that_is_half_done_is_asked_for_again() -> None:
    world, run, done = World(), spec(collaborators=[{"model": "base", "references": 0}]), Done()
    infer: StepPlan | None = None
    while infer is None:
        ready = next(one for one in plan(run, RESOLVED, world.manifest_of, done=done) if one.state is StepState.READY)
        assert ready.work is not None
        if ready.work.kind == "infer":
            infer = ready
        else:
            for shard in ready.missing:
                world.publish(ready.work, shard)
    assert infer.work is not None
    for shard, left in ((1, (0, 2)), (0, (2,)), (2, ())):
        world.publish(infer.work, shard)
        again = next(one for one in plan(run, RESOLVED, world.manifest_of, done=done) if one.label == infer.label)
        assert again.missing == left


def test_a_second_plan_over_the_same_manifests_has_nothing_to_do() -> None:
    world = World()
    world.run_to_end(spec())
    world.ran.clear()
    world.run_to_end(spec())
    assert world.ran == []


def test_a_missing_shard_is_made_again_and_nothing_else() -> None:
    world = World()
    steps = world.run_to_end(spec(collaborators=[{"model": "base", "references": 1}]))
    infer = next(step for step in steps if step.name == "infer/base-1")
    assert infer.work is not None
    del world.manifests[infer.work.key, 1]
    world.ran.clear()
    world.run_to_end(spec(collaborators=[{"model": "base", "references": 1}]))
    assert world.ran == ["1/infer/base-1#1"]


def test_another_theta_repeats_only_what_depends_on_it() -> None:
    world = World()
    world.run_to_end(spec())
    world.ran.clear()
    world.run_to_end(spec(theta=40))
    assert world.ran == ["1/select", "1/examples-evolve", "1/evolve", "1/evaluate-evolved", "1/report"]


def test_the_warm_model_of_an_iteration_is_the_evolved_model_of_the_one_before() -> None:
    world = World()
    steps = {step.label: step for step in world.run_to_end(spec(iterations=2))}
    warm, evolved = steps["2/warm"].work, steps["1/evolve"].work
    assert warm is not None
    assert evolved is not None
    assert warm.key == evolved.key
    assert "2/warm" not in world.ran
    assert "2/examples-warm" not in world.ran


def test_without_the_labeled_rows_the_next_warm_model_is_trained_anew() -> None:
    world = World(include_labeled=False)
    world.run_to_end(spec(iterations=2, include_labeled=False))
    assert "2/warm" in world.ran


def test_iterations_end_when_no_unlabeled_row_is_left() -> None:
    steps = World(remaining=0).run_to_end(spec(iterations=4))
    assert max(step.iteration for step in steps) == 1


def test_the_next_iteration_reads_the_rows_that_were_not_selected() -> None:
    steps = {step.label: step for step in World(parts=3, remaining=2).run_to_end(spec(iterations=2))}
    judged = steps["2/judge"].work
    assert judged is not None
    assert judged.parts == 2


def test_without_a_warm_model_the_base_judges_and_nothing_trains_before_selection() -> None:
    steps = {step.label: step for step in World().run_to_end(spec(in_weight=False))}
    assert not {"1/warm", "1/examples-warm", "1/evaluate-warm"} & set(steps)
    judge = steps["1/judge"].work
    assert judge is not None
    assert "model" not in judge.inputs


def test_a_base_collaborator_does_not_wait_for_the_warm_model() -> None:
    """Its answers depend on the base alone, so runs that differ in training share them."""
    one = {step.label: step for step in World().run_to_end(spec(collaborators=[{"model": "base", "references": 3}]))}
    other = {
        step.label: step
        for step in World().run_to_end(spec(collaborators=[{"model": "base", "references": 3}], train={"epochs": 5}))
    }
    first, second = one["1/infer/base-3"].work, other["1/infer/base-3"].work
    assert first is not None
    assert second is not None
    assert first.key == second.key


def test_a_collaborator_without_references_does_not_depend_on_retrieval() -> None:
    steps = {step.label: step for step in World().run_to_end(spec(collaborators=[{"model": "base", "references": 0}]))}
    infer = steps["1/infer/base-0"].work
    assert infer is not None
    assert set(infer.inputs) == {"rows"}


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_tokens": 7}, {"temperature": 0.5}, {"task": {"answer": "text"}}])
def test_whatever_changes_answers_changes_the_key_of_inference(change: dict[str, Any]) -> None:
    fixed = {"collaborators": [{"model": "base", "references": 0}]}
    one = {step.label: step.work for step in World().run_to_end(spec(**fixed))}["1/infer/base-0"]
    other = {step.label: step.work for step in World().run_to_end(spec(**fixed, **change))}["1/infer/base-0"]
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_another_engine_shares_training_but_no_answers() -> None:
    other_engine = dataclasses.replace(RESOLVED, engine="vllm/bfloat16")
    world = World()
    world.run_to_end(spec())
    steps = {step.name: step for step in plan(spec(), other_engine, world.manifest_of)}
    assert steps["warm"].state is StepState.DONE
    assert all(steps[name].state is StepState.READY for name in steps if name.startswith("infer/"))


def test_gold_answers_of_the_unlabeled_rows_reach_the_report_and_nothing_else() -> None:
    class WithGold(World):
        def _contents(self, work: Work, shard: int | None) -> list[tuple[str, str]]:
            found = super()._contents(work, shard)
            return [*found, ("gold.jsonl", "gold")] if work.kind == "intake" else found

    without = {step.label: step.work for step in World().run_to_end(spec())}
    having = {step.label: step.work for step in WithGold().run_to_end(spec())}
    differing = {label for label, work in having.items() if work is not None and without[label] != work}
    assert differing == {"1/report"}


def test_the_key_of_training_names_neither_step_nor_iteration() -> None:
    work = {step.label: step.work for step in World().run_to_end(spec())}["1/warm"]
    assert work is not None
    assert "warm" not in str(work.params) + work.contract
    assert "iteration" not in work.params


def test_labeled_thresholds_score_the_labeled_rows_and_are_part_of_the_selection() -> None:
    steps = {step.label: step.work for step in World().run_to_end(spec(threshold_reference="labeled"))}
    select = steps["1/select"]
    assert select is not None
    assert "threshold_entropies" in select.inputs
    assert steps["1/score-labeled"] is not None


def test_a_map_of_columns_is_part_of_intakes_key_and_an_empty_one_changes_nothing() -> None:
    data = {"labeled": "data:1/a.csv", "unlabeled": "data:2/b.csv", "test": "data:3/c.csv"}
    works = [
        plan(spec(data=data | names), RESOLVED, World().manifest_of)[0].work
        for names in ({}, {"map": {}}, {"map": {"answer": "label"}})
    ]
    assert works[0] == works[1]
    assert works[0] is not None
    assert "map" not in works[0].params
    assert works[2] is not None
    assert works[2].params["map"] == {"answer": "label"}
    assert works[2].params["data"] == works[0].params["data"]


def test_the_key_of_an_endpoints_training_holds_what_the_endpoint_is_told_and_who_it_is() -> None:
    """Rank, scale and cutoff mean nothing there; endpoint and engine count, since its weights have no fingerprint."""
    url = "http://host/v1"
    steps = World().run_to_end(spec(engine=url, trainer="openai", entropy_source="generated"))
    works = {step.name: step.work for step in steps}
    assert works["warm"] is not None
    assert works["warm"].params.keys() == {
        *("base_model", "base_sha256", "engine", "endpoint", "seed"),
        *("epochs", "learning_rate", "batch_size", "gradient_accumulation"),
    }
    there = training_spec(works["warm"])
    assert (there.endpoint, there.base_model, there.epochs) == (url, "m", 2.0)
    here = {step.name: step.work for step in World().run_to_end(spec())}["warm"]
    assert here is not None
    assert "endpoint" not in here.params
    assert training_spec(here).endpoint == ""
