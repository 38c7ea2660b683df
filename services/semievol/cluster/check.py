"""Tries a release from inside: four rows are embedded, stored and found, answered and judged, and an object makes the round trip to the store.

`helm test` runs `python -m semievol.cluster.check` as a pod. Each part is tried whatever became of the others, and says so in one line.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np

from semievol.algorithm.types import Answer, AnswerForm, Candidate, Message, Row, Task, TaskType
from semievol.client.embedding import EmbeddingClient
from semievol.client.generation import GenerationClient
from semievol.client.judging import JudgingClient
from semievol.client.retrieval import RetrievalClient
from semievol.common import errors
from semievol.common.stores import open_store
from semievol.common.stores.probe import probe
from semievol.ports import CollectionSpec, FloatMatrix, JudgeRequest, Prompt, Sampling, VectorQuery, VectorRecord

_DEADLINE_S = 600.0  # of a call: small models on a busy CPU take a minute
_MODEL = "base"
TASK = Task(TaskType.CHOICE, AnswerForm.LETTER)
ROWS = tuple(
    Row(f"row-{number}", question, ("day", "night"))
    for number, question in enumerate(
        ("When does the sun shine?", "When do the stars shine?", "When do most people sleep?", "When do most people work?")
    )
)


def embed(address: str) -> FloatMatrix:
    """The rows' vectors, [4, d]."""
    with closing(EmbeddingClient(address, deadline_s=_DEADLINE_S)) as client:
        return client.embed([row.question for row in ROWS])


def retrieve(address: str, vectors: FloatMatrix) -> str:
    """A collection of the rows, in which each finds itself first; it is gone afterwards. Raises Corrupt."""
    name = f"check_{uuid.uuid4().hex[:12]}"
    with closing(RetrievalClient(address, deadline_s=_DEADLINE_S)) as client:
        try:
            client.create(CollectionSpec(name, vectors.shape[1]))
            client.upsert(name, [VectorRecord(row.id, vector) for row, vector in zip(ROWS, vectors, strict=True)])
            found = client.search(name, [VectorQuery(vector) for vector in vectors], 2)
        finally:
            client.drop(name)
        if [hits[0].id for hits in found] != [row.id for row in ROWS]:
            raise errors.Corrupt(f"The rows did not find themselves, but {[[hit.id for hit in hits] for hits in found]}.")
        return f"each of {len(ROWS)} rows finds itself first ({client.server()})"


def generate(address: str) -> str:
    """A reply to each row, with its tokens' log-probabilities. Raises Corrupt."""
    prompts = [Prompt(row.id, (Message("user", row.question),)) for row in ROWS]
    with closing(GenerationClient(address, deadline_s=_DEADLINE_S)) as client:
        replies = client.generate(_MODEL, prompts, Sampling(max_tokens=8))
        served = next(model for model in client.models() if model.name == _MODEL)
    tokens = [len(reply.completions[0].token_logprobs) for reply in replies]
    if [reply.id for reply in replies] != [row.id for row in ROWS] or not all(tokens):
        raise errors.Corrupt(f"Replies of {tokens} tokens came to {[reply.id for reply in replies]}.")
    return f"{sum(tokens)} tokens in {len(replies)} replies of {served.base} on {served.engine}"


def judge(address: str) -> str:
    """A verdict on each row, of two candidates that differ: the model is asked. Raises Corrupt."""
    requests = [JudgeRequest(row, tuple(_candidate(letter) for letter in "AB")) for row in ROWS]
    with closing(JudgingClient(address, deadline_s=_DEADLINE_S)) as client:
        verdicts = client.judge(_MODEL, TASK, requests, max_tokens=16)
    if [verdict.row_id for verdict in verdicts] != [row.id for row in ROWS]:
        raise errors.Corrupt(f"Verdicts came on {[verdict.row_id for verdict in verdicts]}.")
    valid = sum(verdict.answer is not None for verdict in verdicts)
    return f"{len(verdicts)} verdicts, {valid} with an answer"


def _candidate(letter: str) -> Candidate:
    return Candidate(letter, f"Answer: {letter}", Answer(letter), (-0.5,))


def store(uri: str) -> str:
    """An object's round trip, and whether a second writer is kept from replacing it (R3). Raises as the store, Corrupt."""
    there = open_store(uri)
    probe(there)
    path, data = f"probe/{uuid.uuid4().hex}/check", np.arange(4096, dtype=np.uint16).tobytes()
    try:
        there.put(path, data)
        with there.open(path) as stream:
            back = stream.read()
    finally:
        there.delete(path)
    if back != data:
        raise errors.Corrupt(f"{len(data)} bytes were written to {uri}, and others came back.")
    return f"{len(data)} bytes there and back, and one writer wins ({uri})"


class Checks:
    """Tries one part after the other and counts the failures. `say`: takes a line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.exit_code = 0

    @contextmanager
    def part(self, name: str) -> Iterator[Callable[[str], None]]:
        try:
            yield lambda said: self._say(f"ok      {name}: {said}")
        except errors.SemiEvolError as error:
            self.exit_code = error.exit_code
            self._say(f"FAILED  {name}: {error.message}")


def run(embedding: str, retrieval: str, judging: str, router: str, uri: str, say: Callable[[str], None] = print) -> int:
    """The exit code: 0, or that of the last failure."""
    checks = Checks(say)
    vectors: FloatMatrix | None = None
    with checks.part("embedding") as good:
        vectors = embed(embedding)
        good(f"{vectors.shape[0]} vectors of {vectors.shape[1]} numbers")
    with checks.part("retrieval") as good:
        good(retrieve(retrieval, vectors if vectors is not None else np.eye(len(ROWS), dtype=np.float32)))
    with checks.part("generation") as good:
        good(generate(router))
    with checks.part("judging") as good:
        good(judge(judging))
    with checks.part("store") as good:
        good(store(uri))
    return checks.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m semievol.cluster.check", description="Tries a release from inside.")
    for name in ("embedding", "retrieval", "judging", "router"):
        parser.add_argument(f"--{name}", metavar="HOST:PORT", required=True)
    parser.add_argument("--store", metavar="URI", required=True)
    asked = parser.parse_args(arguments)
    return run(asked.embedding, asked.retrieval, asked.judging, asked.router, asked.store)


if __name__ == "__main__":
    sys.exit(main())
