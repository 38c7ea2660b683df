"""What a run's result looks like to people."""

from __future__ import annotations

from typing import Any

from semievol.cli.result import result_text

RESULT: dict[str, Any] = {"run": "demo-1", "iterations": [], "stopped": None, "engines": None}


def test_engines_are_shown_where_they_were_started() -> None:
    assert "Engines" not in result_text(RESULT)
    assert "Engines: 1 start, 3 changes of weights" in result_text(RESULT | {"engines": {"starts": 1, "swaps": 3}})
    assert "Engines: 3 starts, 1 change of weights" in result_text(RESULT | {"engines": {"starts": 3, "swaps": 1}})
