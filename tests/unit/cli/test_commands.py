"""The commands, against a fake controller behind a real server: what they print where, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from semievol.cli import failures
from semievol.common import errors
from semievol.common.runspec import RunSpec
from semievol.controller.fake import ScriptedRun, failed, succeeded
from semievol.controller.v1 import controller_service_pb2 as pb

from tests.unit.cli.conftest import Served

Invoke = Callable[..., Result]


def cancelled(spec: RunSpec) -> ScriptedRun:
    scripted = succeeded(spec)
    scripted.run.state = pb.STATE_CANCELLED
    scripted.events[-1] = pb.RunEvent(number=6, run_cancelled=pb.RunCancelled())
    return scripted


def unfinished(spec: RunSpec) -> ScriptedRun:
    scripted = succeeded(spec)
    scripted.run.state, scripted.run.result_json = pb.STATE_RUNNING, ""
    return scripted


def submitted(invoke: Invoke, running_home: Path, run_file: Path) -> str:
    return str(invoke("submit", "-f", run_file, "--home", running_home).stdout.strip())


# ---------------------------------------------------------------- run


def test_run_ends_with_exactly_one_json_object(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    result = invoke("run", "-f", run_file, "--home", running_home, "--json")
    assert result.exit_code == 0, result.stderr
    body = json.loads(result.stdout)
    assert body["run"].startswith("demo-")
    iteration = body["iterations"][0]
    assert set(iteration["accuracy"]["evolved"]) == {"n", "value", "low", "high"}
    assert iteration["models"]["evolved"]["directory"] is None
    assert result.stdout.count("\n") == 1


def test_run_shows_steps_on_stderr_and_the_result_on_stdout(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    result = invoke("run", "-f", run_file, "--home", running_home)
    assert result.exit_code == 0, result.stderr
    assert "0/intake  reused" in result.stderr
    assert "1/warm  done in 3.5 s" in result.stderr
    assert "Read 4 labeled rows, 1 unlabeled rows, 4 test rows." in result.stderr
    for expected in ("base     31.0 %", "evolved  75.0 %", "+5.0 points", "kept: 150", "reused: intake", "demo-evolved-abc123"):
        assert expected in result.stdout
    assert "started" not in result.stdout


def test_run_uploads_the_files_beside_the_run_file(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    assert invoke("run", "-f", run_file, "--home", running_home).exit_code == 0
    (spec,) = served.servicer.submitted
    assert served.servicer.uploads[spec.data.labeled] == (run_file.parent / "labeled.csv").read_bytes()
    assert set(served.servicer.uploads) == {spec.data.labeled, spec.data.unlabeled, spec.data.test}


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [(failed, 69, "The judge is down."), (cancelled, 130, "was cancelled")],
    ids=["failed", "cancelled"],
)
def test_run_ends_with_the_code_of_what_went_wrong(
    invoke: Invoke,
    running_home: Path,
    run_file: Path,
    served: Served,
    script: Callable[[RunSpec], ScriptedRun],
    code: int,
    words: str,
) -> None:
    served.servicer.script = script
    result = invoke("run", "-f", run_file, "--home", running_home, "--json")
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("line", "instead", "words"),
    [
        ("model: bundled:smollm2-135m", "model: bundled:other", "serve bundled:smollm2-135m, not bundled:other"),
        ("embedding: bundled:minilm-l6", "embedding: http://host:8080", "serve bundled:minilm-l6, not http://host:8080"),
        ("name: demo", "name: demo\nengine: http://host:8000/v1", "serve transformers, not http://host:8000/v1"),
    ],
)
def test_run_refuses_services_that_serve_another_model(
    invoke: Invoke, running_home: Path, run_file: Path, line: str, instead: str, words: str
) -> None:
    run_file.write_text(run_file.read_text().replace(line, instead))
    result = invoke("run", "-f", run_file, "--home", running_home)
    assert result.exit_code == 73
    assert words in result.stderr


def test_run_finds_bad_rows_before_anything_is_started(
    invoke: Invoke, running_home: Path, run_file: Path, served: Served
) -> None:
    with (run_file.parent / "labeled.csv").open("a") as file:
        file.write('"Where?","[""here"", ""there""]",nowhere\n' * 9)
    result = invoke("run", "-f", run_file, "--home", running_home)
    assert result.exit_code == 64
    assert "labeled.csv:6: " in result.stderr
    assert "... and 6 more" in result.stderr
    assert served.servicer.submitted == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("theta", "thetta: 3\n"), "did you mean 'theta'?"),
        (("train", "train: {epochs: 0}\n"), "train.epochs"),
        (("theta", "theta: 40\ntheta: 60\n"), "the key 'theta' stands there twice"),
        (("gate", "gate: {holdout: 0.1, min_gain: 0, holdout: 0.2}\n"), "the key 'holdout' stands there twice"),
        (("engine", "engine: yes\n"), "engine: a text is expected, not True; put it in quotes"),
        (("yaml", "a: [\n"), "run.yaml:"),
    ],
    ids=["unknown key", "value out of range", "a key twice", "a key twice below another", "a bare yes", "broken YAML"],
)
def test_a_wrong_run_file_is_bad_input(invoke: Invoke, home: Path, run_file: Path, change: tuple[str, str], words: str) -> None:
    run_file.write_text(run_file.read_text() + change[1])
    result = invoke("run", "-f", run_file, "--home", home)
    assert result.exit_code == 64
    assert words in result.stderr


def test_a_missing_data_file_is_named_with_its_key(invoke: Invoke, home: Path, run_file: Path) -> None:
    (run_file.parent / "test.csv").unlink()
    result = invoke("run", "-f", run_file, "--home", home)
    assert result.exit_code == 64
    assert "data.test" in result.stderr
    assert "test.csv" in result.stderr


# ---------------------------------------------------------------- runs


def test_submit_prints_the_run_id_alone(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    assert submitted(invoke, running_home, run_file) in served.servicer.runs


def test_submit_without_services_says_what_to_do_instead(invoke: Invoke, home: Path, run_file: Path) -> None:
    result = invoke("submit", "-f", run_file, "--home", home)
    assert result.exit_code == 69
    assert "semievol run -f" in result.stderr


def test_status_shows_runs_and_steps(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    run_id = submitted(invoke, running_home, run_file)
    listed = json.loads(invoke("status", "--home", running_home, "--json").stdout)
    assert [run["id"] for run in listed["runs"]] == [run_id]
    one = json.loads(invoke("status", "demo", "--home", running_home, "--json").stdout)
    assert one["state"] == "succeeded"
    assert one["spec"]["theta"] == 50
    assert one["steps"][0] == {
        "iteration": 0,
        "name": "intake",
        "state": "succeeded",
        "key": "0" * 64,
        "shard_count": 1,
        "shards_done": 1,
        "reused": True,
        "progress_done": 0,
        "progress_total": 0,
        "progress_unit": "",
        "waiting_reason": "",
    }
    assert one["result"]["run"] == run_id
    text = invoke("status", "demo", "--home", running_home).stdout
    assert "0/intake  reused" in text
    assert "waits" not in text


def test_an_unknown_run_names_the_nearest_known(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submitted(invoke, running_home, run_file)
    result = invoke("status", "dmeo", "--home", running_home)
    assert result.exit_code == 64
    assert "did you mean demo" in result.stderr


def test_watch_prints_one_event_a_line(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submitted(invoke, running_home, run_file)
    result = invoke("watch", "demo", "--home", running_home, "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        "run_started",
        "step_reused",
        "step_started",
        "step_progress",
        "step_succeeded",
        "model_registered",
        "run_succeeded",
    ]
    assert events[5]["model"]["accuracy"] == 0.75


def test_logs_name_their_job_and_an_unknown_step_the_nearest(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submitted(invoke, running_home, run_file)
    assert invoke("logs", "demo", "1/warm", "--home", running_home).stdout == "job-warm-1  training\njob-warm-1  trained\n"
    lines = invoke("logs", "demo", "--home", running_home, "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {"job": "job-warm-1", "line": "training"}
    result = invoke("logs", "demo", "1/wram", "--home", running_home)
    assert result.exit_code == 64
    assert "did you mean 1/warm?" in result.stderr


def test_cancel_asks_first_and_yes_answers(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    served.servicer.script = unfinished
    submitted(invoke, running_home, run_file)
    result = invoke("cancel", "demo", "--home", running_home)
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert json.loads(invoke("cancel", "demo", "--yes", "--home", running_home, "--json").stdout)["state"] == "cancelled"


def test_retry_continues_a_failed_run_and_no_other(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    served.servicer.script = failed
    submitted(invoke, running_home, run_file)
    assert "running" in invoke("retry", "demo", "--home", running_home).stdout
    assert invoke("retry", "demo", "--home", running_home).exit_code == 73


def test_retry_can_begin_at_a_step(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    served.servicer.script = failed
    submitted(invoke, running_home, run_file)
    assert invoke("retry", "demo", "--from", "1/judge", "--home", running_home).exit_code == 0
    assert served.servicer.retried == ["1/judge"]


def test_data_add_uploads_the_files_and_says_which_iteration_takes_them(
    invoke: Invoke, running_home: Path, run_file: Path, served: Served
) -> None:
    submitted(invoke, running_home, run_file)
    more = run_file.parent / "unlabeled.csv"
    result = invoke("data", "add", "demo", more, "--home", running_home)
    assert "in iteration 2: 24 rows, 18 of them new\n" in result.stdout
    assert "semievol retry demo-" in result.stderr
    (uri,) = served.servicer.added
    assert served.servicer.uploads[uri] == more.read_bytes()
    assert invoke("data", "add", "demo", more.parent / "none.csv", "--home", running_home).exit_code == 64


def test_deleting_asks_and_needs_yes_without_a_terminal(
    invoke: Invoke, running_home: Path, run_file: Path, served: Served
) -> None:
    run = submitted(invoke, running_home, run_file)
    assert run in invoke("runs", "list", "--home", running_home).stdout
    for command in (("runs", "delete", "demo"), ("gc",)):
        refused = invoke(*command, "--home", running_home)
        assert refused.exit_code == 2
        assert "--yes" in refused.stderr
    assert invoke("runs", "delete", "demo", "--yes", "--home", running_home).stdout == (
        f"Forgot run {run} and its models demo-warm-def456\n"
    )
    assert invoke("runs", "delete", "demo", "--yes", "--home", running_home).exit_code == 64
    assert invoke("gc", "--dry-run", "--home", running_home).stdout == "Would delete 3 objects, 3.0 KiB\n"
    served.servicer.collections, served.servicer.garbage_notes = ["labeled_ab"], ["Something is missing."]
    shown = invoke("gc", "--dry-run", "--home", running_home)
    assert shown.stdout == "Would delete 3 objects, 3.0 KiB, 1 collection\n  collection labeled_ab\n"
    assert "Something is missing." in shown.stderr
    assert json.loads(invoke("gc", "--yes", "--home", running_home, "--json").stdout) == {
        "objects": 3,
        "bytes": 3072,
        "collections": ["labeled_ab"],
        "notes": ["Something is missing."],
        "deleted": True,
    }


def test_plan_starts_nothing(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    result = invoke("plan", "-f", run_file, "--home", running_home, "--json")
    assert json.loads(result.stdout)["steps"][0]["reused"] is True
    assert served.servicer.submitted == []


def test_an_address_wins_over_the_home(invoke: Invoke, home: Path, served: Served) -> None:
    assert invoke("status", "--home", home, "--address", served.address, "--json").stdout == '{"runs": []}\n'
    result = invoke("status", "--home", home, env={"SEMIEVOL_CONTROLLER": served.address})
    assert result.stdout == "No runs yet.\n"


# ---------------------------------------------------------------- models


def test_models_are_listed_promoted_and_rolled_back(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submitted(invoke, running_home, run_file)
    promoted = invoke("models", "promote", "demo-evolved-abc123", "best", "--home", running_home, "--json")
    alias = {"name": "best", "model": "demo-evolved-abc123", "previous_models": [], "canary_model": "", "canary_weight": 0}
    assert json.loads(promoted.stdout) == alias
    listed = json.loads(invoke("models", "list", "--home", running_home, "--json").stdout)
    assert listed["models"][0]["name"] == "demo-evolved-abc123"
    assert listed["aliases"][0]["name"] == "best"
    assert "75.0 %" in invoke("models", "list", "--home", running_home).stdout
    assert invoke("models", "rollback", "best", "--home", running_home).exit_code == 73
    unknown = invoke("models", "rollback", "bset", "--home", running_home)
    assert unknown.exit_code == 64
    assert "did you mean best?" in unknown.stderr


def test_an_unknown_model_names_the_nearest_known(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submitted(invoke, running_home, run_file)
    result = invoke("models", "promote", "demo-evolved-abc", "best", "--home", running_home)
    assert result.exit_code == 64
    assert "did you mean demo-evolved-abc123?" in result.stderr


# ---------------------------------------------------------------- data


def test_data_check_reports_counts_columns_and_examples(invoke: Invoke, run_file: Path) -> None:
    result = invoke("data", "check", "-f", run_file, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert [(entry["role"], entry["rows"]) for entry in report["files"]] == [("labeled", 4), ("unlabeled", 1), ("test", 4)]
    assert len(report["examples"]) == 3
    assert report["examples"][0]["response"] == "Answer: here"
    assert "Where is number 0?" in report["examples"][0]["prompt"]


def test_data_check_guesses_what_a_file_is_for(invoke: Invoke, run_file: Path) -> None:
    folder = run_file.parent
    result = invoke("data", "check", folder / "labeled.csv", folder / "unlabeled.csv", "--json")
    report = json.loads(result.stdout)
    assert [entry["role"] for entry in report["files"]] == ["labeled", "unlabeled"]
    assert report["task"]["type"] == "choice"


def test_data_check_lists_bad_rows_and_ends_with_64(invoke: Invoke, run_file: Path) -> None:
    with (run_file.parent / "labeled.csv").open("a") as file:
        file.write('"Where?","[""here"", ""there""]",nowhere\n')
    result = invoke("data", "check", "-f", run_file)
    assert result.exit_code == 64
    assert "labeled.csv:6: " in result.stdout


def test_data_check_shows_a_file_without_a_good_row(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("id,answer\n1,A\n")
    result = invoke("data", "check", path)
    assert result.exit_code == 64
    assert "bad.csv:1: there is no column 'question'" in result.stdout


def test_data_check_warns_of_test_rows_that_are_trained_on(invoke: Invoke, run_file: Path) -> None:
    folder = run_file.parent
    (folder / "test.csv").write_bytes((folder / "labeled.csv").read_bytes())
    result = invoke("data", "check", "-f", run_file)
    assert "Warning: 4 rows occur in labeled and in test" in result.stdout


# ---------------------------------------------------------------- init, completion


def test_init_does_not_overwrite_without_force(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    assert invoke("init", tmp_path).exit_code == 0
    path.write_text("mine")
    assert invoke("init", path).exit_code == 73
    assert path.read_text() == "mine"
    assert invoke("init", path, "--force").exit_code == 0
    assert path.read_text() != "mine"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_shells_script(invoke: Invoke, shell: str) -> None:
    assert "_SEMIEVOL_COMPLETE" in invoke("completion", shell).stdout


# ---------------------------------------------------------------- errors


def test_wrong_usage_is_2_and_names_the_nearest_command(invoke: Invoke) -> None:
    result = invoke("statsu")
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.stderr


def test_an_error_has_at_most_six_lines() -> None:
    rows = tuple(errors.BadRow("a.csv", line, "bad") for line in range(1, 100))
    every = [cls("\n".join("abcdefghij")) for cls in (*errors.BY_CODE.values(), errors.StorageError)]
    for error in [*every, errors.InvalidInput("many\n" * 9, field="data.labeled", rows=rows)]:
        assert len(failures.lines(error)) <= failures.MAX_LINES


def test_every_error_has_a_documented_exit_code() -> None:
    for cls in errors.BY_CODE.values():
        assert cls.exit_code in failures.EXIT_CODES


def test_an_unexpected_error_is_our_bug_and_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError) as raised:
        {}["x"]
    assert failures.report(raised.value) == 70
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "KeyError" in shown
    assert "SEMIEVOL_DEBUG=1" in shown


def test_a_disk_error_is_74(capsys: pytest.CaptureFixture[str]) -> None:
    assert failures.report(OSError(28, "No space left on device", "/x")) == 74
    assert "/x: No space left on device" in capsys.readouterr().err


def test_state_is_read_without_running_services(invoke: Invoke, home: Path) -> None:
    """The embedded controller alone, over an empty home."""
    assert invoke("status", "--home", home).stdout == "No runs yet.\n"
    assert json.loads(invoke("models", "list", "--home", home, "--json").stdout) == {"models": [], "aliases": []}
    unknown = invoke("watch", "nix", "--home", home)
    assert unknown.exit_code == 64
    assert "there are none yet" in unknown.stderr


def test_status_says_what_a_step_waits_for(invoke: Invoke, running_home: Path, run_file: Path, served: Served) -> None:
    run_id = submitted(invoke, running_home, run_file)
    served.servicer.runs[run_id].run.steps[1].waiting_reason = "Unschedulable: 1 Insufficient nvidia.com/gpu."
    text = invoke("status", "demo", "--home", running_home).stdout
    assert "1/warm waits: Unschedulable: 1 Insufficient nvidia.com/gpu." in text


def test_no_run_is_called_like_the_base(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("name: demo", "name: base"))
    result = invoke("run", "-f", run_file, "--home", running_home)
    assert result.exit_code == 64
    assert "no run can be called so" in result.stderr
