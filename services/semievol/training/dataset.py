"""The training set as it lies in the store: JSON lines `{"row_id", "prompt": [{"role", "content"}], "completion", "source"}`."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from semievol.algorithm.types import Message, TrainingExample
from semievol.common import errors

_MAX_BAD_ROWS = 20  # enough to see what is wrong


def parse(data: bytes, uri: str) -> list[TrainingExample]:
    """The examples, in file order. Raises InvalidInput, naming `file:line: reason` for every line that cannot be trained on."""
    examples, bad = [], []
    name = PurePosixPath(uri).name
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            examples.append(_example(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            bad.append(errors.BadRow(name, number, reason))
    if bad:
        raise errors.InvalidInput(
            f"{len(bad)} of {len(bad) + len(examples)} lines of {name} cannot be trained on; the first: {bad[0]}.",
            field="spec.dataset_uri",
            rows=tuple(bad[:_MAX_BAD_ROWS]),
        )
    if not examples:
        raise errors.InvalidInput(f"{name} has no examples; there is nothing to train on.", field="spec.dataset_uri")
    return examples


def _example(record: dict[str, Any]) -> TrainingExample:
    prompt = tuple(Message(str(message["role"]), str(message["content"])) for message in record["prompt"])
    completion = record["completion"]
    if not prompt:
        raise ValueError("the prompt has no messages")
    if not isinstance(completion, str) or not completion.strip():
        raise ValueError("the completion is empty")  # R6: no answer is never a training target
    return TrainingExample(str(record["row_id"]), prompt, completion, str(record.get("source", "labeled")))
