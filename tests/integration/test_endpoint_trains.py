"""Whole runs in which an endpoint does everything that a language model does: it answers, it trains, and it serves what it has trained.

As a user runs them: `semievol` as a process, no weights on this machine. Endpoint and embedding server are doubles of their public APIs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from semievol.algorithm.types import Message
from semievol.common.keys import derive_seed
from semievol.embedding.backends.fake import FakeEmbedder
from semievol.generation.backends.fake import FakeEngine
from semievol.launchers.subprocess import SubprocessLauncher
from semievol.training.core import TrainingService, job_name

from tests.fake_suite import wait_for, write_colours
from tests.servers.openai_tuning import TuningDouble
from tests.servers.tei import TeiDouble
from tests.training_runs import Bench

MODEL = "small-model"
CHAT = "/v1/chat/completions"
START_S = 120.0  # until a process of ours has asked for its first job


def guessing(model: str, messages: Sequence[Message], seed: int) -> str:
    """A base model that answers well and knows nothing."""
    return f"Answer: {'ABC'[derive_seed(messages[-1].content, seed) % 3]}"


@dataclass
class Project:
    """A directory with a run file, the servers that it names, and a home."""

    directory: Path
    endpoint: TuningDouble
    tei: TeiDouble

    @property
    def run_file(self) -> Path:
        return self.directory / "run.yaml"

    def write(self, **changes: Any) -> None:
        keys = {
            "name": "colours",
            "model": MODEL,
            "engine": self.endpoint.endpoint,
            "trainer": "openai",
            "entropy_source": "generated",
            "embedding": self.tei.url,
            "data": {"labeled": "labeled.csv", "unlabeled": "unlabeled.csv", "test": "test.csv"},
            "collaborators": [
                {"model": "warm", "references": 0},
                {"model": "warm", "references": 1},
                {"model": "base", "references": 1},
            ],
            "shard_rows": 32,
        }
        self.run_file.write_text(json.dumps(keys | changes))  # JSON is YAML

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "SEMIEVOL_HOME": str(self.directory / "home"),
            "SEMIEVOL_TRAINING_ENDPOINT_POLL_S": "0.05",
            "SEMIEVOL_OPENAI_API_KEY": "the key",
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-m", "semievol.cli.main", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def semievol(self, *arguments: str, code: int = 0) -> Any:
        """What the command prints as JSON."""
        process = self.start(*arguments, "--json")
        out, err = process.communicate(timeout=200)
        assert process.returncode == code, err
        return json.loads(out) if out else err

    @contextmanager
    def at_work(self) -> Iterator[subprocess.Popen[str]]:
        """`semievol run`, which has asked for its first fine-tuning job."""
        process = self.start("run", "-f", str(self.run_file))
        try:
            wait_for(lambda: self.endpoint.created > 0 or process.poll() is not None, START_S)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with ExitStack() as stack:
        endpoint = stack.enter_context(TuningDouble(FakeEngine(guessing, base=MODEL), api_key="the key").running())
        tei = stack.enter_context(TeiDouble(FakeEmbedder()).running())
        for role, answers in {"labeled": True, "unlabeled": False, "test": True}.items():
            write_colours(tmp_path, role, answers)
        project = Project(tmp_path, endpoint, tei)
        project.write()
        yield project


def jobs(endpoint: TuningDouble) -> list[str]:
    return [job.body["status"] for job in endpoint.jobs.values()]


def test_a_whole_run_goes_through_the_endpoint_and_so_does_a_question_to_its_model(project: Project) -> None:
    result = project.semievol("run", "-f", str(project.run_file))
    (iteration,) = result["iterations"]
    assert jobs(project.endpoint) == ["succeeded"] * 2  # warm, evolved
    accuracy = iteration["accuracy"]
    assert accuracy["evolved"]["value"] >= accuracy["warm"]["value"] > accuracy["base"]["value"]
    assert iteration["selected"] >= 10
    assert iteration["no_answer"] == 0
    directory = Path(result["best"]["directory"])
    told = json.loads((directory / "openai_model.json").read_text())
    assert told["model"].startswith(f"ft:{MODEL}:tests:semievol-")
    assert not list(project.directory.rglob("*.safetensors"))
    replies = {call.json()["model"] for call in project.endpoint.called(CHAT)}
    assert len(replies) == 3  # base, warm, evolved
    question = "Which colour is the green thing 4?"
    options = ("--option", "red", "--option", "green", "--option", "blue")
    answer = project.semievol("generate", "--model", "colours", "--as-question", *options, question)
    assert answer["text"] == "Answer: B"
    assert answer["model"]["adapter"] == result["best"]["uri"]
    again = project.semievol("run", "-f", str(project.run_file))
    assert again["best"] == result["best"]
    assert project.endpoint.created == 2


def test_a_run_that_is_killed_while_the_endpoint_trains_goes_on_with_the_same_job(project: Project) -> None:
    project.endpoint.hold = True
    with project.at_work() as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    project.endpoint.hold = False
    result = project.semievol("run", "-f", str(project.run_file))
    assert result["state"] == "succeeded"
    assert jobs(project.endpoint) == ["succeeded"] * 2
    assert project.endpoint.uploads == 2


def test_ctrl_c_leaves_the_endpoint_at_work_and_the_run_goes_on_with_it(project: Project) -> None:
    project.endpoint.hold = True
    with project.at_work() as process:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert "cancelled" not in jobs(project.endpoint)
    project.endpoint.hold = False
    assert project.semievol("run", "-f", str(project.run_file))["state"] == "succeeded"
    assert jobs(project.endpoint) == ["succeeded"] * 2


def test_a_cancelled_run_cancels_the_endpoints_job(project: Project) -> None:
    project.endpoint.hold = True
    serving = project.start(
        "serve", "--model", MODEL, "--engine", project.endpoint.endpoint, "--trainer", "openai", "--embedding", project.tei.url
    )
    try:
        home = project.directory / "home" / "services.json"
        wait_for(lambda: home.exists() or serving.poll() is not None, START_S)
        assert serving.poll() is None, serving.communicate()
        run = project.semievol("submit", "-f", str(project.run_file))
        wait_for(lambda: "running" in jobs(project.endpoint), START_S)
        project.semievol("cancel", run["id"], "--yes")
        assert jobs(project.endpoint) == ["cancelled"]
    finally:
        serving.terminate()
        serving.communicate(timeout=60)


def test_a_job_that_fails_there_ends_the_run_with_its_reason(project: Project) -> None:
    project.endpoint.errors.append({"code": "unsafe_content", "message": "The data was flagged.", "param": None})
    said = project.start("run", "-f", str(project.run_file)).communicate(timeout=120)[1]
    assert "1/warm" in said
    assert "ftjob-1" in said
    assert "The data was flagged (unsafe_content)" in said
    assert project.endpoint.created == 1


def test_a_plan_counts_what_the_endpoint_is_asked_for(project: Project) -> None:
    planned = project.semievol("plan", "-f", str(project.run_file))
    steps = {f"{step['iteration']}/{step['name']}": step for step in planned["planned_steps"]}
    assert "trains on about" in " ".join(planned["notes"])
    assert int(steps["1/warm"].get("update_count", 0)) > 0
    assert not int(steps["1/score"].get("score_count", 0))
    assert project.endpoint.created == 0


KEY = "7" * 64


def test_a_job_of_ours_that_is_killed_is_followed_by_one_that_finds_the_endpoints(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` of the training job's own process, as the launcher `subprocess` runs it."""
    monkeypatch.setenv("SEMIEVOL_OPENAI_API_KEY", "the key")
    bench, launcher = Bench(project.directory, MODEL, project.endpoint.endpoint), SubprocessLauncher(project.directory / "jobs")
    service = TrainingService(bench.artifacts, launcher, bench.options(), poll_s=0.02)
    project.endpoint.hold = True
    try:
        service.create_run(KEY, bench.spec())
        wait_for(lambda: "running" in jobs(project.endpoint), START_S)
        process = json.loads(next((project.directory / "jobs" / job_name(KEY, 1)).glob("process*")).read_text())
        os.killpg(process["pid"], signal.SIGKILL)
        failed = list(service.watch_run(KEY))[-1]
        assert (failed.state, failed.error_code) == ("failed", "UNAVAILABLE")
        project.endpoint.hold = False
        service.create_run(KEY, bench.spec())
        assert list(service.watch_run(KEY))[-1].state == "succeeded"
    finally:
        launcher.close()
    assert (project.endpoint.created, project.endpoint.uploads) == (1, 1)
