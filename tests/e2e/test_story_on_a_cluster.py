"""The whole story on a real cluster: install, evolve, disturb, query, promote, cancel, upgrade, uninstall, and nothing is left.

    make e2e            images, a development cluster, this file
    make e2e-vllm       likewise, with an engine pod of vLLM for each phase of a run

The tests build on one another, in this order. The release is the chart with values-cpu-trial.yaml, a real MinIO and a real Milvus; the data is a
part of the demo's, so that two cores evolve it in some minutes.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.servers.devcluster import kubeconfig_of_the_one_that_is_up
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semievol" / "bin"
NAMESPACE, RELEASE = "semievol", "semievol"
CHART = ROOT / "helm" / "semievol"
VALUES = [CHART / "values-cpu-trial.yaml", ROOT / "deploy" / "devcluster" / "servers.yaml"]
VLLM = os.environ.get("STORY_ENGINE") == "vllm"
SETTINGS = [
    "image.tag=dev",
    "tls.mode=self-signed",
    *(
        ["engine.backend=vllm", "engine.runs=pods", "engine.vllm.kv_cache_gib=1", "engine.vllm.max_model_len=1024"]
        if VLLM
        else []
    ),
]
QUESTION = "The streetlight outside my house has been out for a week."
READY_S, RUN_S = 600, 2400
KINDS = (
    "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,persistentvolumeclaims,leases,poddisruptionbudgets"
)

MANIFESTS = """
import hashlib, json, os
from semievol.common.stores import open_store
store = open_store(os.environ["SEMIEVOL_CONTROLLER_STORE"])
paths = [one.path for one in store.list("steps/") if one.path.endswith("/MANIFEST.json")]
print(json.dumps({path: hashlib.sha256(store.open(path).read()).hexdigest() for path in paths}))
"""

pytestmark = [pytest.mark.cluster, pytest.mark.story, pytest.mark.models, pytest.mark.timeout(RUN_S + 600)]


@functools.cache
def kubeconfig() -> str:
    return str(kubeconfig_of_the_one_that_is_up())


def run(command: list[str], *, timeout_s: float = 120, fails: bool = False) -> str:
    environment = os.environ | {"KUBECONFIG": kubeconfig()}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert fails or ended.returncode == 0, f"{command} ended with {ended.returncode}: {ended.stderr}{ended.stdout}"
    return ended.stdout


def kubectl(*arguments: str, timeout_s: float = 120) -> str:
    return run([str(CACHE / "kubectl"), "--namespace", NAMESPACE, *arguments], timeout_s=timeout_s)


def helm(*arguments: str, timeout_s: float = 120) -> str:
    return run([str(CACHE / "helm"), "--namespace", NAMESPACE, *arguments], timeout_s=timeout_s)


def semievol(*arguments: str, timeout_s: float = 300) -> str:
    return run([sys.executable, "-m", "semievol.cli.main", *arguments, "--namespace", NAMESPACE], timeout_s=timeout_s)


def found(*arguments: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(kubectl("get", *arguments, "--output=json"))["items"]
    return listed


until = functools.partial(wait_until, poll_s=1.0)


def objects() -> set[str]:
    """Every object of the namespace and every volume, by kind and name."""
    names = kubectl("get", KINDS, "--output=name").split()
    return {*names, *run([str(CACHE / "kubectl"), "get", "persistentvolumes", "--output=name"]).split()}


def jobs_of(run: str) -> list[str]:
    return [job["metadata"]["name"] for job in found("jobs") if job["metadata"]["name"].startswith(f"{run}-")]


def status(name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(semievol("status", name, "--json"))
    return told


def end_of(name: str) -> dict[str, Any]:
    return until(
        lambda: (told := status(name))["state"] in ("succeeded", "failed", "cancelled") and told,
        RUN_S,
        f"{name} did not end",
    )


@pytest.fixture(scope="module")
def before() -> Iterator[set[str]]:
    run([str(CACHE / "kubectl"), "create", "namespace", NAMESPACE], fails=True)
    labels = "pod-security.kubernetes.io/enforce=restricted"
    run([str(CACHE / "kubectl"), "label", "--overwrite", "namespace", NAMESPACE, labels])
    until(lambda: "serviceaccount/default" in objects(), 300, "waited in vain until the namespace has its service account")
    yield objects()
    run([str(CACHE / "helm"), "--namespace", NAMESPACE, "uninstall", RELEASE, "--wait"], fails=True, timeout_s=300)
    run([str(CACHE / "kubectl"), "delete", "namespace", NAMESPACE], timeout_s=300)


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the demo: 32 labeled, 24 unlabeled and 24 test rows, two answers each, and one epoch."""
    directory = tmp_path_factory.mktemp("run")
    demo = ROOT / "examples" / "townhall"
    spec = yaml.safe_load((demo / "run.yaml").read_text())
    for role, rows in {"labeled": 32, "unlabeled": 24, "test": 24}.items():
        lines = (demo / f"{role}.csv").read_text().splitlines(keepends=True)
        (directory / f"{role}.csv").write_text("".join(lines[: rows + 1]))
    spec |= {"collaborators": [{"model": "warm", "references": 0}, {"model": "warm", "references": 1}], "shard_rows": 12}
    spec["train"] |= {"epochs": 1}
    (directory / "run.yaml").write_text(yaml.safe_dump(spec))
    return directory / "run.yaml"


def manifests() -> dict[str, str]:
    """Path of each manifest in the release's object store -> sha256 of its bytes, which hold those of the artifact's files."""
    told: dict[str, str] = json.loads(
        kubectl("exec", f"deployment/{RELEASE}-controller", "--container=main", "--", "python", "-c", MANIFESTS)
    )
    return told


def test_install(before: set[str]) -> None:
    values = [argument for file in VALUES for argument in ("--values", str(file))]
    settings = [argument for one in SETTINGS for argument in ("--set", one)]
    began = time.monotonic()
    helm("install", RELEASE, str(CHART), *values, *settings, "--wait", "--timeout", f"{READY_S}s", timeout_s=READY_S + 30)
    print(f"all ready after {time.monotonic() - began:.0f} s")
    assert all(pod["status"]["phase"] in ("Running", "Succeeded") for pod in found("pods"))


def test_the_releases_own_test() -> None:
    helm("test", RELEASE, "--timeout", "300s", timeout_s=330)


def test_a_run_evolves_a_model(run_file: Path) -> None:
    semievol("submit", "-f", str(run_file))
    ended = end_of("townhall")
    assert ended["state"] == "succeeded", ended
    accuracy = ended["result"]["iterations"][0]["accuracy"]
    assert accuracy["evolved"]["value"] > accuracy["base"]["value"]
    assert not [pod for pod in found("pods", "-l", "semievol.dev/role=job") if pod["status"]["phase"] == "Running"]


def test_the_model_answers_over_grpc() -> None:
    assert semievol("generate", QUESTION, "--model", "townhall").strip()


def test_the_model_answers_the_openai_client(tmp_path: Path) -> None:
    token = kubectl("get", "secret", f"{RELEASE}-auth", "--output=go-template={{.data.token | base64decode}}")
    (tmp_path / "ca.crt").write_text(
        kubectl("get", "secret", f"{RELEASE}-tls", '--output=go-template={{index .data "ca.crt" | base64decode}}')
    )
    command = [str(CACHE / "kubectl"), "--kubeconfig", kubeconfig(), "--namespace", NAMESPACE]
    with subprocess.Popen(
        [*command, "port-forward", f"service/{RELEASE}-door", ":8000"], stdout=subprocess.PIPE, text=True
    ) as forward:
        try:
            assert forward.stdout is not None
            port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
            http = openai.DefaultHttpxClient(verify=str(tmp_path / "ca.crt"))
            client = openai.OpenAI(base_url=f"https://127.0.0.1:{port}/v1", api_key=token, http_client=http)
            assert "townhall" in {model.id for model in client.models.list()}
            reply = client.chat.completions.create(
                model="townhall", messages=[{"role": "user", "content": QUESTION}], max_tokens=6
            )
            assert reply.choices[0].message.content
        finally:
            forward.terminate()


def test_a_disturbed_run_publishes_the_same_and_is_watched_to_its_end(run_file: Path) -> None:
    """Done again from its first step, with a Job deleted, a step's pod killed and the controller killed."""
    calm = manifests()
    semievol("retry", "townhall", "--from", "0/intake")
    lines: list[str] = []
    watching = threading.Thread(target=lambda: lines.extend(semievol("watch", "townhall", timeout_s=RUN_S).splitlines()))
    watching.start()

    def working(component: str) -> list[dict[str, Any]]:
        jobs = found("pods", "-l", f"semievol.dev/role=job,app.kubernetes.io/component={component}")
        return [pod for pod in jobs if pod["status"]["phase"] == "Running"]

    pod = until(lambda: working("training"), 300, "waited in vain until it trains")[0]
    kubectl("delete", "job", pod["metadata"]["labels"]["job-name"], "--wait=false")
    pod = until(lambda: working("step"), 300, "waited in vain until a step works")[0]
    kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    kubectl("delete", "pod", "-l", "app.kubernetes.io/component=controller", "--grace-period=0", "--force")
    ended = end_of("townhall")
    watching.join(120)
    assert ended["state"] == "succeeded", ended
    assert manifests() == calm
    assert any("evolved" in line for line in lines)


def test_a_model_is_promoted_and_rolled_back() -> None:
    models = json.loads(semievol("models", "list", "--json"))["models"]
    warm, evolved = (next(one["name"] for one in models if f"-{role}-" in one["name"]) for role in ("warm", "evolved"))
    semievol("models", "promote", evolved, "--alias", "production")
    semievol("models", "promote", warm, "--alias", "production")
    semievol("models", "rollback", "production")
    aliases = {one["name"]: one["model"] for one in json.loads(semievol("models", "list", "--json"))["aliases"]}
    assert aliases["production"] == evolved
    assert semievol("generate", QUESTION, "--model", "production").strip()


def test_a_cancelled_run_leaves_nothing_running(run_file: Path) -> None:
    spec = yaml.safe_load(run_file.read_text()) | {"name": "second", "seed": 1}
    second = run_file.with_name("second.yaml")
    second.write_text(yaml.safe_dump(spec))
    semievol("submit", "-f", str(second))
    until(lambda: jobs_of("second"), 300, "waited in vain until its first Job is there")
    semievol("cancel", "second", "--yes")
    assert not [pod for pod in found("pods", "-l", "semievol.dev/role=job") if pod["status"]["phase"] in ("Pending", "Running")]


def test_an_upgrade_during_a_run_ends_it_not(run_file: Path) -> None:
    ended = len(jobs_of("second"))
    semievol("retry", "second")
    until(lambda: len(jobs_of("second")) > ended, 300, "waited in vain until a Job is there")
    upgrade = ["upgrade", RELEASE, str(CHART), "--reuse-values", "--set", "controller.podAnnotations.again=yes"]
    helm(*upgrade, "--set", "jobs.step.ttlSecondsAfterFinished=300", "--wait", "--timeout", "300s", timeout_s=330)
    assert end_of("second")["state"] == "succeeded"


def test_an_uninstalled_release_leaves_only_the_volumes(before: set[str]) -> None:
    helm("uninstall", RELEASE, "--wait", "--timeout", "180s", timeout_s=200)
    kept = lambda: {name for name in objects() - before if not name.startswith(("persistentvolume/", "persistentvolumeclaim/"))}  # noqa: E731
    until(lambda: not kept(), 120, "the release has left something")
    claims = [name for name in objects() if name.startswith("persistentvolumeclaim/")]
    assert claims  # users' models are kept until they are purged
    kubectl("delete", *claims)
    until(lambda: objects() <= before, 120, "the volumes are still there")
