"""The repository itself: what is committed is text of a bearable size that names no machine, and the parts agree with one another."""

from __future__ import annotations

import functools
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import semievol
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
MAX_FILE_BYTES = 1 << 20

# Escaped and grouped, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w./$}-])/(?:work|root)/")
REGISTRY_HOST = re.compile(
    r"\b(?:(?:test\.)?pypi\.org|files\.pythonhosted\.|proxy\.golang\.|registry\.npmjs\.|static\.crates\.|repo1?\.maven\.)"
)
MERGE_MARKER = re.compile(r"^(?:<{7}|>{7}|\|{7})(?: |$)", re.MULTILINE)


@functools.cache
def _committed() -> tuple[Path, ...]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path in _committed()
        for text in [path.read_text(encoding="utf-8")]
        for match in pattern.finditer(text)
    ]


def _pyproject() -> dict[str, dict]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _pinned() -> dict[str, Version]:
    """Name to version, over the lock and the CPU build of torch."""
    text = (ROOT / "requirements/lock.txt").read_text() + (ROOT / "requirements/torch-cpu.txt").read_text()
    return {name: Version(version) for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE)}


def _requirements() -> dict[str, list[Requirement]]:
    """Extra ("" = always) to what it asks for, the project's own extras left out."""
    project = _pyproject()["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [r for r in map(Requirement, lines) if r.name != "semievol"] for extra, lines in groups.items()}


def test_every_committed_file_is_text() -> None:
    binary = [str(path.relative_to(ROOT)) for path in _committed() if b"\0" in path.read_bytes()]
    assert binary == []
    for path in _committed():
        path.read_text(encoding="utf-8")


def test_no_committed_file_is_larger_than_a_mebibyte() -> None:
    assert [str(path.relative_to(ROOT)) for path in _committed() if path.stat().st_size > MAX_FILE_BYTES] == []


@pytest.mark.parametrize(
    "pattern", [MACHINE_PATH, REGISTRY_HOST, MERGE_MARKER], ids=["machine paths", "registry hosts", "merge markers"]
)
def test_no_committed_file_names_a_machine_or_holds_half_a_merge(pattern: re.Pattern[str]) -> None:
    assert _lines_with(pattern) == []


def test_the_locked_requirements_name_no_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert "://" not in path.read_text(), path.name


def test_every_proto_has_its_generated_files_and_nothing_else_is_generated() -> None:
    protos = [path.relative_to(ROOT / "proto").with_suffix("") for path in (ROOT / "proto").rglob("*.proto")]
    assert protos
    suffixes = ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"]
    expected = {f"{proto}{suffix}" for proto in protos for suffix in suffixes}
    services = ROOT / "services"
    found = {str(path.relative_to(services)) for path in services.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
    assert found == expected


def test_a_protos_package_is_its_directory() -> None:
    for path in (ROOT / "proto").rglob("*.proto"):
        package = ".".join(path.parent.relative_to(ROOT / "proto").parts)
        assert f"\npackage {package};\n" in path.read_text(), path.name


def test_the_package_says_the_version_that_the_project_has() -> None:
    assert semievol.__version__ == _pyproject()["project"]["version"]


def test_every_make_target_is_in_the_docs() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"setup", "demo", "test", "lint", "proto", "bench", "help"} <= set(targets)
    docs = (ROOT / "README.md").read_text() + (ROOT / "docs/development.md").read_text()
    assert [target for target in targets if not re.search(rf"\bmake {target}\b", docs)] == []


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    pinned = _pinned()
    wanted = [requirement for requirements in _requirements().values() for requirement in requirements]
    unmet = [str(r) for r in wanted if r.name.lower() not in pinned or not r.specifier.contains(pinned[r.name.lower()])]
    assert unmet == [], "run make lock"


def test_both_builds_of_torch_are_one_version() -> None:
    (cpu,) = re.findall(r"^torch==([\d.]+)\+cpu$", (ROOT / "requirements/torch-cpu.txt").read_text(), re.MULTILINE)
    (default,) = re.findall(r"^torch===(\S+)", (ROOT / "requirements/torch-pypi.txt").read_text(), re.MULTILINE)
    assert cpu == default


def test_the_benchmarks_trainer_is_a_development_dependency_only() -> None:
    assert [extra for extra, requirements in _requirements().items() if "trl" in {r.name for r in requirements}] == ["dev"]
