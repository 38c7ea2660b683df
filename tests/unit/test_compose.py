"""deploy/compose.yaml: by the schema of Compose, with names that the code knows, and as closed as the docs say. (No Docker is needed.)"""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
OTHERS = {"s3", "milvus", "volumes"}  # not our code


@cache
def _services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return services


def _ours() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in _services().items() if name not in OTHERS}


@cache
def _known_variables() -> set[str]:
    """Every settings field's variable, and what the code reads by name."""
    names: set[str] = set()
    package = ROOT / "services" / "semievol"
    for path in (*package.rglob("settings.py"), package / "common" / "security.py"):
        module = importlib.import_module(".".join(path.relative_to(ROOT / "services").with_suffix("").parts))
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, BaseSettings) and one is not BaseSettings:
                names |= {(one.model_config["env_prefix"] + field).upper() for field in one.model_fields}
    for path in (ROOT / "services").rglob("*.py"):
        names |= set(re.findall(r'"((?:SEMIEVOL|AWS)_[A-Z0-9_]+)"', path.read_text()))
    return names


def test_it_keeps_to_the_schema_of_compose() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_is_one_that_the_code_reads() -> None:
    used = {name for service in _ours().values() for name in service["environment"]}
    assert {name for name in used if name.startswith("SEMIEVOL_")}
    assert used - _known_variables() - {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} == set()


@pytest.mark.parametrize("name", sorted(_ours()))
def test_a_service_starts_a_module_that_exists_and_listens_where_it_is_asked(name: str) -> None:
    service = _ours()[name]
    (module,) = service["command"]
    assert importlib.util.find_spec(module)
    (address,) = [value for key, value in service["environment"].items() if re.fullmatch(r"SEMIEVOL_[A-Z]+_ADDRESS", key)]
    host, _, port = address.rpartition(":")
    assert host == "0.0.0.0"
    assert f"127.0.0.1:{port}" in " ".join(service["healthcheck"]["test"])
    assert all(one == f"127.0.0.1:{port}:{port}" for one in service.get("ports", []))


def test_services_find_one_another() -> None:
    listening = {
        f"{name}:{value.rpartition(':')[2]}"
        for name, service in _ours().items()
        for key, value in service["environment"].items()
        if re.fullmatch(r"SEMIEVOL_[A-Z]+_ADDRESS", key)
    }
    asked = {
        value
        for service in _ours().values()
        for value in map(str, service["environment"].values())
        if re.fullmatch(r"[a-z]+:\d+", value)
    }
    assert asked
    assert asked <= listening


@pytest.mark.parametrize("name", sorted(_services()))
def test_a_container_may_do_no_more_than_it_must(name: str) -> None:
    service = _services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name == "volumes":  # has to be root, for a moment, without a network to speak of
        assert service["cap_add"] == ["CHOWN"]
        assert service["restart"] == "no"
    else:
        assert service["user"] == "65532:65532"
        assert "cap_add" not in service


def test_every_door_with_a_port_asks_for_a_secret_and_the_door_has_the_routers() -> None:
    asks = {
        name: {key for key in service["environment"] if key in ("SEMIEVOL_AUTH_TOKENS", "SEMIEVOL_DOOR_API_KEYS")}
        for name, service in _ours().items()
        if "ports" in service
    }
    assert asks == {
        "controller": {"SEMIEVOL_AUTH_TOKENS"},
        "router": {"SEMIEVOL_AUTH_TOKENS"},
        "door": {"SEMIEVOL_DOOR_API_KEYS"},
    }
    assert _services()["door"]["environment"]["SEMIEVOL_TOKEN"] == _services()["router"]["environment"]["SEMIEVOL_AUTH_TOKENS"]


def test_every_name_that_the_user_may_set_is_in_the_example_and_no_secret_has_a_default() -> None:
    named = set(re.findall(r"\$\{(\w+)", FILE.read_text()))
    example = (ROOT / "deploy" / "compose.env.example").read_text()
    assert named == set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", example, re.MULTILINE))
    secrets = {name for name in named if re.search(r"KEY|SECRET|TOKEN", name)}
    assert secrets
    assert [name for name in secrets if f"${{{name}:?" not in FILE.read_text()] == []


def test_its_images_are_targets_of_the_dockerfile() -> None:
    stages = set(re.findall(r"^FROM .* AS ([\w-]+)$", (ROOT / "deploy/docker/Dockerfile").read_text(), re.MULTILINE))
    targets = {
        service["build"]["target"].rpartition(":-")[2].rstrip("}") for service in _services().values() if "build" in service
    }
    assert targets == {"core", "embedding", "training"}
    assert targets | {"engine"} <= stages
