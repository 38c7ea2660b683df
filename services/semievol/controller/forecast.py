"""A dry run: what a spec would do and cost, what of it is there already, and what models would be shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from semievol.common import errors
from semievol.common.artifacts import Artifacts, Look, Manifest
from semievol.common.runspec import RunSpec
from semievol.controller.estimate import ASSUMED_JUDGED, Estimator, StepForecast, total
from semievol.controller.history import Counts, History
from semievol.controller.plan import Addition, Resolved, StepPlan, StepState, plan
from semievol.controller.preview import Intake, RowPreview, preview
from semievol.controller.reasons import changes, file_names, reason
from semievol.controller.runs import RunStore, run_id_of
from semievol.controller.trial import Measured, Models, ShownPrompt, Trial
from semievol.ports import Cancel, Embedder, VectorIndex

_BUSY = 1.5  # processes that want a core, for each core
_ROLES = ("labeled", "unlabeled", "test", "dev")
# Of a later iteration, what is the work of the one before under another name: same rows, same base.
_SAME_WORK = ("examples-warm", "warm", "evaluate-base", "evaluate-warm")

_ONCE = ("extend", "dev-base", "dev-warm")  # steps that the next iteration does not have


@dataclass(frozen=True, slots=True)
class RowCount:
    """One data file as intake takes it."""

    role: str
    file: str
    rows: int
    bad: int
    duplicates: int


@dataclass(frozen=True)
class Forecast:
    """`steps` as the planner knows them; `costs` of them and of later iterations. `compared`: the newest run of this name, or empty."""

    run_id: str
    steps: list[StepPlan]
    rows: list[RowCount]
    costs: list[StepForecast]
    total: StepForecast
    prompts: list[ShownPrompt]
    compared: str
    changes: list[str]
    overlaps: list[str]
    notes: list[str]


class Forecaster:
    """Services are connected when first needed. `intake` is the step's own function."""

    def __init__(
        self,
        artifacts: Artifacts,
        runs: RunStore,
        intake: Intake,
        models: Callable[[], Models],
        embedder: Callable[[], Embedder],
        index: Callable[[], VectorIndex],
    ) -> None:
        self._artifacts, self._runs, self._intake = artifacts, runs, intake
        self._models, self._embedder, self._index = models, embedder, index

    def forecast(self, spec: RunSpec, resolved: Resolved, *, cancel: Cancel) -> Forecast:
        """Raises what intake raises (InvalidInput with the bad rows), and what the services raise on a few rows."""
        (intake, *_) = plan(spec, resolved, lambda key, shard: None)
        assert intake.work is not None
        rows = preview(self._artifacts, intake.work, self._intake, cancel)
        steps = self._plan(spec, resolved, rows)
        history = History(self._runs, self._artifacts, spec.name, resolved)
        measured = Trial(spec, rows, self._models(), self._embedder(), self._index(), cancel).run()
        estimator = Estimator(spec, measured, history, {role: rows.mean_bytes(role) for role in _ROLES})
        costs = self._costs(spec, resolved, rows, steps, history, estimator)
        newest = history.newest.record if history.newest else None
        return Forecast(
            run_id_of(spec, resolved),
            steps,
            [_row_count(rows, spec, role) for role in _ROLES if role in rows.summary["files"]],
            costs,
            total(costs),
            measured.prompts,
            newest.id if newest else "",
            changes(newest, spec.model_dump(mode="json"), resolved) if newest else [],
            list(rows.summary.get("overlaps", ())),
            [*_kept_out(rows), *_notes(spec, measured, estimator, costs)],
        )

    def _plan(self, spec: RunSpec, resolved: Resolved, rows: RowPreview) -> list[StepPlan]:
        """As if intake were done, so that what follows from it has its keys."""

        look = Look(self._artifacts, verify=False)

        def manifest_of(key: str, shard: int | None) -> Manifest | None:
            return rows.manifest if key == rows.manifest.key else look(key, shard)

        steps = plan(spec, resolved, manifest_of, self._additions(spec, resolved))
        if rows.read_now:
            steps[0] = replace(steps[0], state=StepState.READY, missing=(None,), manifests={})
        return steps

    def _additions(self, spec: RunSpec, resolved: Resolved) -> tuple[Addition, ...]:
        try:
            return self._runs.load(run_id_of(spec, resolved)).additions
        except errors.NotFound:
            return ()

    def _costs(
        self,
        spec: RunSpec,
        resolved: Resolved,
        rows: RowPreview,
        steps: Sequence[StepPlan],
        history: History,
        estimator: Estimator,
    ) -> list[StepForecast]:
        newest = history.newest.record if history.newest else None
        unmade = any(step.state is StepState.READY for step in steps)
        earlier = newest.plan(Look(self._artifacts, verify=False)) if newest and unmade else []
        by_label = {step.label: step for step in earlier}
        share, _ = estimator.judged_share()
        costs: list[StepForecast] = []
        counts = _first_counts(spec, rows, share)
        for iteration in range(spec.iterations + 1):
            known = [step for step in steps if step.iteration == iteration]
            if iteration > 1:
                counts = _next_counts(spec, counts, share)
                if counts.unlabeled < 1:
                    break
            for step in known or _repeated(steps, iteration):
                cost = _without_what_is_there(step, estimator.cost(step, counts))
                if step.name == "intake" and rows.read_now:
                    cost = replace(cost, seconds=rows.seconds, basis="trial")
                why = reason(step, steps, spec, history, by_label) if known else f"needs {iteration - 1}/select"
                costs.append(_shared(spec, replace(cost, reason=why)))
        return costs


def _first_counts(spec: RunSpec, rows: RowPreview, judged: float) -> Counts:
    labeled, unlabeled, test, dev = (float(rows.count(role)) for role in _ROLES)
    return Counts(labeled, unlabeled, test, dev, judged * unlabeled, spec.theta / 100 * unlabeled)


def _next_counts(spec: RunSpec, counts: Counts, judged: float) -> Counts:
    """Sec. 4.3.7: labeled plus selected, and the rows that were not selected."""
    left = counts.unlabeled - counts.selected
    return replace(
        counts,
        labeled=counts.labeled + counts.selected,
        unlabeled=left,
        judged=judged * left,
        selected=spec.theta / 100 * left,
    )


def _repeated(steps: Sequence[StepPlan], iteration: int) -> list[StepPlan]:
    """The steps of an iteration that cannot be planned yet: those of the last one that can."""
    last = max(step.iteration for step in steps)
    names = [step.name for step in steps if step.iteration == last and step.name not in _ONCE]
    return [StepPlan(iteration, name, StepState.WAITING) for name in names] if last else []


def _without_what_is_there(step: StepPlan, cost: StepForecast) -> StepForecast:
    """A step that is done costs nothing, one of which some shards are there costs the others."""
    if step.state is StepState.DONE:
        return StepForecast(step.iteration, step.name, reused=True, rows=cost.rows)
    if step.work is None or len(step.work.shards) == len(step.missing):
        return cost
    left = len(step.missing) / len(step.work.shards)
    counted = ("generations", "scores", "prompt_tokens", "output_tokens")
    return replace(cost, seconds=cost.seconds * left, **{name: round(getattr(cost, name) * left) for name in counted})


def _shared(spec: RunSpec, cost: StepForecast) -> StepForecast:
    """The next iteration's warm model is this one's evolved model, so what depends on it alone is there by then."""
    same = _SAME_WORK if spec.include_labeled else ("evaluate-base",)
    if cost.iteration < 2 or cost.name not in same or cost.reused:
        return cost
    return StepForecast(cost.iteration, cost.name, reused=True, reason=f"made by iteration {cost.iteration - 1}", rows=cost.rows)


def _row_count(rows: RowPreview, spec: RunSpec, role: str) -> RowCount:
    described = rows.summary["files"][role]
    return RowCount(role, file_names(getattr(spec.data, role)), described["rows"], len(described["bad"]), described["duplicates"])


def _kept_out(rows: RowPreview) -> list[str]:
    """Dev rows that no file was given for come out of the labeled ones."""
    count = 0 if "dev" in rows.summary["files"] else rows.count("dev")
    return [f"{count} labeled rows are kept out to decide by whether a model replaces the best so far."] if count else []


def _notes(spec: RunSpec, measured: Measured, estimator: Estimator, costs: Sequence[StepForecast]) -> list[str]:
    share, known_from = estimator.judged_share()
    bases = {cost.basis for cost in costs}
    notes = [
        f"Tokens: measured on {measured.rows} unlabeled rows with the base model and scaled by the rows' length. Replies of the base "
        f"model are taken as long as in the trial ({measured.base_reply_tokens:.1f} tokens), those of trained models as the labeled "
        f"answers ({measured.response_tokens:.1f}); at most max_tokens ({spec.max_tokens})."
    ]
    if any(basis.startswith("run ") for basis in bases):
        notes.append("Time with basis `run ...`: as fast by the row as that run, which had the same models and engine.")
    if "trial" in bases:
        notes.append("Time with basis `trial`: as fast as the rows tried just now, in a small batch; larger batches are faster.")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if "trial" in bases and load > _BUSY * cores:
        notes.append(f"This machine is busy (load {load:.0f} on {cores} cores): times from the trial are too long by as much.")
    if spec.trainer == "openai":
        tokens = sum(cost.prompt_tokens + cost.output_tokens for cost in costs if cost.updates and not cost.reused)
        notes.append(
            f"The endpoint trains on about {tokens} tokens, by the base model's count. It bills for them, and for the others; how long it "
            "takes is known when a run has done it, and in no sum here before."
        )
    if "assumed" in bases:
        notes.append("Time with basis `assumed`: training at a third of the speed at which the trial read prompts.")
    if known_from:
        notes.append(f"{100 * share:.0f} % of the unlabeled rows are judged, as in {known_from}.")
    elif share == ASSUMED_JUDGED:
        notes.append(f"{100 * share:.0f} % of the unlabeled rows are judged: assumed, since no earlier run says.")
    notes.append(f"{spec.theta:g} % of the unlabeled rows are selected: theta, as if every row had an answer.")
    return notes
