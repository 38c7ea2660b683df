"""What `semievol export` writes: a record per training row, in the forms that trainers read, with provenance beside them.

`prompt` and `completion` are TRL's conversational prompt/completion form, `messages` is both in one list, which LLaMA-Factory reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from semievol.client.controller import ControllerClient

if TYPE_CHECKING:
    from semievol.controller.v1 import controller_service_pb2 as pb


def records(client: ControllerClient, run: str, iteration: int) -> Iterator[dict[str, Any]]:
    """Row by row, as the controller sends them."""
    for run_id, row in client.export(run, iteration):
        yield _record(run_id, row)


def _record(run: str, row: pb.TrainingRow) -> dict[str, Any]:
    prompt = [{"role": message.role, "content": message.content} for message in row.prompt]
    completion = [{"role": "assistant", "content": row.completion}]
    return {
        "id": row.id,
        "source": row.source,
        "prompt": prompt,
        "completion": completion,
        "messages": prompt + completion,
        "question": row.question,
        "options": list(row.options),
        "answer": row.answer,
        "category": row.category,
        "entropy": row.entropy if row.HasField("entropy") else None,
        "agreement": row.agreement if row.HasField("agreement") else None,
        "decision": row.decision,
        "collaborators": [
            {"collaborator": one.collaborator, "text": one.text, "answer": one.answer, "no_answer": one.no_answer}
            for one in row.candidates
        ],
        "run": run,
        "iteration": row.iteration,
        "model": row.model,
    }


def schema() -> Any:
    """The same as Parquet's columns. Raises NotSupported."""
    from semievol.common import errors

    try:
        import pyarrow as pa
    except ImportError as error:
        raise errors.NotSupported("Parquet files are written by pyarrow: pip install 'semievol[data]'.") from error
    text = pa.string()
    messages = pa.list_(pa.struct([("role", text), ("content", text)]))
    answers = pa.list_(pa.struct([(name, text) for name in ("collaborator", "text", "answer", "no_answer")]))
    kinds = {
        "prompt": messages,
        "completion": messages,
        "messages": messages,
        "options": pa.list_(text),
        "entropy": pa.float64(),
        "agreement": pa.float64(),
        "collaborators": answers,
        "iteration": pa.int32(),
    }
    return pa.schema([(name, kinds.get(name, text)) for name in COLUMNS])


COLUMNS = (
    "id",
    "source",
    "prompt",
    "completion",
    "messages",
    "question",
    "options",
    "answer",
    "category",
    "entropy",
    "agreement",
    "decision",
    "collaborators",
    "run",
    "iteration",
    "model",
)
