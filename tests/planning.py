"""A make-believe world for whoever plans: running a step means publishing a manifest."""

from __future__ import annotations

from typing import Any

from semievol.common.artifacts import File, Manifest
from semievol.common.keys import sha256_hex
from semievol.common.runspec import RunSpec, parse_run_spec
from semievol.controller.plan import Done, Resolved, StepPlan, StepState, Work, plan

RESOLVED = Resolved("b" * 64, "transformers/float32", "e" * 64)
FILES = {
    "index": ["vectors.npy"],
    "examples": ["train.jsonl"],
    "train": ["adapter_config.json", "adapter_model.safetensors"],
    "infer": ["candidates.jsonl"],
    "judge": ["verdicts.jsonl"],
    "score": ["entropies.jsonl"],
    "evaluate": ["answers.jsonl"],
    "report": ["report.json"],
}


def spec(**changes: Any) -> RunSpec:
    base = {
        "name": "demo",
        "model": "m",
        "embedding": "e",
        "data": {"labeled": "data:1/a.csv", "unlabeled": "data:2/b.csv", "test": "data:3/c.csv"},
    }
    return parse_run_spec(base | changes)


class World:
    """Published manifests by (key, shard). A step's files hash over what the step's work hashes over, as real ones do."""

    def __init__(self, parts: int = 3, remaining: int = 2, include_labeled: bool = True) -> None:
        self.manifests: dict[tuple[str, int | None], Manifest] = {}
        self.parts = parts
        self.remaining = remaining
        self.include_labeled = include_labeled
        self.ran: list[str] = []

    def manifest_of(self, key: str, shard: int | None) -> Manifest | None:
        return self.manifests.get((key, shard))

    def publish(self, work: Work, shard: int | None) -> None:
        files = tuple(self._file(path, content) for path, content in self._contents(work, shard))
        self.manifests[work.key, shard] = Manifest(work.key, work.contract, {}, work.params, files, shard)

    def _contents(self, work: Work, shard: int | None) -> list[tuple[str, str]]:
        own = f"{work.key}-{shard}"
        if work.kind == "intake":
            names = ["labeled.jsonl", "test.jsonl", *(f"unlabeled/{part:05d}.jsonl" for part in range(self.parts))]
            return [(name, f"{name} of {work.params['data']}") for name in names]
        if work.kind == "retrieve":
            return [(f"references/{part:05d}.jsonl", f"{own} {part}") for part in range(len(work.inputs["rows"]))]
        if work.kind == "select":
            evolution = f"labeled {own}" if self.include_labeled else f"selected {own}"
            left = [(f"unlabeled/{part:05d}.jsonl", f"{own} {part}") for part in range(self.remaining)]
            named = [
                ("labeled.jsonl", f"labeled {own}"),
                ("evolution.jsonl", evolution),
                ("selection.json", own),
                ("fates.jsonl", own),
            ]
            return [*named, *left]
        return [(name, f"{name} {own}") for name in FILES[work.kind]]

    def _file(self, path: str, content: str) -> File:
        return File(path, len(content), sha256_hex(content.encode()))

    def run_to_end(self, run: RunSpec, done: Done | None = None) -> list[StepPlan]:
        """Runs every ready shard until nothing is left; notes each in `ran`."""
        while True:
            steps = plan(run, RESOLVED, self.manifest_of, done=done)
            ready = [step for step in steps if step.state is StepState.READY]
            if not ready:
                assert all(step.state is StepState.DONE for step in steps)
                return steps
            for step in ready:
                assert step.work is not None
                for shard in step.missing:
                    if self.manifest_of(step.work.key, shard):
                        continue  # one piece of work under two names
                    self.publish(step.work, shard)
                    self.ran.append(step.label if shard is None else f"{step.label}#{shard}")
