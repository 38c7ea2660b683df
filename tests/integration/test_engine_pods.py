"""Whole runs over the real controller, real engines in processes of their own that stand for pods, and the API server in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from semievol.algorithm.types import Message
from semievol.client.generation import GenerationClient
from semievol.controller.engines import ServingStays
from semievol.controller.pods import Answering, base_at
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.generation.backends.fake import default_script
from semievol.launchers.kubernetes_engines import EngineSettings, PodEngines
from semievol.ports import BASE_MODEL, Prompt, Sampling

from tests.fake_suite import fake_suite, wait_for
from tests.manifests import manifests
from tests.servers.engine_pods import EngineKubelet, engine_kubelet

COLLABORATORS = [{"model": "base", "references": 0}, {"model": "warm", "references": 1}]


def answered_by(kubelet: EngineKubelet) -> Callable[[str], Answering]:
    def answering(address: str) -> Answering:
        engines = PodEngines(kubelet.server.kube(), kubelet.settings(), EngineSettings(), base_at, look_s=0.1)
        return Answering(engines, ServingStays(), engines.recover)

    return answering


def environment(home: Path) -> dict[str, str]:
    return {
        "SEMIEVOL_GENERATION_BACKEND": "fake",
        "SEMIEVOL_GENERATION_MODEL": "fake",
        "SEMIEVOL_GENERATION_STORE": (home / "artifacts").as_uri(),
        "SEMIEVOL_GENERATION_CACHE": str(home / "engine-cache"),
    }


def test_a_run_whose_engine_is_killed_ends_with_the_artifacts_of_one_that_was_left_alone(tmp_path: Path) -> None:
    with fake_suite(tmp_path / "fixed", default_script) as suite:
        suite.run(suite.spec(collaborators=COLLABORATORS, max_no_answer=1.0))
        fixed = manifests(suite.home)
    home = tmp_path / "pods"
    with engine_kubelet(tmp_path, environment(home)) as kubelet:
        with fake_suite(home, default_script, engines_of=answered_by(kubelet)) as suite:
            run = suite.client.submit(suite.spec(collaborators=COLLABORATORS, max_no_answer=1.0)).id
            for event in suite.client.watch(run):
                if event.step_started.step.startswith("infer/") and not kubelet.killed:
                    kubelet.kill()
            ended = suite.client.get_run(run)
            assert (ended.state, ended.error) == (pb.STATE_SUCCEEDED, "")
            assert manifests(home) == fixed
        wait_for(lambda: not kubelet.processes)
        started = kubelet.started
    assert len(started) == 3
    assert kubelet.pods() == []


@pytest.mark.models
def test_the_engine_on_transformers_is_ready_when_it_can_answer(tmp_path: Path) -> None:
    settings = {"BACKEND": "transformers", "STORE": (tmp_path / "artifacts").as_uri(), "CACHE": str(tmp_path / "cache")}
    told = {f"SEMIEVOL_GENERATION_{name}": value for name, value in settings.items()}
    with engine_kubelet(tmp_path, told) as kubelet:
        engines = answered_by(kubelet)("").engines
        wait_for(lambda: bool(engines.acquire("demo-1", "shared").address), timeout_s=240)
        state = engines.acquire("demo-1", "shared")
        assert state.base is not None
        assert state.base.engine.startswith("transformers/")
        client = GenerationClient(state.address)
        prompt = Prompt("a", (Message("user", "What is 2 + 2?"),))
        (answer,) = client.generate(BASE_MODEL, [prompt], Sampling(max_tokens=4))
        client.close()
        assert answer.completions[0].tokens
        wait_for(lambda: engines.release("demo-1"))
        wait_for(lambda: not kubelet.processes)


def test_dedicated_engines_on_one_gpu_take_turns(tmp_path: Path) -> None:
    """What the scheduler says of the one that waits is what the status says of its step."""
    seen: set[str] = set()
    with engine_kubelet(tmp_path, environment(tmp_path)) as kubelet:
        with fake_suite(tmp_path, default_script, engines_of=answered_by(kubelet), parallelism=2) as suite:
            run = suite.client.submit(suite.spec(collaborators=COLLABORATORS, max_no_answer=1.0, placement="dedicated")).id
            while (view := suite.client.get_run(run)).state == pb.STATE_RUNNING:
                seen |= {step.waiting_reason for step in view.steps if step.name.startswith("infer/")}
                assert len(kubelet.processes) <= 1
                time.sleep(0.05)
            assert view.error == ""
        assert len(kubelet.started) == 3
    assert any("1 Insufficient nvidia.com/gpu" in reason for reason in seen)
