"""One run file on two engines: how many rows get the same answers, the same verdict, the same fate?

    python -m benchmarks.engines_agree HOME HOME [--run NAME] [--json]

Compares two homes in which the same run has ended, one with `engine: transformers` and one with `engine: vllm` (or twice the same). Warm
models are trained in each by themselves; `same_warm` says whether their bytes are equal, so that what differs comes from answering.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from semievol.common.artifacts import Artifacts, Look
from semievol.common.stores import open_store
from semievol.controller.models import models_of
from semievol.controller.plan import StepPlan, files_of
from semievol.controller.runs import RunStore


class Ended:
    """What a run has published in its first iteration."""

    def __init__(self, home: Path, name: str) -> None:
        store = open_store((home / "artifacts").absolute().as_uri())
        self._artifacts = Artifacts(store)
        record = RunStore(store).find(name)
        self._steps = record.plan(Look(self._artifacts, verify=False))
        self.engine = record.resolved.engine
        self.models = {model.role: model.sha256 for model in models_of(self._artifacts, record, self._steps)}

    def answers(self) -> dict[tuple[str, str, int], str]:
        """(row, configuration, which of its candidates) -> text."""
        found: dict[tuple[str, str, int], str] = {}
        for step in self._named("infer/"):
            counts: dict[str, int] = {}
            for line in self._lines(step, "candidates.jsonl"):
                number = counts[line["id"]] = counts.get(line["id"], -1) + 1
                found[line["id"], step.name, number] = line["text"]
        return found

    def verdicts(self) -> dict[str, Any]:
        return {line["id"]: line.get("answer") for step in self._named("judge") for line in self._lines(step, "verdicts.jsonl")}

    def entropies(self) -> dict[str, float]:
        lines = (line for step in self._named("score") for line in self._lines(step, "entropies.jsonl"))
        return {line["id"]: line["entropy"] for line in lines if isinstance(line.get("entropy"), float)}

    def kept(self) -> set[str]:
        lines = (line for step in self._named("select") for line in self._lines(step, "fates.jsonl"))
        return {line["id"] for line in lines if line["reason"] == "selected"}

    def _named(self, prefix: str) -> list[StepPlan]:
        return [
            step
            for step in self._steps
            if step.iteration == 1 and (step.name == prefix or step.name.startswith(f"{prefix.rstrip('/')}/"))
        ]

    def _lines(self, step: StepPlan, path: str) -> Iterator[dict[str, Any]]:
        for one in files_of(step, path):
            yield from self._artifacts.read_json_lines(one.file)


def share(one: dict[Any, Any], other: dict[Any, Any]) -> str:
    both = one.keys() & other.keys()
    return f"{sum(one[key] == other[key] for key in both)} of {len(both)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("homes", type=Path, nargs=2)
    parser.add_argument("--run", default="townhall")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    one, other = (Ended(home, asked.run) for home in asked.homes)
    entropies = [(one.entropies()[row], other.entropies()[row]) for row in one.entropies().keys() & other.entropies().keys()]
    kept, others = one.kept(), other.kept()
    out = {
        "engines": [one.engine, other.engine],
        "same_warm": one.models.get("warm") == other.models.get("warm"),
        "same_answers": share(one.answers(), other.answers()),
        "same_verdicts": share(one.verdicts(), other.verdicts()),
        "entropy_difference": round(sorted(abs(a - b) for a, b in entropies)[len(entropies) // 2], 6) if entropies else None,
        "kept": [len(kept), len(others)],
        "kept_by_both": len(kept & others),
    }
    print(json.dumps(out) if asked.json else "\n".join(f"{name}: {value}" for name, value in out.items()))


if __name__ == "__main__":
    main()
