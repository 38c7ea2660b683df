"""Whether an iteration's model replaces the best so far: by their answers to rows that neither has seen, which are never the test rows."""

from __future__ import annotations

from semievol.algorithm.statistics import paired_gain
from semievol.common.keys import canonical_json
from semievol.steps.context import StepContext


def run(step: StepContext) -> dict[str, bytes]:
    """`passed.json` is there only where the gate is passed: the planner reads manifests, not files."""
    before = [line["correct"] for line in step.lines("before")]
    after = [line["correct"] for line in step.lines("after")]
    value, low, high = paired_gain(before, after, step.params["seed"])
    passed = value >= step.params["min_gain"]
    verdict = {
        "n": len(after),
        "before": sum(before) / len(before),
        "after": sum(after) / len(after),
        "gain": {"value": value, "low": low, "high": high},
        "min_gain": step.params["min_gain"],
        "passed": passed,
    }
    return {"gate.json": canonical_json(verdict)} | ({"passed.json": canonical_json({})} if passed else {})
