"""SemiEvol: the method, Eq. 1-9 of arXiv 2410.14745v2 in the paper's order and words.

One iteration (Algorithm 1):

    M_warm       = FT(M_base, D_labeled)                                   Eq. 1    in-weight propagation
    E_labeled    = {eps(t_i)}                                              Eq. 2    in-context propagation
    N(t_j)       = NN(E_labeled, eps(t_j), k)                              Eq. 3
    y_j^m        = M_m(t_j)                                                Eq. 4    collaborative learning
    y~_j         = M_warm(t_j, {y_j^m})                                    Eq. 5    self-justify
    H(y~_j)      = -(1/L_j) sum_k log P(r_k | t_j, r_<k)                   Eq. 6    entropy
    tau          = Percentile_theta({H(y~_j)})                             Eq. 7    adaptive selection
    D_selected   = {(t_j, y~_j) : H(y~_j) <= tau}                          Eq. 8
    M_evol       = FT(M_base, D_selected U D_labeled)                      Eq. 9

Where we depart from the paper, or decide what it leaves open (each is one line marked `D<number>` below or in a sibling module):

    D1  NN is exact by cosine, ties go by row id, a labeled row never retrieves itself.        (nearest_labeled)
    D2  Collaborators are drawn without repetition while options last.                         (collaborators.py)
    D3  Unanimous rows are not judged (Sec. 3.1); `judge: all` judges every row (Eq. 5 as written).   (needs_judging)
        The judge sees the valid candidates; without a valid verdict the row is excluded.      (self_justify, _judged_verdict)
    D4  The pseudo-response of choices and numbers is canonical; of free text it is the judge's response, or the
        agreeing candidate of lowest H, as it was sampled.                                     (_judged_verdict, agreed_response)
    D5  Judging and evaluation are greedy; evaluation uses no references.                      (self_justify, evaluate)
    D6  H is scored by M_warm on the plain task, teacher-forced, whoever wrote the response.   (entropy_requests)
        `entropy_source: generated` takes what was seen while sampling instead.                (generated_entropy)
    D7  tau is taken over the unlabeled rows (the formula); `threshold_reference: labeled` over labeled ones (the text of
        Sec. 3.4). Linear interpolation over rows with a finite H.                             (selection.py)
    D8  Eq. 9 as written: both sets; `include_labeled: false` gives Algorithm 1, line 11.      (evolution_rows)
    D9  Numbers are equal within 1e-2, relative, absolute below 1. No answer is a typed state. (numbers.py, answers.py)
    D10 L counts the response's own tokens; the end-of-turn token is not one of them.          (ports.Score)
    D11 The next iteration starts from labeled + selected and from the rows not selected.      (evolution_rows, steps.select)
    D12 A worked example leaves out options that the asked row repeats, where answers are the options' words.   (prompts.py)
    D13 A row that is both labeled and unlabeled counts once, with the answer that is known.   (evolution_rows)
    D14 The judge reads the candidates first and the question last, as all training prompts end.   (prompts.judge_prompt)
    D15 A model replaces the best so far only if it is as good on held-out rows.               (the steps dev-* and gate)

This module imports nothing of the outside: what it needs of models and indexes comes in through `semievol.ports`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from semievol.algorithm.answers import canonical_answer, equal, parse, target_text
from semievol.algorithm.prompts import judge_prompt, plain_prompt, reference_prompt, response_text
from semievol.algorithm.selection import entropy, select
from semievol.algorithm.types import (
    Answer,
    Candidate,
    Collaborator,
    Decision,
    Message,
    Row,
    Selection,
    Task,
    TaskType,
    TrainingExample,
    Verdict,
    Weights,
)
from semievol.common.keys import derive_seed
from semievol.ports import (
    NEVER,
    Cancel,
    Completion,
    Embedder,
    FinishReason,
    FloatMatrix,
    Generation,
    Generator,
    Prompt,
    Sampling,
    Scorer,
    ScoreRequest,
    VectorIndex,
    VectorQuery,
)

__all__ = ["CONTRACTS", "STEPS", "Step", "select"]  # Eq. 7-8 are part of this page, though they live next door

# ---------------------------------------------------------------- Eq. 1: M_warm = FT(M_base, D_labeled); Eq. 9 trains the same way


def training_examples(
    rows: Sequence[Row], task: Task, references: Mapping[str, Sequence[Row]] | None = None
) -> list[TrainingExample]:
    """The examples of FT(., D), in row-id order. `references` (row id -> N(t_i)) puts worked examples in the prompts, an option
    beside Eq. 1, which trains on plain tasks."""
    return [
        TrainingExample(
            row.id, reference_prompt(row, (references or {}).get(row.id, ()), task), response_text(row, task), row.source
        )
        for row in sorted(rows, key=lambda row: row.id)
    ]


# ---------------------------------------------------------------- Eq. 2: E_labeled = {eps(t_i)}


def embed_tasks(embedder: Embedder, rows: Sequence[Row], *, cancel: Cancel = NEVER) -> FloatMatrix:
    """[n] rows -> [n, d] unit vectors of their tasks: the question with its options' words, which carry half of a task's meaning."""
    return embedder.embed([embedding_text(row) for row in rows], cancel=cancel)


def embedding_text(row: Row) -> str:
    return "\n".join([row.question, *row.options])


# ---------------------------------------------------------------- Eq. 3: N(t_j) = NN(E_labeled, eps(t_j), k)


def nearest_labeled(
    index: VectorIndex, collection: str, rows: Sequence[Row], vectors: FloatMatrix, k: int
) -> dict[str, list[str]]:
    """Row id -> ids of its k nearest labeled rows, nearest first. D1: exact, ties by id, never itself."""
    if k == 0:
        return {row.id: [] for row in rows}
    queries = [VectorQuery(vector=vector, exclude_id=row.id) for row, vector in zip(rows, vectors, strict=True)]
    hits = index.search(collection, queries, k)
    return {row.id: [hit.id for hit in found] for row, found in zip(rows, hits, strict=True)}


# ---------------------------------------------------------------- Eq. 4: y_j^m = M_m(t_j)


def collaborate(
    generator: Generator,
    model: str,
    collaborators: Sequence[Collaborator],
    rows: Sequence[Row],
    references: Mapping[str, Sequence[Row]],
    task: Task,
    sampling: Sampling,
    seed: int,
    *,
    cancel: Cancel = NEVER,
) -> dict[str, list[Candidate]]:
    """Row id -> what each collaborator answers. They are of one configuration, samples of the same prompts, which are read once.
    `model`: the served name of its weights; `references`: row id -> N(t_j), nearest first, of which its own number is shown."""
    prompts = [collaborator_prompt(collaborators, row, references.get(row.id, ()), task, seed) for row in rows]
    generations = generator.generate(model, prompts, replace(sampling, n=len(collaborators)), cancel=cancel)
    return {
        row.id: [
            _candidate(one.name, completion, row, task)
            for one, completion in zip(collaborators, generation.completions, strict=True)
        ]
        for row, generation in zip(rows, generations, strict=True)
    }


def collaborator_prompt(
    collaborators: Sequence[Collaborator], row: Row, references: Sequence[Row], task: Task, seed: int
) -> Prompt:
    """What collaborators of one configuration are asked about row j. A seed depends on (run seed, row id, collaborator, sample
    index) alone (R5)."""
    messages = reference_prompt(row, references[: collaborators[0].references], task)
    return Prompt(row.id, messages, tuple(derive_seed(seed, row.id, one.configuration, one.sample) for one in collaborators))


def _candidate(name: str, completion: Completion, row: Row, task: Task) -> Candidate:
    answer = parse(completion.text, row, task, truncated=completion.finish_reason is FinishReason.LENGTH)
    return Candidate(name, completion.text, answer, completion.token_logprobs)


# ---------------------------------------------------------------- Eq. 5: y~_j = M_warm(t_j, {y_j^1 .. y_j^n})


def self_justify(
    generator: Generator,
    model: str,
    task: Task,
    rows: Sequence[Row],
    candidates: Mapping[str, Sequence[Candidate]],
    max_tokens: int,
    *,
    judge_all: bool = False,
    cancel: Cancel = NEVER,
) -> list[Verdict]:
    """One verdict per row, in input order. `model` is M_warm. D5: judging is greedy."""
    asked = [row for row in rows if needs_judging(candidates[row.id], task, judge_all=judge_all)]
    prompts = [Prompt(row.id, judge_prompt(row, _valid(candidates[row.id]), task)) for row in asked]
    replies = generator.generate(model, prompts, Sampling(max_tokens=max_tokens), cancel=cancel) if prompts else []
    judged = {row.id: (prompt, reply) for row, prompt, reply in zip(asked, prompts, replies, strict=True)}
    verdicts = []
    for row in rows:
        if row.id in judged:
            prompt, reply = judged[row.id]
            verdicts.append(_judged_verdict(row, candidates[row.id], prompt, reply, task))
        else:
            verdicts.append(_agreed_verdict(row, candidates[row.id], task))
    return verdicts


def needs_judging(candidates: Sequence[Candidate], task: Task, *, judge_all: bool = False) -> bool:
    """D3: rows whose candidates are all valid and equal are not judged, and a row without any valid answer cannot be."""
    return bool(_valid(candidates)) and (judge_all or not unanimous(candidates, task))


def unanimous(candidates: Sequence[Candidate], task: Task) -> bool:
    """All n valid and pairwise equal. No answer agrees with nothing (trap 1); `A` and `A.` agree (trap 7)."""
    return bool(candidates) and all(equal(a.answer, b.answer, task) for a in candidates for b in candidates)


def _valid(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if isinstance(candidate.answer, Answer)]


def _agreement(answer: Answer, candidates: Sequence[Candidate], task: Task) -> float:
    return sum(equal(candidate.answer, answer, task) for candidate in candidates) / len(candidates)


def _agreed_verdict(row: Row, candidates: Sequence[Candidate], task: Task) -> Verdict:
    if not _valid(candidates):
        return Verdict(row.id, Decision.NONE, None, "", 0.0)
    answer, response = agreed_response(row, candidates, task)
    return Verdict(row.id, Decision.UNANIMOUS, answer, response, _agreement(answer, candidates, task))


def agreed_response(row: Row, candidates: Sequence[Candidate], task: Task) -> tuple[Answer, str]:
    """D4: the canonical text for choices and numbers; for free text the agreeing candidate of lowest H (as it was sampled)."""
    valid = _valid(candidates)
    if task.type is TaskType.TEXT:
        best = min(valid, key=lambda candidate: (_finite_or_last(entropy(candidate.token_logprobs)), candidate.collaborator))
        assert isinstance(best.answer, Answer)
        return best.answer, best.text.strip()
    value, _ = Counter(candidate.answer.value for candidate in valid if isinstance(candidate.answer, Answer)).most_common(1)[0]
    return Answer(value), target_text(Answer(value), row, task)


def _finite_or_last(value: float) -> float:
    """NaN compares with nothing, so that a minimum over it depends on the order."""
    return value if math.isfinite(value) else math.inf


def _judged_verdict(row: Row, candidates: Sequence[Candidate], prompt: Prompt, reply: Generation, task: Task) -> Verdict:
    """A valid verdict outside the candidates stands (Sec. 3.3: "select and summarize"); no valid verdict excludes the row."""
    completion = reply.completions[0]
    answer = parse(completion.text, row, task, truncated=completion.finish_reason is FinishReason.LENGTH)
    transcript = (*prompt.messages, Message("assistant", completion.text))
    if not isinstance(answer, Answer):
        return Verdict(row.id, Decision.NONE, None, "", 0.0, transcript)
    response = completion.text.strip() if task.type is TaskType.TEXT else target_text(answer, row, task)  # D4
    return Verdict(row.id, Decision.JUDGED, answer, response, _agreement(answer, candidates, task), transcript)


# ---------------------------------------------------------------- Eq. 6: H(y~_j) = -(1/L_j) sum_k log P(r_k | t_j, r_<k), P of M_warm


def entropy_requests(responses: Mapping[str, str], rows: Sequence[Row], task: Task) -> list[ScoreRequest]:
    """D6: the plain task and the response, whoever wrote it. `responses`: row id -> y~_j; rows without one are left out."""
    return [ScoreRequest(row.id, plain_prompt(row, task), responses[row.id]) for row in rows if responses.get(row.id)]


def entropies(
    scorer: Scorer, model: str, responses: Mapping[str, str], rows: Sequence[Row], task: Task, *, cancel: Cancel = NEVER
) -> dict[str, float | None]:
    """Row id -> H in nats per token; None where the row has no response. `model` is M_warm."""
    scored = scorer.score(model, entropy_requests(responses, rows, task), cancel=cancel)
    found: dict[str, float | None] = {score.id: entropy(score.token_logprobs) for score in scored}
    return {row.id: found.get(row.id) for row in rows}


def generated_entropy(verdict: Verdict, candidates: Sequence[Candidate], task: Task) -> float | None:
    """D6, `entropy_source: generated`: lowest H among M_warm's own generations that say y~_j; None where M_warm wrote none of
    them, and the row is then answered once more by M_warm."""
    own = [
        entropy(candidate.token_logprobs)
        for candidate in candidates
        if candidate.collaborator.startswith(Weights.WARM) and verdict.answer and equal(candidate.answer, verdict.answer, task)
    ]
    return min(filter(math.isfinite, own), default=None)


# ---------------------------------------------------------------- Eq. 7-8: tau and D_selected are `selection.select`


def pseudo_labeled(rows: Sequence[Row], verdicts: Mapping[str, Verdict], selection: Selection) -> list[Row]:
    """D_selected: the kept rows with their pseudo-responses, in row-id order."""
    kept = set(selection.selected)
    return [
        replace(row, answer=answer.value, response=verdicts[row.id].response, source="pseudo")
        for row in sorted(rows, key=lambda row: row.id)
        if row.id in kept and (answer := verdicts[row.id].answer) is not None
    ]


# ---------------------------------------------------------------- Eq. 9: M_evol = FT(M_base, D_selected U D_labeled)


def evolution_rows(labeled: Sequence[Row], selected: Sequence[Row], *, include_labeled: bool = True) -> list[Row]:
    """What M_evol is trained on, from the base (trap 5), in row-id order. D8: `include_labeled=False` leaves the labeled rows out.

    A row that is in both sets (an unlabeled file may repeat labeled rows) counts once, with the answer that is known.
    """
    chosen = {row.id: row for row in selected} | {row.id: row for row in (labeled if include_labeled else ())}
    return [chosen[row_id] for row_id in sorted(chosen)]


# ---------------------------------------------------------------- evaluation


def evaluate(
    generator: Generator, model: str, rows: Sequence[Row], task: Task, max_tokens: int, *, cancel: Cancel = NEVER
) -> dict[str, Candidate]:
    """Row id -> the model's answer. D5: greedy, no references."""
    prompts = [Prompt(row.id, plain_prompt(row, task)) for row in rows]
    generations = generator.generate(model, prompts, Sampling(max_tokens=max_tokens), cancel=cancel)
    return {
        row.id: _candidate(model, generation.completions[0], row, task) for row, generation in zip(rows, generations, strict=True)
    }


def true_answer(row: Row, task: Task) -> Answer:
    """y_i in canonical form. Raises ValueError for a row without a valid answer; intake lets none through."""
    answer = canonical_answer(row.answer or "", row, task)
    if answer is None:
        raise ValueError(f"Row {row.id} has no valid answer.")
    return answer


# ---------------------------------------------------------------- the steps of one iteration, as the planner reads them


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an iteration.

    `kind`: what is done, and the name under which work is shared: two steps of one kind with equal inputs and parameters are the
    same work. `reads`: role -> names of the iteration's artifacts. `writes`: artifact name -> file (`x/`: one file a shard;
    empty: the whole artifact, an adapter). An artifact that no active step writes is dropped from `reads`.
    """

    name: str
    kind: str
    equation: str
    reads: Mapping[str, tuple[str, ...]]
    writes: Mapping[str, str]
    sharded: bool = False  # by unlabeled row
    fan_out: bool = False  # one instance per collaborator
    option: str = ""  # left out unless this option of the run is on
    optional_reads: Mapping[str, str] = field(default_factory=dict)  # role -> the option without which it is not read


# Raised whenever the same inputs and parameters would give another output (R2). `train` is the training service's.
CONTRACTS = {
    "intake": 1,
    "index": 1,
    "examples": 1,
    "train": 1,
    "retrieve": 1,
    "infer": 1,
    "judge": 2,
    "score": 1,
    "select": 1,
    "evaluate": 1,
    "gate": 1,
    "extend": 1,
    "report": 1,
}

STEPS: tuple[Step, ...] = (
    Step("index", "index", "Eq. 2", {"rows": ("labeled",)}, {"vectors": "vectors.npy", "labeled_references": "references.jsonl"}),
    Step(
        "examples-warm",
        "examples",
        "Eq. 1",
        {"rows": ("labeled",), "library": ("labeled",), "references": ("labeled_references",)},
        {"warm_examples": "train.jsonl"},
        option="in_weight",
        optional_reads={"library": "train_references", "references": "train_references"},
    ),
    Step("warm", "train", "Eq. 1", {"examples": ("warm_examples",)}, {"warm": ""}, option="in_weight"),
    Step(
        "retrieve",
        "retrieve",
        "Eq. 3",
        {"labeled": ("labeled",), "vectors": ("vectors",), "rows": ("unlabeled",)},
        {"references": "references/"},
    ),
    Step(
        "infer",
        "infer",
        "Eq. 4",
        {"rows": ("unlabeled",), "library": ("labeled",), "references": ("references",), "model": ("warm",)},
        {"candidates": "candidates.jsonl"},
        sharded=True,
        fan_out=True,
    ),
    Step(
        "judge",
        "judge",
        "Eq. 5",
        {"rows": ("unlabeled",), "candidates": ("candidates",), "model": ("warm",)},
        {"verdicts": "verdicts.jsonl"},
        sharded=True,
    ),
    Step(
        "score",
        "score",
        "Eq. 6",
        {"rows": ("unlabeled",), "candidates": ("candidates",), "verdicts": ("verdicts",), "model": ("warm",)},
        {"entropies": "entropies.jsonl"},
        sharded=True,
        optional_reads={"candidates": "generated_entropy"},
    ),
    Step(
        "score-labeled",
        "score",
        "Eq. 6",
        {"rows": ("labeled",), "model": ("warm",)},
        {"labeled_entropies": "entropies.jsonl"},
        option="labeled_threshold",
    ),
    Step(
        "select",
        "select",
        "Eq. 7-8",
        {
            "labeled": ("labeled",),
            "rows": ("unlabeled",),
            "verdicts": ("verdicts",),
            "entropies": ("entropies",),
            "threshold_entropies": ("labeled_entropies",),
        },
        {
            "next_labeled": "labeled.jsonl",
            "next_unlabeled": "unlabeled/",
            "evolution": "evolution.jsonl",
            "selection": "selection.json",
            "fates": "fates.jsonl",
        },
    ),
    Step(
        "examples-evolve",
        "examples",
        "Eq. 9",
        {"rows": ("evolution",), "library": ("labeled",), "references": ("labeled_references", "references")},
        {"evolve_examples": "train.jsonl"},
        optional_reads={"library": "train_references", "references": "train_references"},
    ),
    Step("evolve", "train", "Eq. 9", {"examples": ("evolve_examples",)}, {"evolved": ""}),
    Step("evaluate-base", "evaluate", "", {"rows": ("test",)}, {"base_answers": "answers.jsonl"}, option="test"),
    Step(
        "evaluate-warm",
        "evaluate",
        "",
        {"rows": ("test",), "model": ("warm",)},
        {"warm_answers": "answers.jsonl"},
        option="warm_test",
    ),
    Step(
        "evaluate-evolved",
        "evaluate",
        "",
        {"rows": ("test",), "model": ("evolved",)},
        {"evolved_answers": "answers.jsonl"},
        option="test",
    ),
    # Whether the iteration's model replaces the best so far (Sec. 4.3.7 leaves it open): on held-out rows, never on the test rows.
    Step("dev-base", "evaluate", "", {"rows": ("dev",)}, {"best_dev": "answers.jsonl"}, option="dev_base"),
    Step("dev-warm", "evaluate", "", {"rows": ("dev",), "model": ("warm",)}, {"best_dev": "answers.jsonl"}, option="dev_warm"),
    Step(
        "dev-evolved", "evaluate", "", {"rows": ("dev",), "model": ("evolved",)}, {"evolved_dev": "answers.jsonl"}, option="gate"
    ),
    Step(
        "gate",
        "gate",
        "",
        {"before": ("best_dev",), "after": ("evolved_dev",)},
        {"gate": "gate.json", "gate_passed": "passed.json"},
        option="gate",
    ),
    Step(
        "report",
        "report",
        "",
        {
            "labeled": ("labeled",),
            "unlabeled": ("unlabeled",),
            "verdicts": ("verdicts",),
            "selection": ("selection",),
            "fates": ("fates",),
            "test": ("test",),
            "gold": ("gold",),
            "base": ("base_answers",),
            "warm": ("warm_answers",),
            "evolved": ("evolved_answers",),
            "gate": ("gate",),
        },
        {"report": "report.json"},
    ),
)
