"""Why an engine does not start, in words that name the setting to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from semievol.common import errors
from semievol.generation.backends.vllm_process import start_fault

LOG = Path("vllm.log")


@pytest.mark.parametrize(
    ("line", "kind", "named"),
    [
        (
            "RuntimeError: Insufficient space in /dev/shm for shared-memory allocation: 160 MiB required, 64 MiB free.",
            errors.Unavailable,
            "engine.shmSize",
        ),
        ("ValueError: No available memory for the cache blocks.", errors.Unavailable, "SEMIEVOL_VLLM_KV_CACHE_GIB"),
        ("ValueError: Unknown quantization method.", errors.InvalidInput, "Unknown quantization method"),
    ],
)
def test_the_cause_in_vllms_log_is_told_with_what_to_change(line: str, kind: type[errors.SemiEvolError], named: str) -> None:
    lines = f"INFO 11-23 pid=7 [core.py:1] starting\nERROR 11-23 pid=7 [core.py:2] {line}\n"
    fault = start_fault(RuntimeError("Engine core initialization failed. See root cause above."), lines, LOG)
    assert type(fault) is kind
    assert line.partition(": ")[2].rstrip(".") in str(fault)
    assert named in str(fault)
