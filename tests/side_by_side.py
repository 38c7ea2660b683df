"""How `pytest -n` deals the tests out: a file to one worker, so that its fixtures are made once, and some files together to one.

What is together is here in the order in which it begins, before all other files: the longest first, so that the workers end at about
one time."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Name -> how the ids of its tests begin.
TOGETHER = {
    # An engine of vLLM takes both cores and some GiB.
    "vllm": ("tests/e2e/test_real_evolution.py", "tests/integration/test_vllm_", "tests/contract/test_generation.py"),
    # A machine runs one Milvus server.
    "milvus": (
        "tests/integration/test_milvus_server.py",
        "tests/contract/test_vector_index.py",
        "tests/integration/test_bad_input.py::test_a_fault_ends_as_promised[Servers elsewhere",
    ),
    # These share a MinIO and a SeaweedFS, and mostly wait.
    "s3": (
        "tests/integration/test_runs_in_s3.py",
        "tests/integration/test_faults_of_s3.py",
        "tests/contract/test_object_store.py",
        "tests/integration/test_cluster_check.py",
    ),
    "faults": ("tests/integration/test_bad_input.py",),
}


_RANKS = {name: rank for rank, name in enumerate(TOGETHER)}


class _Scheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return _share(nodeid)


def _share(nodeid: str) -> str:
    """What of the tests goes to one worker as a whole: a name of TOGETHER, else the file."""
    found = (name for name, starts in TOGETHER.items() if nodeid.startswith(starts))
    return next(found, nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # by the number of tests, that would be
    return _Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist: alone, pytest keeps its order
        items.sort(key=lambda item: _RANKS.get(_share(item.nodeid), len(_RANKS)))
