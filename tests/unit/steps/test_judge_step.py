"""The step that judges: by the service, or by its core in the step's own process, with the same verdicts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from semievol.client.generation import GenerationClient
from semievol.client.services import Services
from semievol.common.artifacts import Artifacts, Manifest
from semievol.common.stores.local import LocalStore
from semievol.generation import server as generation
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.settings import GenerationSettings
from semievol.judging import server as judging
from semievol.judging.settings import JudgingSettings
from semievol.steps import judge, records
from semievol.steps.context import StepContext, StepInput

from tests.running import running

TASK = {"type": "choice", "answer": "letter", "instruction": "", "options": []}
ROWS = [{"id": f"r{n}", "question": f"Which is number {n}?", "options": ["a", "b", "c"]} for n in range(5)]


def candidate(row: str, name: str, letter: str) -> dict[str, object]:
    return {"id": row, "collaborator": name, "text": f"Answer: {letter}", "answer": letter, "token_logprobs": [-0.5]}


def step(directory: Path, addresses: dict[str, str]) -> StepContext:
    """One shard in which the candidates of every row disagree."""
    artifacts = Artifacts(LocalStore(directory))
    asked = [candidate(one["id"], name, letter) for one in ROWS for name, letter in (("base-0", "A"), ("warm-0", "B"))]
    files = {"rows.jsonl": records.to_lines(ROWS), "candidates.jsonl": records.to_lines(asked)}
    published, _ = artifacts.publish(Manifest("k" * 64, "intake/1", {}, {}, (), None), files)
    inputs = {role: [StepInput(published.key, published.file(f"{role}.jsonl"))] for role in ("rows", "candidates")}
    params = {"task": TASK, "judge": "disagreement", "max_tokens": 32}
    return StepContext(artifacts, Services(addresses), params, inputs, 0, threading.Event(), lambda event: None, directory)


@pytest.mark.parametrize("engine_of_the_run", [True, False])
def test_a_job_without_a_judging_service_judges_by_itself(tmp_path: Path, engine_of_the_run: bool) -> None:
    engine = generation.service(GenerationSettings(), FakeEngine(lambda model, messages, seed: "Answer: C"))
    with running(engine) as address:
        client = GenerationClient(address)
        with running(judging.service(JudgingSettings(), client)) as judges:
            addresses = {"generation": address} if engine_of_the_run else {"judging": judges, "generation": "nobody:1"}
            made = step(tmp_path, addresses)
            lines = judge.run(made)["verdicts.jsonl"].decode().splitlines()
            made.services.close()
        client.close()
    assert len(lines) == len(ROWS)
    assert all('"answer":"C"' in line and '"decision":"judged"' in line for line in lines)
