"""`semievol select` and `semievol explain`: looking into a run's selection without asking a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options

if TYPE_CHECKING:
    from semievol.controller.v1 import controller_service_pb2 as pb

_iteration_option = click.option(
    "--iteration", type=click.IntRange(1), default=None, help="Which iteration. Default: the last one that has got so far."
)


@click.command(short_help="Show what another theta would keep.")
@click.argument("run")
@click.option(
    "--theta",
    "thetas",
    type=click.FloatRange(0, 100),
    multiple=True,
    help="A percentile; once for each. Default: 10, 20, ... 90.",
)
@click.option("--what-if", is_flag=True, help="Only show it. Needed: to select by another theta, change it in the run file.")
@_iteration_option
@target_options
@json_option
def select(run: str, thetas: tuple[float, ...], what_if: bool, iteration: int | None, target: Target, as_json: bool) -> None:
    """Show how many rows of RUN (an id or a name) another theta would keep, below which entropy, and, where the unlabeled file carries
    answers, how many of these pseudo-labels are right.

    Computed from the entropies that the run has published; no model is needed.
    """
    if not what_if:
        raise click.UsageError(
            "Add --what-if to see what another theta would keep. To select by it, change theta in the run file and run it again: "
            "everything before the selection is reused."
        )
    from semievol.cli import plain
    from semievol.cli.connect import controller, find_run

    with controller(target) as connection:
        found = connection.client.preview_selection(
            find_run(connection.client, run).id, thetas or tuple(range(10, 100, 10)), iteration or 0
        )
    if as_json:
        output.json_line(plain.message(found))
        return
    rows = [
        [
            f"{one.theta:g}{' (the run)' if one.theta == found.theta else ''}",
            str(one.selected_count),
            f"{one.threshold:.4g}" if one.HasField("threshold") else "",
            f"{100 * one.pseudo_label_accuracy:.1f} %" if one.HasField("pseudo_label_accuracy") else "not known",
        ]
        for one in found.previews
    ]
    output.data(
        f"Run {found.run_id}, iteration {found.iteration}: {found.row_count} rows, {found.excluded_count} without an answer or an entropy\n"
    )
    output.data(output.table(["theta", "kept", "entropy at most", "pseudo-labels right"], rows))


@click.command(short_help="Show everything about one row of a run.")
@click.argument("run")
@click.argument("row")
@_iteration_option
@target_options
@json_option
def explain(run: str, row: str, iteration: int | None, target: Target, as_json: bool) -> None:
    """Show what became of ROW (an unlabeled row's id) in RUN: the references that prompts showed, what each collaborator answered, the
    verdict with what the judge was shown, the entropy, and whether the row was kept."""
    from semievol.cli import plain
    from semievol.cli.connect import controller, find_run

    with controller(target) as connection:
        found = connection.client.explain_row(find_run(connection.client, run).id, row, iteration or 0)
    if as_json:
        output.json_line(plain.message(found))
    else:
        output.data(_explanation(found))


_FATES = {
    "kept": "kept: its entropy is not above the threshold",
    "above_threshold": "dropped: its entropy is above the threshold",
    "no_answer": "dropped: it has no valid answer",
    "no_entropy": "dropped: its response has no finite entropy",
    "": "not selected from yet",
}
_DECISIONS = {"unanimous": "all candidates agree", "judged": "the judge decided", "none": "no valid answer", "": "not judged yet"}


def _explanation(found: pb.ExplainRowResponse) -> str:
    options = [f"  - {option}" for option in found.options]
    parts = ["\n".join([f"Run {found.run_id}, iteration {found.iteration}, row {found.row_id}", "", found.question, *options])]
    parts += [f"Reference {one.row_id}: {one.question}\n  => {one.response}" for one in found.references]
    if found.candidates:
        rows = [
            [one.collaborator, one.answer or f"none ({one.no_answer})", _number(one, "entropy"), " ".join(one.text.split())]
            for one in found.candidates
        ]
        parts.append(output.table(["collaborator", "answer", "its entropy", "text"], rows))
    parts += [f"[{turn.role}, judging] {turn.content}" for turn in found.transcript]
    label = [f"Pseudo-label: {found.response or 'none'} ({_DECISIONS.get(found.decision, found.decision)})"]
    if found.decision and found.decision != "none":
        label.append(f"Agreement: {100 * found.agreement:.0f} % of the candidates")
    label.append(
        f"Entropy: {_number(found, 'entropy') or 'none'}; threshold: {_number(found, 'threshold') or 'none'} nats per token"
    )
    label.append(f"Fate: {_FATES.get(found.fate, found.fate)}")
    if found.true_answer:
        label.append(f"True answer: {found.true_answer} (known from the unlabeled file; used for reports only)")
    return "\n\n".join([*parts, "\n".join(label)])


def _number(found: pb.ExplainRowResponse | pb.ExplainedCandidate, name: str) -> str:
    return f"{getattr(found, name):.4g}" if found.HasField(name) else ""  # type: ignore[arg-type]
