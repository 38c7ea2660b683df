"""A few rows through the services: how many tokens a prompt has, how fast they are, and what models would be shown.

Token counts are exact for the rows tried. For all rows they are scaled by the length of the rows' records.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from semievol.algorithm import semievol
from semievol.algorithm.answers import parse
from semievol.algorithm.prompts import judge_prompt, plain_prompt, response_text
from semievol.algorithm.types import Answer, Candidate, Collaborator, Message, Row, Task, Weights
from semievol.common import errors
from semievol.common.keys import derive_seed
from semievol.common.runspec import RunSpec
from semievol.controller.preview import RowPreview, SampledRow
from semievol.ports import (
    BASE_MODEL,
    Cancel,
    CollectionSpec,
    Embedder,
    FinishReason,
    Generation,
    Generator,
    Prompt,
    Sampling,
    Scorer,
    ScoreRequest,
    VectorIndex,
    VectorRecord,
)

T = TypeVar("T")

TRIED_ROWS = 8
_PROMPT_ROWS = 4  # of them, for each configuration of collaborators
_REPLIES = 4  # sampled replies for each of these rows
_LIBRARY_ROWS = 256  # labeled rows among which references are looked for


class Models(Generator, Scorer, Protocol):
    """What the generation service does."""


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """A prompt as a model would be shown it. `note`: what is not as it will be."""

    name: str
    row_id: str
    messages: tuple[Message, ...]
    prompt_tokens: int
    references: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Measured:
    """Means over the rows tried: tokens by configuration (`warm-2`) and of `judge`; tokens a second; seconds a text or search."""

    prompt_tokens: dict[str, float] = field(default_factory=dict)
    tokens_per_byte: float = 0.25
    sample_bytes: float = 0.0
    base_reply_tokens: float = 1.0
    response_tokens: float = 1.0
    prompt_speed: float = 0.0
    reply_speed: float = 0.0
    score_speed: float = 0.0
    embedding_s: float = 0.0
    search_s: float = 0.0
    rows: int = 0
    library_rows: int = 0
    prompts: list[ShownPrompt] = field(default_factory=list)

    def tokens(self, configuration: str, mean_bytes: float) -> float:
        """Of a prompt over rows whose records have `mean_bytes`."""
        measured = self.prompt_tokens.get(configuration, self.prompt_tokens[PLAIN])
        return max(1.0, measured + self.tokens_per_byte * (mean_bytes - self.sample_bytes))


PLAIN = "base-0"  # without references a prompt is the same whoever is asked


class Trial:
    """Runs once."""

    def __init__(
        self, spec: RunSpec, rows: RowPreview, models: Models, embedder: Embedder, index: VectorIndex, cancel: Cancel
    ) -> None:
        self._spec, self._rows, self._cancel = spec, rows, cancel
        self._task = spec.task.task()
        self._models, self._embedder, self._index = models, embedder, index
        self._tried: list[SampledRow] = rows.sample("unlabeled", TRIED_ROWS)
        self._library: list[Row] = []
        self._references: dict[str, list[Row]] = {}
        self._found = Measured(rows=len(self._tried))

    def run(self) -> Measured:
        """Raises what the services raise: InvalidInput (a prompt longer than the model takes), Unavailable, Cancelled."""
        self._found.sample_bytes = sum(one.size for one in self._tried) / max(1, len(self._tried))
        self._retrieve()
        self._ask_collaborators()
        candidates = self._answer()
        self._score()
        self._ask_judge(candidates)
        return self._found

    def _retrieve(self) -> None:
        """Real references: the nearest of the labeled rows, or of as many of them as a trial can embed, in a collection of its own."""
        k = self._spec.references
        self._library = [one.row for one in self._rows.sample("labeled", _LIBRARY_ROWS if k else TRIED_ROWS)]
        rows = [one.row for one in self._tried]
        self._found.library_rows = len(self._library)
        vectors, seconds = _timed(lambda: semievol.embed_tasks(self._embedder, [*self._library, *rows], cancel=self._cancel))
        self._found.embedding_s = seconds / max(1, len(self._library) + len(rows))
        if not k:
            return
        name = f"plan_{uuid.uuid4().hex}"
        labeled = vectors[: len(self._library)]
        self._index.create(CollectionSpec(name, vectors.shape[1]))
        try:
            self._index.upsert(
                name, [VectorRecord(row.id, vector.tolist()) for row, vector in zip(self._library, labeled, strict=True)]
            )
            nearest, seconds = _timed(lambda: semievol.nearest_labeled(self._index, name, rows, vectors[len(self._library) :], k))
        finally:
            self._index.drop(name)
        self._found.search_s = seconds / max(1, len(rows))
        known = {row.id: row for row in self._library}
        self._references = {row_id: [known[one] for one in ids] for row_id, ids in nearest.items()}

    def _ask_collaborators(self) -> None:
        configurations = {one.configuration: one for one in self._spec.collaborator_list()}
        if self._spec.train.references:
            one = Collaborator(Weights.WARM, self._spec.train.references)
            configurations.setdefault(one.configuration, one)
        shown = list(dict.fromkeys(one.configuration for one in self._spec.collaborator_list()))
        plain = Collaborator(Weights.BASE, 0)
        tokens, characters = 0, 0
        self._warm_up(self._prompt(plain, self._tried[0].row))
        for name, one in ({PLAIN: plain} | configurations).items():
            rows = [tried.row for tried in self._tried[:_PROMPT_ROWS]]
            prompts = [self._prompt(one, row) for row in rows]
            answers, seconds = _timed(lambda prompts=prompts: self._generate(prompts, Sampling(max_tokens=1)))  # type: ignore[misc]
            read = sum(answer.prompt_tokens for answer in answers)
            tokens += read
            characters += sum(len(message.content.encode()) for prompt in prompts for message in prompt.messages)
            self._found.prompt_speed = max(self._found.prompt_speed, read / seconds)  # whatever else slows one call down
            self._found.prompt_tokens[name] = read / max(1, len(rows))
            if name in shown and rows:
                self._found.prompts.append(self._shown(name, one, prompts[0], answers[0].prompt_tokens))
        self._found.tokens_per_byte = tokens / max(1, characters)
        self._found.prompts.sort(key=lambda prompt: shown.index(prompt.name))

    def _warm_up(self, prompt: Prompt) -> None:
        """The first call of a model pays for what the others find ready."""
        self._generate([prompt], Sampling(max_tokens=2))

    def _prompt(self, one: Collaborator, row: Row) -> Prompt:
        return Prompt(row.id, semievol.collaborator_prompt([one], row, self._references.get(row.id, ()), self._task, 0).messages)

    def _shown(self, name: str, one: Collaborator, prompt: Prompt, tokens: int) -> ShownPrompt:
        references = tuple(row.id for row in self._references.get(prompt.id, ())[: one.references])
        labeled = self._rows.count("labeled")
        partly = references and self._found.library_rows < labeled
        note = f"References: the nearest of {self._found.library_rows} of the {labeled} labeled rows." if partly else ""
        return ShownPrompt(name, prompt.id, prompt.messages, tokens, references, note)

    def _answer(self) -> dict[str, list[Candidate]]:
        """Replies of the base model, sampled as a run samples: their length, the speed, candidates for the judge."""
        rows = [one.row for one in self._tried[:_PROMPT_ROWS]]
        samples = min(_REPLIES, len(self._spec.collaborator_list()))
        prompts = [
            Prompt(row.id, plain_prompt(row, self._task), tuple(derive_seed(0, row.id, "plan", n) for n in range(samples)))
            for row in rows
        ]
        sampling = Sampling(n=samples, temperature=self._spec.temperature, max_tokens=self._spec.max_tokens)
        answers, seconds = _timed(lambda: self._generate(prompts, sampling))
        replies = [completion for answer in answers for completion in answer.completions]
        written = sum(len(reply.tokens) for reply in replies)
        self._found.base_reply_tokens = written / max(1, len(replies))
        read_s = sum(answer.prompt_tokens for answer in answers) / max(1.0, self._found.prompt_speed)
        self._found.reply_speed = max(1, written) / max(seconds - read_s, seconds / 2)
        return {
            row.id: [_candidate(row, self._task, reply.text, reply.finish_reason) for reply in answer.completions]
            for row, answer in zip(rows, answers, strict=True)
        }

    def _score(self) -> None:
        """The labeled rows' responses, which trained models learn to write."""
        rows = self._library[:TRIED_ROWS]
        asked = [ScoreRequest(row.id, plain_prompt(row, self._task), response_text(row, self._task)) for row in rows]
        try:
            scores, seconds = _timed(lambda: self._models.score(BASE_MODEL, asked, cancel=self._cancel))
        except errors.NotSupported:  # an endpoint that cannot score: by length
            length = sum(len(one.response.encode()) for one in asked) / max(1, len(asked))
            self._responses_have(length * self._found.tokens_per_byte)
            self._found.score_speed = self._found.prompt_speed
            return
        written = sum(len(score.tokens) for score in scores)
        self._responses_have(written / max(1, len(rows)))
        read = len(rows) * self._found.prompt_tokens[PLAIN] + written
        self._found.score_speed = max(read / seconds, self._found.prompt_speed)  # scoring is reading
        self._found.prompt_speed = self._found.score_speed

    def _responses_have(self, tokens: float) -> None:
        self._found.response_tokens = min(max(1.0, tokens), float(self._spec.max_tokens))

    def _ask_judge(self, candidates: Mapping[str, Sequence[Candidate]]) -> None:
        """The row with the most valid answers; where the base model gives none, labeled answers stand in."""
        if not self._tried:
            return
        valid = {row_id: [one for one in of_row if isinstance(one.answer, Answer)] for row_id, of_row in candidates.items()}
        row = max((one.row for one in self._tried[:_PROMPT_ROWS]), key=lambda row: len(valid[row.id]))
        judged, note = valid[row.id], "Candidates: answers of the base model; in the run they are the collaborators'."
        if len(judged) < 2:
            nearest = self._references.get(row.id, [])
            texts = dict.fromkeys(
                response_text(one, self._task) for one in [*nearest, *self._library]
            )  # distinct: else nobody judges
            judged = [_candidate(row, self._task, text, FinishReason.STOP) for text in list(texts)[:2]]
            note = "Candidates: answers of labeled rows, since the base model gave no two valid ones; in the run they are the collaborators'."
        messages = judge_prompt(row, judged, self._task)
        (answer,) = self._generate([Prompt(row.id, messages)], Sampling(max_tokens=1))
        self._found.prompt_tokens["judge"] = answer.prompt_tokens
        self._found.prompts.append(ShownPrompt("judge", row.id, messages, answer.prompt_tokens, (), note))

    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Generation]:
        return self._models.generate(BASE_MODEL, prompts, sampling, cancel=self._cancel)


def _candidate(row: Row, task: Task, text: str, finish: FinishReason) -> Candidate:
    return Candidate("base", text, parse(text, row, task, truncated=finish is FinishReason.LENGTH))


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result and the seconds, never 0."""
    started = time.monotonic()
    result = call()
    return result, max(1e-6, time.monotonic() - started)
