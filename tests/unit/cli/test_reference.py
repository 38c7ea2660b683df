"""What is generated has not drifted: docs/cli.md, the keys in docs/run-file.md, and the run file of `semievol init`."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from semievol.cli.reference import reference
from semievol.cli.runkeys import EXAMPLES, KEYS, markdown_table, template
from semievol.common import errors
from semievol.common.runspec import RunSpec, load_run_file, parse_run_spec

DOCS = Path(__file__).parents[3] / "docs"


def test_the_command_reference_is_current() -> None:
    assert (DOCS / "cli.md").read_text() == reference(), "python -m semievol.cli.reference > docs/cli.md"


def test_the_run_file_page_has_the_current_keys() -> None:
    assert markdown_table() in (DOCS / "run-file.md").read_text(), "python -m semievol.cli.runkeys"


def test_every_key_of_the_run_file_is_described_once() -> None:
    assert sorted(key.path for key in KEYS) == sorted(_paths(RunSpec))


def _paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            found += _paths(nested, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


def test_the_file_that_init_writes_says_just_the_defaults() -> None:
    written = parse_run_spec(load_run_file(template(), source="run.yaml"))
    data = {name.partition(".")[2]: value for name, value in EXAMPLES.items() if name.startswith("data.")}
    least = {name: value for name, value in EXAMPLES.items() if "." not in name} | {"data": data}
    assert written == parse_run_spec(least)


def test_the_file_that_init_writes_has_every_key_and_a_comment_above_it() -> None:
    values = yaml.safe_load(template())
    for key in KEYS:
        section, _, name = key.path.rpartition(".")
        assert name in (values[section] if section else values)
    lines = template().splitlines()
    for before, line in itertools.pairwise(lines):
        if ":" in line and not line.strip().startswith("#") and not line.endswith(":"):
            assert before.strip().startswith("#"), line


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ({"options": ["one"]}, "2 to 26 options"),
        ({"options": ["one", " one"]}, "none twice"),
        ({"options": ["one", ""]}, "none empty"),
        ({"options": ["one", "two"], "type": "number"}, "type choice"),
    ],
)
def test_options_of_the_task_are_checked_before_a_run(task: dict[str, object], fault: str) -> None:
    least = {"name": "a", "model": "m", "embedding": "e", "data": {"labeled": "a", "unlabeled": "b"}, "task": task}
    with pytest.raises(errors.InvalidInput, match=fault) as caught:
        parse_run_spec(least)
    assert (caught.value.field or "").startswith("task")
