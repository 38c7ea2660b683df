"""A whole small evolution with the real models, through the command line, as a user runs it; killed, and continued."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from semievol.common.models import LocalModel

from tests.manifests import manifests

pytestmark = [pytest.mark.models, pytest.mark.timeout(2400)]

ROWS = {"labeled": 12, "unlabeled": 12, "test": 8}
TOWNHALL = Path(__file__).parents[2] / "examples" / "townhall"
RUN_FILE = """\
name: small
model: bundled:smollm2-135m
embedding: bundled:minilm-l6
data: {labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}
task: {type: choice, answer: text, options: [Roads, Water, Parks, Waste, Permits, Housing]}
references: 1
collaborators: [{model: warm, references: 0}, {model: warm, references: 1}]
max_tokens: 8
max_no_answer: 1.0
shard_rows: 8
train: {epochs: 2, learning_rate: 1.0e-3}
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "semievol.cli.main", *arguments]


def semievol(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"SEMIEVOL_HOME": str(home), "NO_COLOR": "1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run file and a few rows of the demo."""
    directory = tmp_path_factory.mktemp("project")
    for role, count in ROWS.items():
        with (TOWNHALL / f"{role}.csv").open(newline="") as source, (directory / f"{role}.csv").open("w", newline="") as target:
            rows = list(csv.reader(source))
            csv.writer(target).writerows(rows[: count + 1])
    (directory / "run.yaml").write_text(RUN_FILE)
    return directory


@pytest.fixture(scope="module")
def calm(project: Path, tmp_path_factory: pytest.TempPathFactory, bundled_model: LocalModel) -> tuple[Path, dict[str, Any]]:
    """(home, result) of an undisturbed run, its jobs in child processes."""
    home = new_home(tmp_path_factory.mktemp("calm"), bundled_model)
    done = semievol("run", "-f", str(project / "run.yaml"), "--json", "--launcher", "subprocess", home=home)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return home, result


def new_home(home: Path, prepared: LocalModel) -> Path:
    """A home that finds the base model prepared: every home would take half a minute to make the same files."""
    (home / "cache").mkdir(parents=True)
    (home / "cache" / prepared.directory.name).symlink_to(prepared.directory, target_is_directory=True)
    return home


def test_the_result_has_what_its_readers_expect(calm: tuple[Path, dict[str, Any]]) -> None:
    _, result = calm
    (iteration,) = result["iterations"]
    assert (iteration["n"], iteration["labeled"], iteration["unlabeled"]) == (1, ROWS["labeled"], ROWS["unlabeled"])
    assert all(iteration["accuracy"][role]["n"] == ROWS["test"] for role in ("base", "warm", "evolved"))
    assert iteration["selected"] + iteration["no_answer"] <= ROWS["unlabeled"]
    assert iteration["pseudo_label_accuracy"] is None
    assert iteration["seconds"]["warm"] > 0


def test_the_evolved_model_is_a_plain_peft_directory(calm: tuple[Path, dict[str, Any]], bundled_model: LocalModel) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, result = calm
    directory = Path(result["models"]["evolved"]["directory"])
    base = AutoModelForCausalLM.from_pretrained(bundled_model.directory)
    model = PeftModel.from_pretrained(base, directory)
    moved = [float(tensor.detach().abs().max()) for name, tensor in model.named_parameters() if "lora_B" in name]
    assert min(moved) > 0
    assert "base_model" in (directory / "README.md").read_text()


def test_the_same_command_again_reuses_every_step(calm: tuple[Path, dict[str, Any]], project: Path) -> None:
    home, first = calm
    again = semievol("run", "-f", str(project / "run.yaml"), "--json", home=home)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert set(result["reused"]) == set(first["seconds"])
    assert result["models"] == first["models"]


def test_the_evolved_model_answers_and_says_which_weights_wrote(calm: tuple[Path, dict[str, Any]], project: Path) -> None:
    home, result = calm
    asked = semievol("generate", "-f", str(project / "run.yaml"), "--json", "The lamp in our street is broken.", home=home)
    assert asked.returncode == 0, asked.stderr
    reply = json.loads(asked.stdout)
    assert reply["text"].strip()
    assert result["models"]["evolved"]["uri"] in json.dumps(reply)


def test_a_run_killed_in_training_leaves_no_child_and_ends_with_the_same_artifacts(
    calm: tuple[Path, dict[str, Any]], project: Path, tmp_path: Path, bundled_model: LocalModel
) -> None:
    home = new_home(tmp_path / "home", bundled_model)
    arguments = ("run", "-f", str(project / "run.yaml"), "--json", "--launcher", "subprocess")
    log = tmp_path / "log"
    with log.open("w") as stream:
        running = subprocess.Popen(
            command(*arguments), env=environment(home), stdout=stream, stderr=stream, stdin=subprocess.DEVNULL
        )
    try:
        wait_for(lambda: updates_made(home) or running.poll() is not None, 900)
        children = processes_of(home)
        assert len(children) > 1, log.read_text()
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    wait_for(lambda: not processes_of(home), 30)
    done = semievol(*arguments, home=home)
    assert done.returncode == 0, done.stderr
    assert "0/intake" in json.loads(done.stdout)["reused"]
    assert manifests(home) == manifests(calm[0])


def updates_made(home: Path) -> bool:
    """Whether a training job has reported its first update."""
    logs = (home / "jobs").glob("train-*/log")
    return any(re.search(r'"step": ?[1-9]', log.read_text()) for log in logs)


def processes_of(home: Path) -> list[int]:
    """Processes whose command line or environment names the home."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                spoken = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(home).encode() in spoken and state != "Z":
                found.append(int(entry.name))
    return found


def wait_for(condition: Any, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_the_same_run_file_evolves_on_vllm_with_one_engine(
    calm: tuple[Path, dict[str, Any]], project: Path, tmp_path: Path, bundled_model: LocalModel
) -> None:
    """Nothing changes but `engine`: the warm model is the same to the byte, one engine serves base, warm and evolved weights in turn, and
    nothing of it is left when the command ends."""
    _, first = calm
    home = new_home(tmp_path / "home", bundled_model)
    (project / "vllm.yaml").write_text(RUN_FILE + "engine: vllm\n")
    before = {one.pid for one in psutil.process_iter()}
    done = semievol("run", "-f", str(project / "vllm.yaml"), "--json", home=home)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engines"]["starts"] == 1, result["engines"]  # however many weights there are
    assert result["engines"]["swaps"] >= 2
    assert result["models"]["warm"]["name"] == first["models"]["warm"]["name"]  # which carries its content's hash
    accuracy = result["iterations"][0]["accuracy"]
    assert all(accuracy[role]["n"] == ROWS["test"] for role in ("base", "warm", "evolved"))
    left = [
        one for one in psutil.process_iter(["cmdline"]) if one.pid not in before and "VLLM" in " ".join(one.info["cmdline"] or [])
    ]
    assert not psutil.wait_procs(left, timeout=20)[1]
