"""What the Jobs look like that the launcher `kubernetes` makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from semievol.common import errors
from semievol.launchers import kubernetes_objects as objects
from semievol.ports import JobSpec

from tests.cluster import TEMPLATES, template_file

STEP = objects.Template(TEMPLATES["step"]["template"], TEMPLATES["step"]["job"])
OWNER = {"metadata": {"name": "semievol-run-demo-1", "uid": "u-1"}}


def job(**changes: object) -> JobSpec:
    values = {
        "name": "demo-1-1-infer-warm-0-1",
        "entrypoint": "a.b:run",
        "args": ("x",),
        "labels": {"run": "demo-1", "key": "ff"},
    }
    return JobSpec(**(values | changes))  # type: ignore[arg-type]


def made(**changes: object) -> objects.Object:
    return objects.job_object(job(**changes), STEP, "step", OWNER)


def test_a_job_is_tried_once_and_its_pod_is_replaced_only_when_it_has_failed() -> None:
    spec = made()["spec"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "completionMode" not in spec


def test_a_disruption_is_no_failure_and_what_cannot_be_helped_fails_the_job_at_once() -> None:
    ignore, fail = made()["spec"]["podFailurePolicy"]["rules"]
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert fail["onExitCodes"] == {"containerName": "main", "operator": "In", "values": [64, 70, 73, 77]}


def test_a_group_is_an_indexed_job_whose_shards_fail_one_by_one() -> None:
    spec = made(shards=(3, 5, 7), parallelism=2)["spec"]
    assert {name: spec[name] for name in ("completionMode", "completions", "parallelism", "backoffLimitPerIndex")} == {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 2,
        "backoffLimitPerIndex": 0,
    }
    assert "backoffLimit" not in spec
    (main,) = spec["template"]["spec"]["containers"]
    assert main["args"][:4] == ["semievol.launchers.child", "--shards", "3,5,7", "a.b:run"]


def test_labels_and_owner_say_whose_it_is_and_the_full_name_is_kept() -> None:
    meta = made()["metadata"]
    assert meta["labels"] == {
        "app.kubernetes.io/name": "semievol",
        "app.kubernetes.io/instance": "release",
        "app.kubernetes.io/component": "step",
        "app.kubernetes.io/managed-by": "semievol-controller",
        "kueue.x-k8s.io/queue-name": "gpus",
        "semievol.dev/run": "demo-1",
        "semievol.dev/job": "demo-1-1-infer-warm-0-1",
        "semievol.dev/spec-hash": objects.spec_hash(job()),
    }
    assert meta["annotations"]["semievol.dev/job-name"] == "demo-1-1-infer-warm-0-1"
    (owner,) = meta["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("ConfigMap", "u-1")


def test_what_the_template_says_stays_as_it_is() -> None:
    body = made()
    pod, given = body["spec"]["template"]["spec"], TEMPLATES["step"]["template"]["spec"]
    for name in ("tolerations", "runtimeClassName", "priorityClassName", "securityContext", "volumes"):
        assert pod[name] == given[name]
    (main,), (before,) = pod["containers"], given["containers"]
    assert main["resources"] == before["resources"]
    assert main["env"] == [*before["env"], {"name": "SEMIEVOL_JOB", "value": "demo-1-1-infer-warm-0-1"}]
    assert main["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert pod["automountServiceAccountToken"] is False
    assert (body["spec"]["suspend"], body["spec"]["ttlSecondsAfterFinished"]) == (True, 600)
    assert "activeDeadlineSeconds" not in body["spec"]  # null in the template
    assert "args" not in before  # the template itself is not written into


def test_what_looks_like_a_variable_is_passed_on_as_it_is() -> None:
    (main,) = made(args=("$(HOME)", "a$b"))["spec"]["template"]["spec"]["containers"]
    assert main["args"][-2:] == ["$$(HOME)", "a$$b"]  # of which the kubelet makes $(HOME) and a$b again


@pytest.mark.parametrize(
    ("name", "expected"),
    [("demo-1-1-judge-1", "demo-1-1-judge-1"), ("Demo_1.x", "demo-1-x-"), ("a" * 200, "a" * 43 + "-"), ("ends-", "ends-")],
)
def test_names_are_legible_and_allowed(name: str, expected: str) -> None:
    found = objects.object_name(name)
    assert found.startswith(expected)
    assert len(found) <= 52
    assert yaml.safe_load(found) == found
    assert all(letter.isalnum() or letter == "-" for letter in found)
    assert found[0].isalnum()
    assert found[-1].isalnum()


def test_names_that_differ_stay_different() -> None:
    names = ["a.b", "a-b", "A-b", "a_b", "x" * 60, "x" * 61]
    assert len({objects.object_name(name) for name in names}) == len(names)
    assert len({objects.label_value(name) for name in [*names, "y" * 64, "y" * 65]}) == len(names) + 2


def test_how_many_run_at_a_time_is_no_part_of_the_content() -> None:
    assert objects.spec_hash(job(shards=(1, 2), parallelism=1)) == objects.spec_hash(job(shards=(1, 2), parallelism=2))
    assert objects.spec_hash(job(shards=(1, 2))) != objects.spec_hash(job(shards=(1, 3)))


def test_a_template_without_its_container_is_refused_and_the_file_named(tmp_path: Path) -> None:
    file = template_file(tmp_path)
    assert objects.load_template(file, "step") == STEP
    with pytest.raises(errors.InvalidInput, match="'engine'"):
        objects.load_template(file, "engine")
    file.write_text(file.read_text().replace("name: main", "name: other"))
    with pytest.raises(errors.InvalidInput, match="no container named 'main'") as caught:
        objects.load_template(file, "step")
    assert caught.value.field == "templates"
    with pytest.raises(errors.InvalidInput, match="No such file"):
        objects.load_template(tmp_path / "nothing", "step")


def test_the_charts_own_labels_stay_since_services_and_policies_go_by_them() -> None:
    """A training Job's pod under the training service's labels would be one of its endpoints."""
    named = {"app.kubernetes.io/component": "training-job", "app.kubernetes.io/name": "mine"}
    template = objects.Template(TEMPLATES["training"]["template"], {"labels": named})
    body = objects.job_object(job(), template, "training", None)
    for labels in (body["metadata"]["labels"], body["spec"]["template"]["metadata"]["labels"]):
        assert {name: labels[name] for name in named} == named


@pytest.mark.parametrize("shards", [(), (3, 5)], ids=["one", "group"])
def test_the_official_clients_models_know_every_field_that_is_written(shards: tuple[int, ...]) -> None:
    """They refuse names and types that the API does not have."""
    from kubernetes.client import V1ConfigMap, V1Job
    from pydantic import ValidationError

    body = made(shards=shards)
    V1Job.model_validate(body)
    V1ConfigMap.model_validate(objects.run_object("demo", STEP, OWNER))
    with pytest.raises(ValidationError, match="backofLimit"):
        V1Job.model_validate({**body, "spec": {**body["spec"], "backofLimit": 0}})
