"""Canaries on the command line, through a fake controller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Invoke = Callable[..., Result]


def test_a_canary_is_promoted_with_its_weight_listed_and_taken_back(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    assert invoke("submit", "-f", run_file, "--home", running_home).exit_code == 0
    run_file.write_text(run_file.read_text().replace("name: demo", "name: other"))
    assert invoke("submit", "-f", run_file, "--home", running_home).exit_code == 0
    home = ("--home", running_home)
    first = invoke("models", "promote", "other-evolved-abc123", "--alias", "best", "--weight", "10", *home)
    assert first.exit_code == 73
    assert invoke("models", "promote", "demo-evolved-abc123", "--alias", "best", *home).stdout == "best -> demo-evolved-abc123\n"
    canary = invoke("models", "promote", "other-evolved-abc123", "--alias", "best", "--weight", "10", *home)
    assert canary.stdout == "best -> demo-evolved-abc123 (90 %), other-evolved-abc123 (10 %)\n"
    listed = invoke("models", "list", *home).stdout
    assert "best (90 %)" in listed
    assert "best (canary, 10 %)" in listed
    assert invoke("models", "rollback", "best", *home).stdout == "best -> demo-evolved-abc123\n"
    for wrong in (("best", "--alias", "best"), (), ("best", "--weight", "0"), ("best", "--weight", "101")):
        assert invoke("models", "promote", "other-evolved-abc123", *wrong, *home).exit_code == 2


def test_a_models_own_name_is_that_model_whatever_aliases_say(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    """As the router has it: what is promoted by a model's name is not what an alias of that name points at."""
    assert invoke("submit", "-f", run_file, "--home", running_home).exit_code == 0
    run_file.write_text(run_file.read_text().replace("name: demo", "name: other"))
    assert invoke("submit", "-f", run_file, "--home", running_home).exit_code == 0
    home = ("--home", running_home)
    assert invoke("models", "promote", "other-evolved-abc123", "--alias", "demo-evolved-abc123", *home).exit_code == 0
    assert invoke("models", "promote", "demo-evolved-abc123", "best", *home).stdout == "best -> demo-evolved-abc123\n"
