"""--store and --milvus: which backends a command uses, and what it says about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]


def test_running_services_that_keep_things_elsewhere_are_a_conflict(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    for command, option, value in (
        (("run", "-f", run_file), "--store", "s3://bucket/team"),
        (("run", "-f", run_file), "--milvus", "http://127.0.0.1:19530"),
        (("submit", "-f", run_file), "--store", "s3://bucket/team"),
        (("status",), "--store", "s3://bucket/team"),
    ):
        result = invoke(*command, "--home", running_home, option, value)
        assert result.exit_code == 73, result.output
        assert f"use the {option[2:]} embedded, not {value}" in result.stderr


def test_running_services_with_the_same_backends_are_used(invoke: Invoke, running_home: Path) -> None:
    record = json.loads((running_home / "services.json").read_text())
    (running_home / "services.json").write_text(json.dumps(record | {"store": "s3://bucket/team"}))
    assert invoke("status", "--home", running_home, "--store", "s3://bucket/team").exit_code == 0
    assert invoke("status", "--home", running_home).exit_code == 0


def test_a_command_that_only_looks_uses_another_store_says_so_and_does_not_remember_it(
    invoke: Invoke, home: Path, tmp_path: Path
) -> None:
    (home / "artifacts").mkdir()
    result = invoke("status", "--home", home, "--store", tmp_path / "other")
    assert result.exit_code == 0, result.output
    assert f"The artifact store is {(tmp_path / 'other').as_uri()}; so far {home} used embedded." in result.stderr
    assert (tmp_path / "other").is_dir()
    assert "artifact store" not in invoke("status", "--home", home).stderr


def test_the_environment_names_a_store_too(invoke: Invoke, home: Path, tmp_path: Path) -> None:
    assert invoke("status", "--home", home, env={"SEMIEVOL_STORE": str(tmp_path / "other")}).exit_code == 0
    assert (tmp_path / "other").is_dir()
    assert not (home / "artifacts").exists()


@pytest.mark.parametrize(("option", "value"), [("--store", "s3://key:hidden@bucket"), ("--store", "ftp://host/directory")])
def test_a_store_that_is_none_is_bad_input(invoke: Invoke, home: Path, option: str, value: str) -> None:
    result = invoke("status", "--home", home, option, value)
    assert result.exit_code == 64
    assert "hidden" not in result.output


def test_an_s3_store_without_credentials_is_not_allowed_and_says_what_to_set(
    invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = invoke("status", "--home", home, "--store", "s3://bucket?endpoint=http://127.0.0.1:9")
    assert result.exit_code == 77
    assert "AWS_ACCESS_KEY_ID" in result.stderr


def test_an_endpoint_that_trains_has_to_be_named(invoke: Invoke, home: Path) -> None:
    result = invoke("serve", "--home", home, "--trainer", "openai")
    assert result.exit_code == 2
    assert "--trainer openai needs --engine URL" in result.stderr
