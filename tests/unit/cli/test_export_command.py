"""`semievol export` against the fake controller."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from semievol.common.runspec import RunSpec
from semievol.controller.fake import ScriptedRun, succeeded

from tests.unit.cli.conftest import Served

Invoke = Callable[..., Result]


@pytest.fixture
def run() -> ScriptedRun:
    data = {"labeled": "a", "unlabeled": "b"}
    return succeeded(RunSpec.model_validate({"name": "demo", "model": "m", "embedding": "e", "data": data}))


def test_rows_are_written_as_trainers_read_them(
    invoke: Invoke, serve: Callable[..., Served], run: ScriptedRun, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    result = invoke("export", "demo", "-o", out, "--address", serve([run]).address, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"run": run.run.id, "file": str(out), "rows": 2}
    pseudo, labeled = map(json.loads, out.read_text().splitlines())
    assert pseudo["prompt"] == [{"role": "user", "content": "Question: Who sang?"}]
    assert pseudo["completion"] == [{"role": "assistant", "content": "Answer: Ada"}]
    assert (pseudo["source"], pseudo["entropy"], pseudo["agreement"]) == ("pseudo", 0.25, 0.5)
    assert pseudo["collaborators"][1] == {"collaborator": "base-1", "text": "", "answer": "", "no_answer": "empty"}
    assert (labeled["source"], labeled["entropy"]) == ("labeled", None)


def test_a_wrong_export_says_what_to_do(invoke: Invoke, serve: Callable[..., Served], run: ScriptedRun, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    out.write_text("mine")

    def export(*arguments: object) -> tuple[int, str]:
        result = invoke("export", *arguments, "--address", served.address)
        return result.exit_code, result.stderr

    served = serve([run])
    assert export("demo", "-o", out)[0] == 73
    assert out.read_text() == "mine"
    assert export("demo", "-o", out, "--yes")[0] == 0
    assert "use .jsonl, .parquet" in export("demo", "-o", tmp_path / "rows.csv")[1]
    code, message = export("dmo", "-o", tmp_path / "b.jsonl")
    assert (code, "did you mean demo" in message) == (64, True)
    assert export("demo", "-o", tmp_path / "b.jsonl", "--iteration", 2)[0] == 64
    run.rows.clear()
    code, message = export("demo", "-o", tmp_path / "b.jsonl")
    assert (code, "has not selected" in message) == (73, True)
    assert not (tmp_path / "b.jsonl").exists()
