"""Commands against a release on Kubernetes, by kubeconfig: a double of the API server whose port-forwards lead to real servers."""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from semievol.cli import forward, options
from semievol.client.controller import ControllerClient
from semievol.common import errors
from semievol.common.kube import POD
from semievol.common.security import SecuritySettings, protection
from semievol.controller.fake import FakeControllerServicer, failed, service, succeeded
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.server import service as generation_service
from semievol.generation.settings import GenerationSettings

from tests.certificates import Authority
from tests.running import running
from tests.servers.kubernetes_api import Cluster, cluster
from tests.unit.cli.conftest import Served
from tests.unit.cli.test_controller_client import spec
from tests.waiting import wait_until

Invoke = Callable[..., Result]
TLS = {"name": "tls", "mountPath": "/etc/semievol/tls"}
TOKENS = {"name": "tokens", "mountPath": "/etc/semievol/tokens"}


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(forward, "_POD_S", 0.2)
    with cluster(tmp_path / "kubeconfig") as made:
        yield made


@pytest.fixture
def demo(serve: Callable[..., Served]) -> Served:
    """A controller with one run that has ended."""
    return serve([succeeded(spec())])


def test_a_command_reaches_the_controller_of_the_only_release(kubernetes: Cluster, demo: Served, invoke: Invoke) -> None:
    pod = kubernetes.install("controller", 50056, address=demo.address)
    ended = invoke("status", "--namespace", "test", "--json")
    assert ended.exit_code == 0, ended.stderr
    assert [run["id"] for run in json.loads(ended.stdout)["runs"]] == list(demo.servicer.runs)
    assert kubernetes.forwards == [(pod, "50056")]


@pytest.mark.parametrize(
    "options",
    [
        ("-n", "test"),
        ("--context", "double"),
        ("--context", "double", "--release", "demo"),
        ("--kubeconfig", "{kubeconfig}"),
        ("-n", "test", "--context", "double", "--kubeconfig", "{kubeconfig}"),
    ],
)
def test_what_is_not_said_is_as_the_kubeconfig_says(
    kubernetes: Cluster, demo: Served, invoke: Invoke, tmp_path: Path, options: tuple[str, ...]
) -> None:
    kubernetes.install("controller", 50056, address=demo.address)
    said = [option.format(kubeconfig=tmp_path / "kubeconfig") for option in options]
    assert invoke("status", *said).exit_code == 0


def test_the_environment_names_the_cluster_and_what_is_typed_counts_more(
    kubernetes: Cluster, demo: Served, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes.install("controller", 50056, address=demo.address)
    monkeypatch.setenv("SEMIEVOL_NAMESPACE", "test")
    assert invoke("status").exit_code == 0
    assert len(kubernetes.forwards) == 1
    assert invoke("status", "--address", demo.address).exit_code == 0
    assert len(kubernetes.forwards) == 1
    monkeypatch.setenv("SEMIEVOL_CONTROLLER", "127.0.0.1:1")
    assert invoke("status", "-n", "test").exit_code == 0
    assert len(kubernetes.forwards) == 2
    both = invoke("status", "-n", "test", "--address", demo.address)
    assert both.exit_code == 2
    assert "give one of them" in both.stderr


def test_submit_uploads_and_submits_through_the_forward(
    kubernetes: Cluster, demo: Served, invoke: Invoke, run_file: Path
) -> None:
    kubernetes.install("controller", 50056, address=demo.address)
    ended = invoke("submit", "-f", run_file, "-n", "test")
    assert ended.exit_code == 0, ended.stderr
    assert len(demo.servicer.submitted) == 1
    assert len(demo.servicer.uploads) == 3


def test_every_command_that_talks_to_a_controller_takes_a_cluster(
    kubernetes: Cluster, serve: Callable[..., Served], invoke: Invoke, run_file: Path, tmp_path: Path
) -> None:
    kubernetes.install("controller", 50056, address=serve([succeeded(spec()), failed(spec("broken"))]).address)
    commands: list[tuple[Any, ...]] = [
        ("status", "demo"),
        ("watch", "demo"),
        ("logs", "demo"),
        ("cancel", "demo", "--yes"),
        ("retry", "broken"),
        ("plan", "-f", run_file),
        ("runs", "list"),
        ("models", "list"),
        ("data", "add", "demo", run_file.with_name("unlabeled.csv")),
        ("export", "demo", "-o", tmp_path / "rows.jsonl"),
        ("gc", "--dry-run"),
        ("explain", "demo", "row-1"),
        ("select", "demo", "--what-if"),
        ("doctor",),
    ]
    for command in commands:
        ended = invoke(*command, "-n", "test")
        assert ended.exit_code == 0, (command, ended.stdout, ended.stderr)
    assert len(kubernetes.forwards) == len(commands)


def test_generate_goes_to_the_router_and_needs_no_controller(
    kubernetes: Cluster, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIEVOL_ROUTER", "127.0.0.1:1")  # of another day; the namespace is typed
    with running(generation_service(GenerationSettings(), FakeEngine(lambda model, messages, seed: "red"))) as address:
        pod = kubernetes.install("router", 50057, address=address)
        ended = invoke("generate", "-n", "test", "--model", "base", "Which colour?")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout == "red\n"
    assert kubernetes.forwards == [(pod, "50057")]


def test_a_watch_goes_on_at_the_pod_that_takes_over(kubernetes: Cluster, invoke: Invoke) -> None:
    """The controller is killed in the middle: the connection breaks, and the next one leads to its successor."""
    first, second = (FakeControllerServicer([succeeded(spec())]) for _ in range(2))
    first.hold_watch = True
    with running(service(first)) as dying, running(service(second)) as successor:
        pod = kubernetes.install("controller", 50056, address=dying)
        labels = kubernetes.objects.kube().get(POD, pod)["metadata"]["labels"]

        def kill() -> None:
            wait_until(lambda: first.watching == 1)
            kubernetes.start("demo-controller-2", labels, 50056, successor)
            kubernetes.kill(pod)

        killer = threading.Thread(target=kill)
        killer.start()
        ended = invoke("watch", "demo", "-n", "test", "--json")
        killer.join()
    assert ended.exit_code == 0, ended.stderr
    assert [json.loads(line).get("number") for line in ended.stdout.splitlines()] == [1, 2, 3, 0, 4, 5, 6]
    assert {name for name, _ in kubernetes.forwards} == {pod, "demo-controller-2"}


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_goes_on_where_the_api_server_broke_off(
    kubernetes: Cluster, serve: Callable[..., Served], invoke: Invoke, capfd: pytest.CaptureFixture[str]
) -> None:
    """The Kubernetes client's own thread dies of a reset; the command connects again at once, and shows no traceback."""
    demo = serve([succeeded(spec())])
    demo.servicer.hold_watch = True
    pod = kubernetes.install("controller", 50056, address=demo.address)

    def reset() -> None:
        wait_until(lambda: demo.servicer.watching == 1)
        demo.servicer.hold_watch = False
        kubernetes.break_off(pod)

    resetter = threading.Thread(target=reset)
    resetter.start()
    ended = invoke("watch", "demo", "-n", "test", "--json")
    resetter.join()
    assert ended.exit_code == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 7
    assert "Traceback" not in ended.stderr + "".join(capfd.readouterr())
    assert len(kubernetes.forwards) == 2


# ---------------------------------------------------------------- what opens the release


@pytest.fixture
def secured(kubernetes: Cluster, tmp_path: Path) -> Iterator[tuple[Cluster, Authority]]:
    """A release with mutual TLS and tokens, whose certificate names its Service alone, as the chart mounts its Secrets."""
    ca = Authority(tmp_path / "ca")
    pair = ca.issue("suite", hosts=("demo-controller.test.svc",))
    kubernetes.hold(
        "demo-tls",
        **{"ca.crt": ca.file.read_text(), "tls.crt": pair.certificate.read_text(), "tls.key": pair.key.read_text()},
    )
    kubernetes.hold("demo-auth", tokens="first-token\nsecond-token\n")
    guard = protection(
        SecuritySettings(
            tls_cert_file=pair.certificate,
            tls_key_file=pair.key,
            tls_ca_file=ca.file,
            tls_require_client_cert=True,
            auth_tokens="first-token",
        )
    )
    container = {
        "volumeMounts": [TLS, TOKENS],
        "env": [{"name": "SEMIEVOL_TLS_REQUIRE_CLIENT_CERT", "value": "true"}],
    }
    tokens = {"sources": [{"secret": {"name": "demo-auth", "items": [{"key": "tokens", "path": "tokens"}]}}]}
    volumes = [{"name": "tls", "secret": {"secretName": "demo-tls"}}, {"name": "tokens", "projected": tokens}]
    with ExitStack() as stack:
        public = dataclasses.replace(service(FakeControllerServicer([succeeded(spec())])), public=True)
        address = stack.enter_context(running(public, guard=guard))
        kubernetes.install("controller", 50056, address=address, spec={"container": container, "volumes": volumes})
        yield kubernetes, ca


def test_token_and_certificates_come_from_the_releases_secrets(secured: tuple[Cluster, Authority], invoke: Invoke) -> None:
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 0, ended.stderr


def test_who_may_not_read_secrets_is_told_what_to_set(
    secured: tuple[Cluster, Authority], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubernetes, ca = secured
    kubernetes.forbidden.add("secrets")
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 77
    assert "the Secret demo-auth" in ended.stderr
    assert "set SEMIEVOL_TOKEN" in ended.stderr
    monkeypatch.setenv("SEMIEVOL_TOKEN", "first-token")
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 77
    assert "set SEMIEVOL_TLS_CA_FILE" in ended.stderr
    monkeypatch.setenv("SEMIEVOL_TLS_CA_FILE", str(ca.file))
    for name, value in ca.issue("mine").environment.items():
        monkeypatch.setenv(name, value)
    assert invoke("status", "-n", "test").exit_code == 0


def test_a_wrong_token_of_ones_own_is_refused(
    secured: tuple[Cluster, Authority], invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMIEVOL_TOKEN", "wrong")
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 77
    assert "does not know the token" in ended.stderr


# ---------------------------------------------------------------- what can be wrong


def test_several_releases_are_listed(kubernetes: Cluster, demo: Served, invoke: Invoke) -> None:
    for release in ("demo", "other"):
        kubernetes.install("controller", 50056, release=release, address=demo.address)
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 64
    assert "choose one with --release: demo, other" in ended.stderr
    assert invoke("status", "-n", "test", "--release", "other").exit_code == 0
    assert kubernetes.forwards == [("other-controller-1", "50056")]


def test_no_release_is_said(kubernetes: Cluster, invoke: Invoke) -> None:
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 64
    assert "There is no release of semievol with a controller in the namespace test" in ended.stderr


def test_a_pod_that_is_not_ready_is_reported_in_the_clusters_words(kubernetes: Cluster, demo: Served, invoke: Invoke) -> None:
    pod = kubernetes.install("controller", 50056, address=demo.address)
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image\nmore"}
    status = {"phase": "Pending", "conditions": [], "containerStatuses": [{"state": {"waiting": waiting}}]}
    kubernetes.objects.put(POD, {"metadata": {"name": pod}, "status": status})
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 69
    assert "demo-controller-1: ImagePullBackOff: Back-off pulling image)" in ended.stderr


def test_a_pod_that_is_on_its_way_is_waited_for(
    kubernetes: Cluster, demo: Served, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "_POD_S", 60.0)
    pod = kubernetes.install("controller", 50056, address=demo.address)
    works = copy.deepcopy(kubernetes.objects.kube().get(POD, pod)["status"])
    waiting = {
        "phase": "Pending",
        "conditions": [],
        "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}],
    }
    kubernetes.objects.put(POD, {"metadata": {"name": pod}, "status": waiting})
    later = threading.Timer(1.0, lambda: kubernetes.objects.put(POD, {"metadata": {"name": pod}, "status": works}))
    later.start()
    try:
        ended = invoke("status", "-n", "test")
        assert ended.exit_code == 0, ended.stderr
    finally:
        later.join()


def test_who_may_not_forward_ports_is_told(kubernetes: Cluster, demo: Served, invoke: Invoke) -> None:
    kubernetes.install("controller", 50056, address=demo.address)
    kubernetes.forbidden.add("portforward")
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 77
    assert "pods/portforward" in ended.stderr


def test_who_may_not_look_is_told_in_the_api_servers_words(kubernetes: Cluster, invoke: Invoke) -> None:
    kubernetes.forbidden.add("services")
    ended = invoke("status", "-n", "test")
    assert ended.exit_code == 77
    assert "services is forbidden" in ended.stderr


def test_a_cluster_that_is_away_is_named(kubernetes: Cluster, invoke: Invoke, tmp_path: Path) -> None:
    away = json.loads((tmp_path / "kubeconfig").read_text())
    away["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    (tmp_path / "away").write_text(json.dumps(away))
    ended = invoke("status", "--kubeconfig", tmp_path / "away")
    assert ended.exit_code == 69
    assert "http://127.0.0.1:1" in ended.stderr


def test_a_configuration_that_is_not_there_is_the_users_mistake(kubernetes: Cluster, invoke: Invoke) -> None:
    unknown = invoke("status", "--context", "unknown")
    assert unknown.exit_code == 64
    assert "unknown" in unknown.stderr
    missing = invoke("status", "--kubeconfig", "missing")
    assert missing.exit_code == 2
    assert "'missing' does not exist" in missing.stderr


def test_the_reason_is_told_where_the_connection_merely_broke(
    kubernetes: Cluster, demo: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pod goes away and no other comes: that is the message, not a closed connection."""
    pod = kubernetes.install("controller", 50056, address=demo.address)

    def watch() -> None:
        with (
            forward.forwarded(options.Cluster(namespace="test"), "controller") as (address, access),
            ControllerClient(address, access=access, reconnect_s=0.5) as client,
        ):
            client.list_runs()
            kubernetes.kill(pod)
            list(client.watch("demo"))

    with pytest.raises(errors.Unavailable, match=r"No pod of test/demo-controller is ready \(there is none\)"):
        watch()
