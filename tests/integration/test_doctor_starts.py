"""`doctor` where the services cannot all start: the one that is at fault is named, and what does not need it is tried."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from semievol.cli.main import cli

RUN = "name: demo\nmodel: {model}\nembedding: {embedding}\ndata: {{labeled: a.csv, unlabeled: a.csv}}\n"


def findings(home: Path, model: str, embedding: str) -> tuple[int, dict[str, dict[str, str]]]:
    (home.parent / "a.csv").write_text("question,answer\n")
    run_file = home.parent / "run.yaml"
    run_file.write_text(RUN.format(model=model, embedding=embedding))
    result = CliRunner().invoke(cli, ["doctor", "-f", str(run_file), "--home", str(home), "--json"])
    return result.exit_code, {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_models_that_are_not_there_are_named_and_the_store_is_tried_without_them(tmp_path: Path) -> None:
    code, found = findings(tmp_path / "home", "bundled:nothing", "bundled:nix")
    assert code == 64
    assert found["embedding"]["status"] == found["generation"]["status"] == "failed"
    assert "'nix'" in found["embedding"]["message"]
    assert "'nothing'" in found["generation"]["message"]
    assert found["judging"]["status"] == "warning"
    assert found["judging"]["advice"] == "mend embedding first"
    assert found["store"]["status"] == found["controller"]["status"] == "ok"


def test_a_package_that_is_missing_is_named_with_what_brings_it(tmp_path: Path) -> None:
    """Of a process that cannot import sentence_transformers, as if it had been installed without that extra."""
    code = "import sys; sys.modules['sentence_transformers'] = None; from semievol.cli.main import main; main()"
    (tmp_path / "run.yaml").write_text(RUN.format(model="bundled:nothing", embedding="bundled:minilm-l6"))
    (tmp_path / "a.csv").write_text("")
    command = [sys.executable, "-c", code, "doctor", "--home", str(tmp_path / "home"), "-f", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 69
    assert "failed   packages of embedding: no sentence_transformers; pip install 'semievol[embedding]'" in ended.stdout
    assert "failed   embedding: " in ended.stdout
    assert "Traceback" not in ended.stderr


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "artifacts").write_text("in the way")
    code, found = findings(tmp_path / "home", "bundled:smollm2-135m", "bundled:nix")
    assert code == 74
    assert found["store"]["status"] == "failed"


def test_an_s3_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    settings = {"SEMIEVOL_S3_ENDPOINT": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    arguments = ["doctor", "--home", str(tmp_path / "home"), "--store", "s3://bucket/prefix", "--json"]
    result = CliRunner().invoke(cli, arguments, env=settings)
    found = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert found["store"]["status"] == "failed"
    assert result.exit_code in (69, 74)
