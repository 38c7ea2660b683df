"""The quantities of the method as plain values. Symbols are the paper's (arXiv 2410.14745, Sec. 3).

t_i, t_j    a task: Row.question with Row.options
y_i         the response of a labeled row: Row.answer
N(t_j)      the k labeled instances nearest to t_j: a tuple of Row
y_j^m       the answer of collaborator m to row j: Candidate
y~_j        the pseudo-response of row j: Verdict
H(y~_j)     its entropy, nats per token: float
tau, theta  the cut and its percentile: Selection
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MAX_OPTIONS = 26  # letters A..Z


class TaskType(StrEnum):
    """How answers of a task are compared."""

    CHOICE = "choice"  # one of the row's options
    NUMBER = "number"  # equal within 1e-2, relative (absolute below 1)
    TEXT = "text"  # equal after case, white space and outer punctuation are folded


class AnswerForm(StrEnum):
    """What the model is asked to write for a multiple-choice row."""

    LETTER = "letter"  # `Answer: B`
    TEXT = "text"  # `Answer: <the option's own words>`; small models learn this one far better


class NoAnswer(StrEnum):
    """Why a response carries no answer (R6). It never agrees with anything, never votes and is never trained on."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid answer in canonical form: an option's letter (`A`..`Z`), a number's shortest decimal, or folded text."""

    value: str


@dataclass(frozen=True, slots=True)
class Task:
    """What every row of a run asks for. `instruction` is put before each question; empty means the built-in wording.

    `options`: those of every row, for classification; they are shown once, with the instruction. Empty: each row brings its own.
    """

    type: TaskType = TaskType.CHOICE
    answer: AnswerForm = AnswerForm.LETTER
    instruction: str = ""
    options: tuple[str, ...] = ()

    def options_of(self, row: Row) -> tuple[str, ...]:
        """What a row's answer is one of."""
        return row.options or self.options


@dataclass(frozen=True, slots=True)
class Row:
    """One row of D_labeled, D_unlabeled or the test set.

    `answer` is canonical for choices (the option's letter) and as written in the file otherwise; None where a row has none.
    `response`, if set, is the exact text that the model is trained to write (free-text pseudo-labels keep theirs).
    `metadata` are columns that we do not know: kept and shown, never in a prompt (METHOD, trap 6).
    """

    id: str
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    category: str = ""
    source: str = "labeled"  # labeled | pseudo
    response: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `role` is system, user or assistant."""

    role: str
    content: str


class Weights(StrEnum):
    """Which weights a collaborator answers with."""

    BASE = "base"
    WARM = "warm"


@dataclass(frozen=True, slots=True, order=True)
class Collaborator:
    """One model configuration M_m of Eq. 4: weights plus the number of references in its prompt (0..k).

    `sample` counts repetitions of a configuration from 0; more than 0 only where more collaborators than configurations are asked for.
    """

    model: Weights
    references: int
    sample: int = 0

    @property
    def configuration(self) -> str:
        """`warm-2`: what seeds are derived from, together with `sample`."""
        return f"{self.model}-{self.references}"

    @property
    def name(self) -> str:
        """Unique within a run: `warm-2`, or `warm-2-s1` for its first repetition."""
        return f"{self.configuration}-s{self.sample}" if self.sample else self.configuration


@dataclass(frozen=True, slots=True)
class Candidate:
    """y_j^m: what one collaborator answered to one row.

    `token_logprobs` are log P of each sampled token under the model that wrote it (nats, before temperature), the end-of-turn
    token excluded. `answer` is the parsed answer or the reason why there is none.
    """

    collaborator: str
    text: str
    answer: Answer | NoAnswer
    token_logprobs: tuple[float, ...] = ()


class Decision(StrEnum):
    """How y~_j came about."""

    UNANIMOUS = "unanimous"  # all n candidates valid and equal
    JUDGED = "judged"  # M_warm's verdict, Eq. 5
    NONE = "none"  # no valid answer: the row is excluded and counted


@dataclass(frozen=True, slots=True)
class Verdict:
    """y~_j of Eq. 5 with how it was reached.

    `response` is the training target and what H measures; empty iff `answer` is None.
    """

    row_id: str
    decision: Decision
    answer: Answer | None
    response: str
    agreement: float  # share of the n candidates that are valid and equal to the answer, 0..1
    transcript: tuple[Message, ...] = ()  # the judge's prompt and reply; empty where nobody was asked


class Reason(StrEnum):
    """Why a row was kept or dropped."""

    KEPT = "kept"
    ABOVE_THRESHOLD = "above_threshold"
    NO_ANSWER = "no_answer"
    NO_ENTROPY = "no_entropy"


@dataclass(frozen=True, slots=True)
class Selection:
    """Eq. 7-8: `threshold` is tau in nats per token (None if no row has a finite H); `reasons` maps every row id to its fate."""

    threshold: float | None
    reasons: Mapping[str, Reason]

    @property
    def selected(self) -> tuple[str, ...]:
        """Ids of the kept rows, in row-id order."""
        return tuple(sorted(row_id for row_id, reason in self.reasons.items() if reason is Reason.KEPT))


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One example of FT(...): the loss is on `completion` only. `row_id` and `source` are provenance."""

    row_id: str
    prompt: tuple[Message, ...]
    completion: str
    source: str = "labeled"
