"""The whole story on a real cluster: install, evolve, disturb, query, promote, cancel, upgrade, uninstall, and nothing is left.

    make e2e            images, a development cluster, this file
    make e2e-vllm       likewise, with an engine pod of vLLM for each phase of a run

The tests build on one another, in this order.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import yaml

from tests.release import NAME, Release, small_run, until
from tests.servers import BINARIES

VLLM = os.environ.get("STORY_ENGINE") == "vllm"
VLLM_PODS = (
    "engine.backend=vllm",
    "engine.runs=pods",
    "engine.vllm.kv_cache_gib=1",
    "engine.vllm.max_model_tokens=1024",
    "engine.resources.limits.memory=8Gi",
    "jobs.runEngine.resources.limits.memory=8Gi",
)
QUESTION = "The streetlight outside my house has been out for a week."
RUN_S = 2400
CONTROLLERS = ("-l", "app.kubernetes.io/component=controller")

pytestmark = [pytest.mark.cluster, pytest.mark.story, pytest.mark.models, pytest.mark.timeout(RUN_S + 600)]


@pytest.fixture(scope="module")
def release() -> Iterator[Release]:
    release = Release("semievol-story")
    release.make_namespace()
    yield release
    release.remove()


@pytest.fixture(scope="module")
def before(release: Release) -> set[str]:
    return release.objects()


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("run"), "vllm" if VLLM else "transformers")


def test_install(release: Release, before: set[str]) -> None:
    began = time.monotonic()
    release.install(*(VLLM_PODS if VLLM else ()))
    print(f"all ready after {time.monotonic() - began:.0f} s")
    assert all(pod["status"]["phase"] in ("Running", "Succeeded") for pod in release.found("pods"))


def test_the_releases_own_test(release: Release) -> None:
    release.helm("test", NAME, "--timeout", "300s", timeout_s=330)


def test_a_run_evolves_a_model(release: Release, run_file: Path) -> None:
    release.semievol("submit", "-f", str(run_file))
    ended = release.end_of("townhall")
    assert ended["state"] == "succeeded", ended
    accuracy = ended["result"]["iterations"][0]["accuracy"]
    assert accuracy["evolved"]["value"] > accuracy["base"]["value"]
    until(release.leaves_no_pod_at_work, 30, "its last pods do not end")


def test_the_model_answers_over_grpc(release: Release) -> None:
    assert release.semievol("generate", QUESTION, "--model", "townhall").strip()


def test_the_model_answers_the_openai_client(release: Release, tmp_path: Path) -> None:
    token = release.kubectl("get", "secret", f"{NAME}-auth", "--output=go-template={{.data.token | base64decode}}")
    (tmp_path / "ca.crt").write_text(
        release.kubectl("get", "secret", f"{NAME}-tls", '--output=go-template={{index .data "ca.crt" | base64decode}}')
    )
    command = [str(BINARIES / "kubectl"), "--kubeconfig", release.kubeconfig, "--namespace", release.namespace]
    with subprocess.Popen(
        [*command, "port-forward", f"service/{NAME}-door", ":8000"], stdout=subprocess.PIPE, text=True
    ) as forward:
        try:
            assert forward.stdout is not None
            port = forward.stdout.readline().split("127.0.0.1:")[1].split()[0]
            http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(tmp_path / "ca.crt")))
            client = openai.OpenAI(base_url=f"https://127.0.0.1:{port}/v1", api_key=token, http_client=http)
            assert "townhall" in {model.id for model in client.models.list()}
            reply = client.chat.completions.create(
                model="townhall", messages=[{"role": "user", "content": QUESTION}], max_tokens=6
            )
            assert reply.choices[0].message.content
        finally:
            forward.terminate()


def test_a_disturbed_run_publishes_the_same_and_is_watched_to_its_end(release: Release) -> None:
    """Done again from its first step, with a Job deleted, a step's pod killed and the controller killed."""
    calm = release.manifests()
    release.semievol("retry", "townhall", "--from", "0/intake")
    lines: list[str] = []
    watching = threading.Thread(
        target=lambda: lines.extend(release.semievol("watch", "townhall", timeout_s=RUN_S).splitlines()), daemon=True
    )
    watching.start()
    pod = until(lambda: release.working("training"), 300, "it does not train")[0]
    assert set(calm) > set(release.manifests()), "nothing is done again"
    release.kubectl("delete", "job", pod["metadata"]["labels"]["job-name"], "--wait=false")
    pod = until(lambda: release.working("step"), 300, "no step works")[0]
    release.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    release.kubectl("delete", "pod", *CONTROLLERS, "--grace-period=0", "--force")
    release.kubectl("rollout", "status", f"deployment/{NAME}-controller", "--timeout=120s", timeout_s=130)
    ended = release.end_of("townhall")
    watching.join(120)
    assert ended["state"] == "succeeded", ended
    if not VLLM:  # batches of other sizes change its last bits
        assert release.manifests() == calm
    assert any(line.startswith("  evolved model: ") for line in lines), "who watches is told how it ended"


def test_a_model_is_promoted_and_rolled_back(release: Release) -> None:
    models = json.loads(release.semievol("models", "list", "--json"))["models"]
    warm, evolved = (next(one["name"] for one in models if one["role"] == role) for role in ("warm", "evolved"))
    release.semievol("models", "promote", evolved, "--alias", "production")
    release.semievol("models", "promote", warm, "--alias", "production")
    release.semievol("models", "rollback", "production")
    aliases = {one["name"]: one["model"] for one in json.loads(release.semievol("models", "list", "--json"))["aliases"]}
    assert aliases["production"] == evolved
    assert release.semievol("generate", QUESTION, "--model", "production").strip()


def test_a_cancelled_run_leaves_nothing_running(release: Release, run_file: Path) -> None:
    second = run_file.with_name("second.yaml")
    second.write_text(yaml.safe_dump(yaml.safe_load(run_file.read_text()) | {"name": "second", "seed": 1}))
    release.semievol("submit", "-f", str(second))
    until(lambda: release.jobs_of("second"), 120, "its first Job is not there")
    release.semievol("cancel", "second", "--yes")
    assert release.leaves_no_pod_at_work()


def test_of_two_controllers_either_is_called_and_the_other_takes_over(release: Release) -> None:
    """The command line calls the youngest pod, which is not the one that acts; then the one that acts is killed."""
    release.upgrade("controller.replicas=2")
    acting = release.acting()
    youngest = max(release.found("pods", *CONTROLLERS), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    assert youngest["metadata"]["name"] != acting
    ended = len(release.jobs_of("second"))
    release.semievol("retry", "second")
    followed: list[str] = []
    following = threading.Thread(
        target=lambda: followed.extend(release.semievol("logs", "second", "--follow", "--json", timeout_s=RUN_S).splitlines()),
        daemon=True,
    )
    following.start()
    until(lambda: len(release.jobs_of("second")) > ended, 120, "no Job is there")
    release.kubectl("delete", "pod", acting, "--grace-period=0", "--force")
    until(lambda: release.acting() not in ("", acting), 60, "no other controller acts")
    told = release.end_of("second")
    assert told["state"] == "succeeded", told
    following.join(120)
    assert any("evaluate-evolved" in json.loads(line)["job"] for line in followed), (
        "who follows the logs reads the last ones, too"
    )


def test_an_upgrade_during_a_run_ends_it_not(release: Release) -> None:
    ended = len(release.jobs_of("second"))
    release.semievol("retry", "second", "--from", "1/judge")
    until(lambda: len(release.jobs_of("second")) > ended, 120, "no Job is there")
    release.upgrade("controller.podAnnotations.again=yes", "jobs.step.ttlSecondsAfterFinished=300")
    told = release.end_of("second")
    assert told["state"] == "succeeded", told


def test_models_answer_while_the_controller_is_away(release: Release) -> None:
    release.kubectl("scale", f"deployment/{NAME}-controller", "--replicas=0")
    until(lambda: not release.found("pods", *CONTROLLERS), 60, "the controller stays")
    assert release.semievol("generate", QUESTION, "--model", "production").strip()


def test_an_uninstalled_release_leaves_only_the_volumes(release: Release, before: set[str]) -> None:
    release.helm("uninstall", NAME, "--wait", "--timeout", "180s", timeout_s=200)

    def left() -> set[str]:
        return {name for name in release.objects() - before if not name.startswith("persistentvolume")}

    until(lambda: not left(), 120, "the release has left something")
    claims = [name for name in release.objects() if name.startswith("persistentvolumeclaim/")]
    assert claims, "users' models are kept until they are purged"
    release.kubectl("delete", *claims)
    until(lambda: release.objects() <= before, 120, "the volumes are still there")
