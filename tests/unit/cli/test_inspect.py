"""Looking before and after a run: `plan`, `select --what-if`, `explain`, against a fake controller behind a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]


def submit(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    assert invoke("submit", "-f", run_file, "--home", running_home).exit_code == 0


def test_plan_shows_rows_steps_sums_and_prompts(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    shown = invoke("plan", "-f", run_file, "--home", running_home).stdout
    for expected in (
        "unlike demo-0, theta changed 50 -> 40",
        "labeled  48    0         1           labeled.csv",
        "reused: made by demo-0",
        "In all 1 min 30 s: 12 updates; 12 k tokens read, 480 written",
        "estimates:",
        "--- judge: row row-1, 61 tokens",
        "[user] Question: Which?",
    ):
        assert expected in shown


def test_select_shows_what_other_thetas_would_keep(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submit(invoke, running_home, run_file)
    shown = invoke("select", "demo", "--theta", 40, "--theta", 50, "--what-if", "--home", running_home).stdout
    assert "40            80    0.4              50.0 %" in shown
    assert "50 (the run)  100" in shown
    body = json.loads(invoke("select", "demo", "--what-if", "--home", running_home, "--json").stdout)
    assert [one["theta"] for one in body["previews"]] == [10, 20, 30, 40, 50, 60, 70, 80, 90]


def test_select_without_what_if_says_how_to_select(invoke: Invoke, running_home: Path) -> None:
    result = invoke("select", "demo", "--theta", 40, "--home", running_home)
    assert result.exit_code == 2
    assert "change theta in the run file" in result.stderr


def test_explain_shows_a_row_from_references_to_fate(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    submit(invoke, running_home, run_file)
    shown = invoke("explain", "demo", "row-1", "--home", running_home).stdout
    for expected in (
        "Reference labeled-1: Which one?",
        "none (empty)",
        "[assistant, judging] Answer: A",
        "Agreement: 50 %",
        "Entropy: 0.1; threshold: 0.2",
        "Fate: kept",
    ):
        assert expected in shown
    assert json.loads(invoke("explain", "demo", "row-1", "--home", running_home, "--json").stdout)["fate"] == "kept"
    unknown = invoke("explain", "demo", "row-2", "--home", running_home)
    assert unknown.exit_code == 64
    assert "no unlabeled row 'row-2'" in unknown.stderr
