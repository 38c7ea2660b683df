"""What each step would cost: calls, tokens, seconds. Pure: from row counts, a trial's measurements and earlier runs' times.

N, M, T   labeled, unlabeled and test rows of the iteration        E   rows that M_evol is trained on
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from semievol.algorithm.semievol import STEPS
from semievol.algorithm.types import Weights
from semievol.common.runspec import RunSpec
from semievol.controller.history import Counts, History
from semievol.controller.plan import StepPlan
from semievol.controller.trial import PLAIN, Measured
from semievol.training.batches import total_updates

_KINDS = {step.name: step.kind for step in STEPS}
_PASSES_OF_TRAINING = 3  # a forward and a backward pass take about three forward passes
ASSUMED_JUDGED = 0.5  # of the rows, where no earlier run says


@dataclass(frozen=True, slots=True)
class StepForecast:
    """What one step would do. `basis` of the seconds: `run <id>`, trial, assumed, or empty where nothing is to be done."""

    iteration: int
    name: str
    reused: bool = False
    reason: str = ""
    rows: int = 0
    generations: int = 0
    scores: int = 0
    embeddings: int = 0
    searches: int = 0
    updates: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    basis: str = ""


_SUMMED = ("generations", "scores", "embeddings", "searches", "updates", "prompt_tokens", "output_tokens")


def total(steps: list[StepForecast]) -> StepForecast:
    """Sums, seconds included."""
    sums = {name: sum(getattr(step, name) for step in steps) for name in _SUMMED}
    return StepForecast(0, "", **sums, seconds=sum(step.seconds for step in steps))


class Estimator:
    """`mean_bytes`: of the rows' records, by role."""

    def __init__(self, spec: RunSpec, measured: Measured, history: History, mean_bytes: Mapping[str, float]) -> None:
        self._spec = spec
        self._measured = measured
        self._history = history
        self._mean_bytes = mean_bytes
        self._samples = Counter(one.configuration for one in spec.collaborator_list())

    def judged_share(self) -> tuple[float, str]:
        """Of the unlabeled rows, and the run that it is known from, if one is."""
        if self._spec.judge == "all":
            return 1.0, ""
        if len(self._spec.collaborator_list()) == 1:
            return 0.0, ""
        for run in self._history.comparable():
            if run.counts and "1/judge" in run.keys and run.record.spec.judge == self._spec.judge:
                return run.counts.judged / max(1.0, run.counts.unlabeled), run.record.id
        return ASSUMED_JUDGED, ""

    def rows(self, name: str, counts: Counts) -> float:
        """That a step reads; for training, of one epoch."""
        kind = name.partition("/")[0]
        if name in ("examples-evolve", "evolve"):
            return counts.evolution(self._spec)
        if name in ("index", "examples-warm", "warm", "score-labeled"):
            return counts.labeled
        if kind.startswith("evaluate"):
            return counts.test
        if kind == "gate" or kind.startswith("dev-"):
            return counts.dev
        return counts.unlabeled if name != "intake" else counts.labeled + counts.unlabeled + counts.test + counts.dev

    def cost(self, step: StepPlan, counts: Counts) -> StepForecast:
        """Of a step of which nothing is there."""
        name = step.name
        made = StepForecast(step.iteration, name, rows=round(self.rows(name, counts)))
        costs: dict[str, Callable[[StepForecast, Counts], StepForecast]] = {
            "index": self._index,
            "train": self._train,
            "retrieve": self._retrieve,
            "infer": self._infer,
            "judge": self._judge,
            "score": self._score,
            "evaluate": self._evaluate,
        }
        kind = _KINDS.get(name.partition("/")[0], "")
        cost = costs[kind](made, counts) if kind in costs else made
        return self._with_history(cost, kind, counts)

    def _with_history(self, cost: StepForecast, kind: str, counts: Counts) -> StepForecast:
        """As fast as in the newest comparable run that did this step, by the row (or what else it counts)."""
        units = self._units(cost.name, kind, counts, self._spec)
        for run in self._history.comparable():
            before = self._units(cost.name, kind, run.counts, run.record.spec) if run.counts else 0.0
            seconds = self._history.seconds(run, f"{0 if cost.name == 'intake' else 1}/{cost.name}")
            if seconds and before:
                return replace(cost, seconds=seconds * units / before, basis=f"run {run.record.id}")
        return cost

    def _units(self, name: str, kind: str, counts: Counts, spec: RunSpec) -> float:
        if kind == "judge":
            return counts.judged
        if kind == "infer":
            samples = Counter(one.configuration for one in spec.collaborator_list())
            return counts.unlabeled * samples[name.partition("/")[2]]
        if kind == "train":
            rows = counts.evolution(spec) if name == "evolve" else counts.labeled
            return rows * spec.train.epochs
        return self.rows(name, counts)

    def _index(self, made: StepForecast, counts: Counts) -> StepForecast:
        searches = made.rows if self._spec.train.references else 0
        return self._embedding(replace(made, embeddings=made.rows, searches=searches))

    def _retrieve(self, made: StepForecast, counts: Counts) -> StepForecast:
        return self._embedding(replace(made, embeddings=made.rows, searches=made.rows if self._spec.references else 0))

    def _embedding(self, made: StepForecast) -> StepForecast:
        seconds = made.embeddings * self._measured.embedding_s + made.searches * self._measured.search_s
        return replace(made, seconds=seconds, basis="trial")

    def _train(self, made: StepForecast, counts: Counts) -> StepForecast:
        train, k = self._spec.train, self._spec.train.references
        prompt = self._measured.tokens(f"warm-{k}" if k else PLAIN, self._mean_bytes["labeled"])
        prompt = min(prompt, max(1.0, train.max_tokens - self._measured.response_tokens))
        seen = made.rows * train.epochs
        updates = total_updates(made.rows, train.epochs, train.batch_size * train.gradient_accumulation) if made.rows else 0
        read, written = seen * prompt, seen * self._measured.response_tokens
        if self._spec.trainer == "openai":  # at a speed that nobody knows before it has been seen
            return replace(made, updates=updates, prompt_tokens=round(read), output_tokens=round(written))
        seconds = _PASSES_OF_TRAINING * (read + written) / self._measured.prompt_speed
        return replace(
            made, updates=updates, prompt_tokens=round(read), output_tokens=round(written), seconds=seconds, basis="assumed"
        )

    def _infer(self, made: StepForecast, counts: Counts) -> StepForecast:
        configuration = made.name.partition("/")[2]
        samples = self._samples[configuration] or 1
        read = made.rows * self._measured.tokens(configuration, self._mean_bytes["unlabeled"])
        return self._replies(made, made.rows * samples, read, base=configuration.startswith("base"))

    def _judge(self, made: StepForecast, counts: Counts) -> StepForecast:
        asked = round(counts.judged)
        read = asked * self._measured.tokens("judge", self._mean_bytes["unlabeled"])
        return self._replies(made, asked, read, base=not self._spec.in_weight)

    def _evaluate(self, made: StepForecast, counts: Counts) -> StepForecast:
        role = "dev" if "dev" in made.name else "test"
        read = made.rows * self._measured.tokens(PLAIN, self._mean_bytes.get(role, 0.0) or self._measured.sample_bytes)
        return self._replies(made, made.rows, read, base=made.name.endswith("base"))

    def _replies(self, made: StepForecast, replies: int, read: float, *, base: bool) -> StepForecast:
        """Trained models write as much as the labeled answers; the base model what it wrote in the trial."""
        written = replies * (self._measured.base_reply_tokens if base else self._measured.response_tokens)
        seconds = read / self._measured.prompt_speed + written / self._measured.reply_speed
        return replace(
            made,
            generations=replies,
            prompt_tokens=round(read),
            output_tokens=round(written),
            seconds=seconds,
            basis="trial" if replies else "",
        )

    def _answers_once_more(self, made: StepForecast) -> StepForecast:
        """`entropy_source: generated`: seen while sampling, but for rows whose response another model wrote. Without a warm collaborator these
        are all of them; else few, and not counted."""
        if any(one.model is Weights.WARM for one in self._spec.collaborator_list()):
            return made
        read = made.rows * self._measured.tokens(PLAIN, self._mean_bytes["unlabeled"])
        return self._replies(made, made.rows, read, base=not self._spec.in_weight)

    def _score(self, made: StepForecast, counts: Counts) -> StepForecast:
        if self._spec.entropy_source == "generated" and made.name == "score":
            return self._answers_once_more(made)
        role = "labeled" if made.name == "score-labeled" else "unlabeled"
        read = made.rows * self._measured.tokens(PLAIN, self._mean_bytes[role])
        written = made.rows * self._measured.response_tokens
        seconds = (read + written) / self._measured.score_speed
        return replace(
            made,
            scores=made.rows,
            prompt_tokens=round(read),
            output_tokens=round(written),
            seconds=seconds,
            basis="trial",
        )
