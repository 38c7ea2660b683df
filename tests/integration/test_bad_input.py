"""Every mistake that users make and every fault of a machine, through the real command line (tests/faults; docs/faults.md has the table)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults import outcome
from tests.faults.all import CASES
from tests.faults.bench import Case, Place, served


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One home for all cases: none of them may leave anything behind that disturbs the next."""
    with served(tmp_path_factory.mktemp("faults") / "place") as made:
        yield made


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_a_fault_ends_as_promised(case: Case, place: Place) -> None:
    """The right exit code, a message of at most six lines that says what to do, nothing half-written, and the next good run works."""
    ended, wrong = outcome(case, place)
    assert wrong == [], ended and ended.stderr
