"""Engines of runs as pods: what is made, what is found again, what is said while they are on their way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from semievol.common import errors
from semievol.common.kube import CONFIG_MAP, DEPLOYMENT, POD, Request, Response
from semievol.launchers.kubernetes_engines import accelerators, allocatable
from semievol.ports import EngineState

from tests.engine_cluster import BASE, NO_ROOM, Cluster, template

RUN = "townhall-1a2b3c4d"


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_the_pod_is_the_charts_template_with_a_name_labels_and_an_owner(cluster: Cluster) -> None:
    cluster.engines().acquire(RUN, "warm-2")
    (pod,) = cluster.pods()
    meta = pod["metadata"]
    assert meta["name"] == "townhall-1a2b3c4d-engine-warm-2-1"
    assert meta["labels"] == {
        "app.kubernetes.io/name": "semievol",
        "app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "run-engine",
        "app.kubernetes.io/managed-by": "semievol-controller",
        "semievol.dev/run": RUN,
        "semievol.dev/engine": "warm-2",
    }
    assert meta["annotations"] == {"team": "a", "semievol.dev/run-id": RUN, "n": "0"}
    (owner,) = meta["ownerReferences"]
    run = cluster.server.kube().get(CONFIG_MAP, owner["name"])
    assert (owner["kind"], owner["uid"]) == ("ConfigMap", run["metadata"]["uid"])
    assert run["metadata"]["ownerReferences"][0]["name"] == "demo-controller"
    assert run["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"
    wanted = template()["spec"]
    assert {name: pod["spec"][name] for name in wanted if name != "containers"} == {"nodeSelector": {"gpu": "yes"}}
    (main,) = pod["spec"]["containers"]
    assert main == {**wanted["containers"][0], "terminationMessagePolicy": "FallbackToLogsOnError"}
    assert pod["spec"]["restartPolicy"] == "Never"
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_a_run_whose_name_is_no_dns_label_gets_pods_all_the_same(cluster: Cluster) -> None:
    run = f"Town_Hall.{'x' * 60}-1a2b3c4d"
    engines = cluster.engines()
    engines.acquire(run, "base-0")
    (pod,) = cluster.pods()
    assert len(pod["metadata"]["name"]) <= 63
    assert engines.held(run) == ["base-0"]


def test_an_engine_has_an_address_when_its_pod_is_ready_and_it_answers(cluster: Cluster) -> None:
    cluster.boot = False
    engines = cluster.engines()
    assert engines.acquire(RUN, "shared") == EngineState(reason="The engine shared is being started.")
    assert "is being started (pod townhall-1a2b3c4d-engine-shared-1)" in engines.acquire(RUN, "shared").reason
    assert cluster.asked == []
    cluster.says["10.0.0.0:50053"] = errors.Unavailable("Nobody answers.")
    cluster.ready(cluster.pods()[0])
    assert "does not answer: Nobody answers." in engines.acquire(RUN, "shared").reason
    cluster.says.clear()
    assert engines.acquire(RUN, "shared") == EngineState("10.0.0.0:50053", base=BASE)
    assert len(cluster.pods()) == 1


def test_a_pod_without_room_says_so_in_the_schedulers_words(cluster: Cluster) -> None:
    engines = cluster.engines()
    engines.acquire(RUN, "base-0")
    engines.acquire(RUN, "warm-0")
    assert engines.acquire(RUN, "base-0").address
    waiting = engines.acquire(RUN, "warm-0")
    assert waiting.crowded
    assert NO_ROOM in waiting.reason


def test_engines_that_are_released_are_gone_and_their_room_is_free(cluster: Cluster) -> None:
    engines = cluster.engines()
    engines.acquire(RUN, "base-0")
    engines.acquire(RUN, "warm-0")
    engines.acquire("another-1", "base-0")
    assert engines.release(RUN, "base-0") is False  # told to end just now
    cluster.schedule()
    assert engines.release(RUN, "base-0") is True
    assert engines.acquire(RUN, "warm-0").address
    engines.release(RUN)
    assert engines.release(RUN) is True
    assert engines.held(RUN) == []
    assert engines.held("another-1") == ["base-0"]


def test_a_pod_that_is_being_ended_is_waited_for_unless_its_node_is_lost(cluster: Cluster) -> None:
    engines = cluster.engines()
    engines.acquire(RUN, "shared")
    (pod,) = cluster.pods()
    pod["metadata"]["deletionTimestamp"] = "2999-01-01T00:00:00Z"
    cluster.server.put(POD, pod)
    assert engines.held(RUN) == []
    assert engines.release(RUN) is False
    assert engines.acquire(RUN, "shared").reason
    assert {one["metadata"]["name"][-1] for one in cluster.pods()} == {"1", "2"}  # not the one that is going
    cluster.server.remove(POD, "townhall-1a2b3c4d-engine-shared-2")
    pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
    cluster.server.put(POD, pod)
    assert engines.release(RUN) is True


def test_another_controller_finds_the_engines_that_are_there(cluster: Cluster) -> None:
    cluster.engines().acquire(RUN, "shared")
    other = cluster.engines()
    assert other.held(RUN) == ["shared"]
    assert other.acquire(RUN, "shared").address == "10.0.0.0:50053"
    assert len(cluster.pods()) == 1
    assert other.used(RUN) == (1, 0)


def test_an_engine_that_dies_is_replaced_and_both_are_counted(cluster: Cluster) -> None:
    engines = cluster.engines(engine_starts=1)  # that bounds starts that fail, not engines that die at work
    engines.acquire(RUN, "shared")
    engines.acquire(RUN, "shared")
    cluster.die("townhall-1a2b3c4d-engine-shared-1", 137, "")
    assert "killed by signal 9" in engines.acquire(RUN, "shared").reason
    assert engines.acquire(RUN, "shared").address
    assert engines.used(RUN) == (2, 0)


def test_an_engine_that_ends_before_it_answers_is_started_a_few_times(cluster: Cluster) -> None:
    cluster.boot = False
    engines = cluster.engines(engine_starts=2)
    for number in (1, 2):
        assert not engines.acquire(RUN, "shared").failed
        assert cluster.pods()[0]["metadata"]["name"].endswith(f"-{number}")
        cluster.die(cluster.pods()[0]["metadata"]["name"], 69, f"No CUDA device, for the time number {number}.")
    assert engines.acquire(RUN, "shared") == EngineState(reason="No CUDA device, for the time number 2.", failed=True)
    assert cluster.pods() == []


def test_an_engine_that_cannot_ever_work_is_started_once(cluster: Cluster) -> None:
    cluster.boot = False
    engines = cluster.engines()
    engines.acquire(RUN, "shared")
    cluster.die(cluster.pods()[0]["metadata"]["name"], 64, "There is no model hub:none/such.")
    assert engines.acquire(RUN, "shared") == EngineState(reason="There is no model hub:none/such.", failed=True)
    assert not engines.acquire(RUN, "shared").failed  # a retry of the run tries again


def test_what_engines_did_is_asked_before_they_go(cluster: Cluster) -> None:
    engines = cluster.engines()
    engines.acquire(RUN, "shared")
    cluster.says["10.0.0.0:50053"] = dataclasses.replace(BASE, engine_starts=2, weight_swaps=5)
    engines.release(RUN)
    assert engines.used(RUN) == (2, 5)
    assert engines.used("another-1") == (0, 0)


def test_engines_of_runs_that_have_ended_are_swept_at_the_start(cluster: Cluster) -> None:
    engines = cluster.engines()
    for run in (RUN, "ended-1"):
        engines.acquire(run, "shared")
    cluster.engines().recover([RUN])
    assert [pod["metadata"]["annotations"]["semievol.dev/run-id"] for pod in cluster.pods()] == [RUN]


def test_deleting_the_run_takes_its_engines_along(cluster: Cluster) -> None:
    cluster.engines().acquire(RUN, "shared")
    cluster.server.remove(DEPLOYMENT, "demo-controller")
    assert cluster.pods() == []


def test_with_certificates_an_engine_is_called_by_its_name(cluster: Cluster) -> None:
    cluster.render(template(subdomain="demo-run-engine"))
    engines = cluster.engines()
    engines._by_name = True
    engines.acquire(RUN, "shared")
    name = "townhall-1a2b3c4d-engine-shared-1"
    assert engines.acquire(RUN, "shared").address == f"{name}.demo-run-engine.test.svc:50053"
    assert cluster.pods()[0]["spec"]["hostname"] == name


def test_the_settings_change_with_what_engines_are_told_and_with_nothing_else(cluster: Cluster) -> None:
    before = cluster.engines().settings
    cluster.render(template(nodeSelector={"gpu": "other"}))
    assert cluster.engines().settings == before
    other = template()
    other["spec"]["containers"][0]["image"] = "localhost/semievol-training:next"
    cluster.render(other)
    assert cluster.engines().settings != before


def test_how_many_engines_have_room_is_what_is_said_or_what_the_nodes_say_or_not_known(cluster: Cluster) -> None:
    assert cluster.engines(gpus=4).capacity() == 4
    cluster.render(template(gpus=2))
    assert cluster.engines(gpus=5).capacity() == 2
    cluster.render(template(gpus=0))
    assert cluster.engines(gpus=4).capacity() is None  # on CPUs there is no telling


def node(gpus: str, **spec: bool) -> dict[str, object]:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    return {"spec": spec, "status": {"allocatable": {"nvidia.com/gpu": gpus}, **ready}}


class Nodes:
    """A transport that knows nodes alone."""

    def __init__(self, status: int, *nodes: object) -> None:
        self.response = Response(status, __import__("json").dumps({"items": nodes, "message": "no"}).encode())

    def send(self, request: Request, *, timeout_s: float) -> Response:
        assert request.path == "/api/v1/nodes"
        return self.response


def test_gpus_are_counted_on_nodes_that_take_pods(cluster: Cluster) -> None:
    from semievol.common.kube import Kube

    gone = {
        "spec": {},
        "status": {"allocatable": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "Unknown"}]},
    }
    nodes = (node("4"), node("2"), node("8", unschedulable=True), gone, {"spec": {}, "status": {"conditions": []}})
    assert allocatable(Kube(Nodes(200, *nodes), "test"), "nvidia.com/gpu") == 6
    assert allocatable(Kube(Nodes(403), "test"), "nvidia.com/gpu") is None


def test_what_cannot_be_shared_is_an_accelerator() -> None:
    assert accelerators(template(gpus=2)) == {"nvidia.com/gpu": 2}
    assert accelerators(template(gpus=0)) == {}
