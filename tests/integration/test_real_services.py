"""`doctor` and `plan` against the real embedding, retrieval, generation and training, with a random two-layer model: real code, little to compute."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from semievol.cli.main import cli
from semievol.embedded import Embedded, EmbeddedSettings

from tests.fake_suite import write_colours

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, word_model: Path) -> Iterator[Path]:
    """A home whose services are running."""
    directory = tmp_path_factory.mktemp("home")
    with Embedded(EmbeddedSettings(home=directory, model=str(word_model), lasting=True)):
        yield directory


def invoke(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_every_real_service_does_one_row_and_trains_one_update(home: Path) -> None:
    result = invoke("doctor", "--home", home, "--train", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    for name in ("services", "controller", "store", "embedding", "retrieval", "generation", "scoring", "judging", "training"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "384 dimensions" in checks["embedding"]["message"]
    assert "transformers/" in checks["generation"]["message"]
    assert "one update" in checks["training"]["message"]
    assert result.exit_code == 0 or checks["versions"]["status"] == "failed"


def test_a_plan_measures_real_tokens_and_shows_the_nearest_labeled_rows(home: Path, word_model: Path, tmp_path: Path) -> None:
    for role, answers in {"labeled": True, "unlabeled": False, "test": True}.items():
        write_colours(tmp_path, role, answers)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"name: colours\nmodel: {word_model}\nembedding: bundled:minilm-l6\n"
        "data: {labeled: labeled.csv, unlabeled: unlabeled.csv, test: test.csv}\n"
        "collaborators: [{model: base, references: 0}, {model: warm, references: 2}]\nmax_tokens: 8\n"
    )
    result = invoke("plan", "-f", run_file, "--home", home, "--json")
    assert result.exit_code == 0, result.stderr
    planned = json.loads(result.stdout)
    plain, shown, judge = planned["prompts"]
    assert 0 < plain["prompt_token_count"] < shown["prompt_token_count"]
    assert len(shown["reference_ids"]) == 2
    assert judge["prompt_token_count"] > plain["prompt_token_count"]
    steps = {step["name"]: step for step in planned["planned_steps"]}
    assert steps["infer/base-0"]["generation_count"] == 20
    assert steps["infer/base-0"]["output_token_count"] <= 20 * 8
    assert planned["total"]["seconds"] > 0
    assert not list((home / "artifacts").rglob("MANIFEST.json"))
