"""The dataset's lines."""

from __future__ import annotations

import json

import pytest
from semievol.algorithm.types import Message, TrainingExample
from semievol.common import errors
from semievol.training.dataset import parse

GOOD = {"row_id": "a", "prompt": [{"role": "user", "content": "q"}], "completion": "Answer: A", "source": "pseudo"}


def lines(*values: object) -> bytes:
    return b"".join((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n" for value in values)


def test_a_line_becomes_an_example() -> None:
    assert parse(lines(GOOD), "x/train.jsonl") == [TrainingExample("a", (Message("user", "q"),), "Answer: A", "pseudo")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "Expecting"),
        ({**GOOD, "completion": " "}, "the completion is empty"),
        ({**GOOD, "prompt": []}, "the prompt has no messages"),
        ({"row_id": "a", "prompt": GOOD["prompt"]}, "'completion' is missing"),
        ({**GOOD, "completion": 3}, "the completion is empty"),
        ([], "list indices"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(line: object, reason: str) -> None:
    with pytest.raises(errors.InvalidInput, match=r"1 of 2 lines of train\.jsonl") as caught:
        parse(lines(GOOD, line), "artifact:x/train.jsonl")
    assert caught.value.field == "spec.dataset_uri"
    (row,) = caught.value.rows
    assert (row.file, row.line) == ("train.jsonl", 2)
    assert reason in row.reason


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="nothing to train on"):
        parse(b"", "train.jsonl")
