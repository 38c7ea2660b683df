"""`semievol doctor`: the machine's own checks, findings of services, and the exit code that sums them up."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import Result
from filelock import FileLock
from semievol.cli import checks
from semievol.cli.checks import worst
from semievol.common.findings import FAIL, OK, WARN, Finding
from semievol.controller.v1 import controller_service_pb2 as pb

from tests.unit.cli.conftest import Served

Invoke = Callable[..., Result]


def statuses(result: Result) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(result.stdout)["checks"]}


def test_the_machine_alone_is_checked_without_starting_anything(invoke: Invoke, home: Path) -> None:
    result = invoke("doctor", "--home", home, "--local", "--json")
    found = statuses(result)
    named = {
        "python",
        "versions",
        "packages of embedding",
        "packages of training",
        "home",
        "temp",
        "memory",
        "open files",
        "cpu",
        "gpu",
    }
    assert named <= set(found)
    assert result.exit_code == worst([Finding(**check) for check in json.loads(result.stdout)["checks"]])
    assert list(home.iterdir()) == []  # what was tried is gone


def test_services_at_an_address_are_asked_for_their_findings(invoke: Invoke, home: Path, served: Served) -> None:
    result = invoke("doctor", "--home", home, "--address", served.address)
    assert result.exit_code == 0, result.stderr
    assert "ok       store: works (0.1 s)" in result.stdout
    assert "memory" not in result.stdout  # of this machine, which runs nothing
    assert "0 failed" in result.stderr


def test_the_running_services_of_a_home_are_used(invoke: Invoke, running_home: Path) -> None:
    found = statuses(invoke("doctor", "--home", running_home, "--json"))
    assert found["services"] == found["store"] == OK


def test_running_services_with_another_model_are_a_warning(invoke: Invoke, running_home: Path, run_file: Path) -> None:
    run_file.write_text(run_file.read_text().replace("bundled:smollm2-135m", "bundled:other"))
    result = invoke("doctor", "-f", run_file, "--home", running_home)
    assert "warning  services: running in process" in result.stdout
    assert "not bundled:other" in result.stdout


def test_a_failed_part_is_one_line_that_says_what_to_do_and_the_exit_code_is_its(
    invoke: Invoke, running_home: Path, served: Served
) -> None:
    served.servicer.findings = [
        pb.Finding(
            name="retrieval",
            status=pb.FINDING_STATUS_FAILED,
            message="Milvus does not answer.",
            advice="Start it.",
            exit_code=69,
        ),
        pb.Finding(name="store", status=pb.FINDING_STATUS_FAILED, message="It is full.", exit_code=74),
    ]
    result = invoke("doctor", "--home", running_home)
    assert result.exit_code == 74
    assert "failed   retrieval: Milvus does not answer.; Start it." in result.stdout
    assert "2 failed" in result.stderr


def test_services_of_another_version_are_a_warning(invoke: Invoke, home: Path, served: Served) -> None:
    served.servicer.version = "0.0.1"
    result = invoke("doctor", "--home", home, "--address", served.address)
    assert result.exit_code == 0
    assert "warning  suite: the services are semievol 0.0.1" in result.stdout


def test_a_home_that_another_process_holds_is_a_finding(invoke: Invoke, home: Path) -> None:
    with FileLock(home / "lock"):
        result = invoke("doctor", "--home", home, "--json")
    assert result.exit_code == 75
    assert statuses(result)["services"] == FAIL
    assert "embedding" not in statuses(result)


def test_an_address_where_nothing_answers_is_a_finding(invoke: Invoke, home: Path) -> None:
    result = invoke("doctor", "--home", home, "--address", "127.0.0.1:1", "--json")
    assert result.exit_code == 69
    assert statuses(result)["controller"] == FAIL


def test_a_home_that_cannot_be_written_is_found_and_no_service_is_started_on_it(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke("doctor", "--home", tmp_path / "file" / "home", "--json")
    assert result.exit_code == 74
    found = statuses(result)
    assert (found["home"], found["services"]) == (FAIL, WARN)


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.ENOSPC, 74, "is full"),
        (errno.EIO, 74, "cannot be written"),
        (errno.EACCES, 77, "permissions"),
        (errno.EROFS, 77, "cannot be written"),
    ],
)
def test_each_way_in_which_a_disk_refuses_has_its_code(number: int, code: int, words: str) -> None:
    check = checks._unwritable("home", Path("home"), OSError(number, os.strerror(number)), "name another")
    assert check.exit_code == code
    assert words in f"{check.message}; {check.advice}"


def test_little_room_is_a_warning(tmp_path: Path) -> None:
    assert checks.directory("home", tmp_path / "new", 1 << 62, "name another").status == WARN
    assert checks.directory("home", tmp_path / "new", 1, "name another").status == OK


def test_a_missing_package_names_the_extra_that_brings_it() -> None:
    check = checks._room("retrieval", ("pymilvus", "milvus_lite"), lambda module: None if module == "milvus_lite" else object())
    assert check.status == FAIL
    assert "milvus_lite" in check.message
    assert "semievol[retrieval]" in check.advice


def test_a_package_of_another_version_is_named_with_the_one_that_is_needed() -> None:
    assert checks.versions().status == OK
    check = checks.versions(lambda name: "1.0" if name == "transformers" else version(name))
    assert check.status == FAIL
    assert "transformers 1.0 is installed, ==5.19.* is needed" in check.message


def test_the_worst_failure_decides_and_a_warning_is_none() -> None:
    def failing(*codes: int) -> list[Finding]:
        return [Finding("", FAIL, "", exit_code=code) for code in codes]

    assert worst([Finding("", OK, ""), Finding("", WARN, "")]) == 0
    assert worst(failing(69, 77, 74)) == 77
    assert worst(failing(69, 74)) == 74
    assert worst(failing(64, 69)) == 69
    assert worst(failing(64)) == 64
