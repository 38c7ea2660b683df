"""Serving engines make room for runs, and come back whatever becomes of the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from semievol.common.kube import DEPLOYMENT, Object, Response
from semievol.launchers.kubernetes_serving import REPLICAS, DeploymentServing, Mode

from tests.engine_cluster import Cluster, template

RUN, OTHER = "townhall-1a2b3c4d", "news-5e6f7a8b"


class Serving:
    """The Deployment of serving engines on a cluster with one GPU, which they hold."""

    def __init__(self, directory: Path, replicas: int = 2, gpus: int = 1) -> None:
        self.cluster = Cluster(directory, gpus=0)
        spec = {"replicas": replicas, "template": template(gpus)}
        self.cluster.server.put(
            DEPLOYMENT, {"kind": "Deployment", "metadata": {"name": "demo-engine", "uid": "e-1"}, "spec": spec}
        )

    def as_controller(self, mode: Mode = "true", look_s: float = 0.0) -> DeploymentServing:
        return DeploymentServing(self.cluster.server.kube(), "demo-engine", mode, look_s=look_s)

    @property
    def deployment(self) -> Object:
        return self.cluster.server.kube().get(DEPLOYMENT, "demo-engine")

    @property
    def replicas(self) -> int:
        return int(self.deployment["spec"]["replicas"])

    def scale(self, replicas: int) -> None:
        self.cluster.server.kube().patch(DEPLOYMENT, "demo-engine", {"spec": {"replicas": replicas}})


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path)


def test_serving_is_away_while_a_run_wants_its_gpu_and_comes_back_as_it_was(serving: Serving) -> None:
    one = serving.as_controller()
    assert "demo-engine" in one.yield_to(RUN)
    assert serving.replicas == 0
    one.restore(RUN)
    assert serving.replicas == 2
    assert REPLICAS not in serving.deployment["metadata"].get("annotations", {})


def test_it_comes_back_when_the_last_run_has_ended(serving: Serving) -> None:
    one = serving.as_controller()
    one.yield_to(RUN)
    assert one.yield_to(OTHER)
    one.restore(RUN)
    assert serving.replicas == 0
    one.restore(OTHER)
    assert serving.replicas == 2


def test_the_number_of_replicas_is_written_with_their_removal(serving: Serving) -> None:
    """One request: no moment in which they are gone and nobody knows how many there were."""
    serving.as_controller().yield_to(RUN)
    (change,) = [request.body for request in serving.cluster.server.requests if request.method == "PATCH"]
    assert change is not None
    assert change["spec"] == {"replicas": 0}
    assert change["metadata"]["annotations"] == {REPLICAS: "2"}
    assert change["metadata"]["resourceVersion"]


def test_a_restarted_controller_leaves_them_away_for_runs_that_go_on_and_brings_them_back_then(serving: Serving) -> None:
    serving.as_controller().yield_to(RUN)
    other = serving.as_controller()
    other.recover([RUN])
    assert serving.replicas == 0
    other.restore(RUN)
    assert serving.replicas == 2


@pytest.mark.parametrize("mode", ["true", "auto", "false"])
def test_a_restarted_controller_without_runs_brings_them_back(serving: Serving, mode: Mode) -> None:
    serving.as_controller().yield_to(RUN)
    serving.as_controller(mode).recover([])
    assert serving.replicas == 2


def test_somebody_who_scales_them_up_in_between_is_asked_again_and_kept_in_mind(serving: Serving) -> None:
    """`helm upgrade` writes the chart's number of replicas."""
    one = serving.as_controller()
    one.yield_to(RUN)
    serving.scale(3)
    assert one.yield_to(RUN)
    assert serving.replicas == 0
    one.restore(RUN)
    assert serving.replicas == 3


def test_somebody_who_has_brought_them_back_has_the_last_word(serving: Serving) -> None:
    one = serving.as_controller()
    one.yield_to(RUN)
    serving.scale(1)
    one.restore(RUN)
    assert serving.replicas == 1
    assert REPLICAS not in serving.deployment["metadata"].get("annotations", {})


def test_engines_that_were_scaled_to_none_by_hand_stay_so(tmp_path: Path) -> None:
    serving = Serving(tmp_path, replicas=0)
    one = serving.as_controller()
    assert one.yield_to(RUN) == ""
    one.restore(RUN)
    assert serving.replicas == 0


def test_auto_makes_room_only_where_a_pod_of_a_run_finds_none(serving: Serving) -> None:
    one = serving.as_controller("auto")
    assert one.yield_to(RUN) == ""
    assert serving.replicas == 2
    serving.cluster.engines().acquire(RUN, "shared")  # the cluster's GPU is taken
    assert one.yield_to(RUN)
    assert serving.replicas == 0


def test_auto_does_not_care_for_pods_that_lack_what_serving_does_not_hold(tmp_path: Path) -> None:
    serving = Serving(tmp_path, gpus=0)
    serving.cluster.engines().acquire(RUN, "shared")
    assert serving.as_controller("auto").yield_to(RUN) == ""


def test_false_never_makes_room(serving: Serving) -> None:
    serving.cluster.engines().acquire(RUN, "shared")
    assert serving.as_controller("false").yield_to(RUN) == ""
    assert serving.replicas == 2


def test_a_change_that_meets_another_one_is_done_again(serving: Serving) -> None:
    one = serving.as_controller()
    one.yield_to(RUN)
    refused = Response(409, b'{"reason": "Conflict", "message": "modified"}')
    real, first = serving.cluster.server.send, [True]

    def send(request: Any, *, timeout_s: float) -> Response:
        if request.method == "PATCH" and first:
            first.clear()
            return refused
        return real(request, timeout_s=timeout_s)

    serving.cluster.server.send = send  # type: ignore[method-assign]
    one.restore(RUN)
    assert serving.replicas == 2


def test_an_api_that_is_away_costs_the_run_nothing(serving: Serving) -> None:
    one = serving.as_controller()
    serving.cluster.server.down = True
    assert one.yield_to(RUN) == ""
    one.restore(RUN)
    one.recover([])
    serving.cluster.server.down = False
    assert one.yield_to(RUN)


def test_the_deployment_is_looked_at_every_few_seconds(serving: Serving) -> None:
    one = serving.as_controller("auto", look_s=60.0)
    for _ in range(5):
        one.yield_to(RUN)
    assert len([request for request in serving.cluster.server.requests if request.path.endswith("demo-engine")]) == 1
