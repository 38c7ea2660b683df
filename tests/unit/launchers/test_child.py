"""The command line of a job's process."""

from __future__ import annotations

import pytest
from semievol.launchers.child import parse


def test_a_job_of_one_gets_its_arguments_as_they_are() -> None:
    assert parse(["a.b:run", "x", "{shard}"], {}) == ("a.b:run", ["x", "{shard}"])


def test_one_of_a_group_does_the_shard_of_its_index() -> None:
    arguments = ["--shards", "3,5,7", "a.b:run", "key", "{shard}", "{shard}s"]
    assert parse(arguments, {"JOB_COMPLETION_INDEX": "1"}) == ("a.b:run", ["key", "5", "{shard}s"])


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        ([], {}),
        (["--shards", "3"], {"JOB_COMPLETION_INDEX": "0"}),
        (["--shards", "3", "a:b"], {}),
        (["--shards", "x", "a:b"], {}),
    ],
)
def test_what_is_no_command_line_is_refused(arguments: list[str], environment: dict[str, str]) -> None:
    with pytest.raises((IndexError, KeyError, ValueError)):
        parse(arguments, environment)
