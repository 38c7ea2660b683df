"""Rows, candidates and verdicts as JSON lines: how they look inside artifacts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from semievol.algorithm.types import Answer, Candidate, Decision, Message, NoAnswer, Row, TrainingExample, Verdict
from semievol.common.keys import canonical_json

Record = dict[str, Any]


def to_lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Canonical JSON lines (R5)."""
    return b"".join(canonical_json(dict(record)) for record in records)


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """`to_lines` into a file, one record in memory at a time; the path itself."""
    with path.open("wb") as file:
        for record in records:
            file.write(canonical_json(dict(record)))
    return path


def row_to_record(row: Row) -> Record:
    """Empty fields are left out."""
    record = {
        "id": row.id,
        "question": row.question,
        "options": list(row.options),
        "answer": row.answer,
        "category": row.category,
        "source": row.source,
        "response": row.response,
        "metadata": dict(row.metadata),
    }
    return {key: value for key, value in record.items() if value}


class PartsWriter:
    """Rows that come in id order, as files `<name>/00000.jsonl` and so on of `part_rows` each: the shards of the steps that read them.

    They lie in `directory`, since there may be more than should be in memory.
    """

    def __init__(self, directory: Path, name: str, part_rows: int) -> None:
        self._directory = directory / name
        self._directory.mkdir()
        self._name = name
        self._part_rows = part_rows
        self._waiting: list[Row] = []
        self.paths: dict[str, bytes | Path] = {}

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._waiting.append(row)
            if len(self._waiting) == self._part_rows:
                self.close()

    def close(self) -> None:
        """Writes what is left: the last part."""
        if self._waiting:
            path = self._directory / f"{len(self.paths):05d}.jsonl"
            self.paths[f"{self._name}/{path.name}"] = write_lines(path, map(row_to_record, self._waiting))
            self._waiting.clear()


def row_parts(directory: Path, name: str, rows: Iterable[Row], part_rows: int) -> dict[str, bytes | Path]:
    """All rows as such files, whatever order they come in; their paths by name."""
    parts = PartsWriter(directory, name, part_rows)
    parts.write(sorted(rows, key=lambda row: row.id))
    parts.close()
    return parts.paths


def entropy_from_record(record: Record) -> float | None:
    """H as the score step wrote it: None for a row without an answer, NaN for one without a finite H."""
    return math.nan if record.get("no_entropy") else record["entropy"]


def row_from_record(record: Record) -> Row:
    return Row(**{**record, "options": tuple(record.get("options", ()))})


def answer_to_record(answer: Answer | NoAnswer) -> Record:
    return {"answer": answer.value} if isinstance(answer, Answer) else {"no_answer": answer.value}


def answer_from_record(record: Record) -> Answer | NoAnswer:
    return Answer(record["answer"]) if "answer" in record else NoAnswer(record["no_answer"])


def candidate_to_record(row_id: str, candidate: Candidate) -> Record:
    return {
        "id": row_id,
        "collaborator": candidate.collaborator,
        "text": candidate.text,
        "token_logprobs": list(candidate.token_logprobs),
        **answer_to_record(candidate.answer),
    }


def candidate_from_record(record: Record) -> Candidate:
    return Candidate(record["collaborator"], record["text"], answer_from_record(record), tuple(record["token_logprobs"]))


def verdict_to_record(verdict: Verdict) -> Record:
    return {
        "id": verdict.row_id,
        "decision": verdict.decision.value,
        "answer": verdict.answer.value if verdict.answer else None,
        "response": verdict.response,
        "agreement": verdict.agreement,
        "transcript": messages_to_record(verdict.transcript),
    }


def verdict_from_record(record: Record) -> Verdict:
    answer = Answer(record["answer"]) if record["answer"] is not None else None
    transcript = tuple(Message(**message) for message in record["transcript"])
    return Verdict(record["id"], Decision(record["decision"]), answer, record["response"], record["agreement"], transcript)


def example_to_record(example: TrainingExample) -> Record:
    """The conversational prompt/completion form that trainers read, with provenance columns."""
    return {
        "row_id": example.row_id,
        "prompt": messages_to_record(example.prompt),
        "completion": example.completion,
        "source": example.source,
    }


def messages_to_record(messages: Iterable[Message]) -> list[Record]:
    return [{"role": message.role, "content": message.content} for message in messages]
