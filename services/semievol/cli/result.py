"""A run's result as a table. The result itself is made by the controller (docs/run-file.md describes its JSON)."""

from __future__ import annotations

from typing import Any

from semievol.cli.output import duration, table


def result_text(result: dict[str, Any]) -> str:
    """Several lines: per iteration the accuracies, the gain, what was selected, the models and the seconds."""
    parts = [f"Run {result['run']}", *(_iteration(iteration) for iteration in result.get("iterations", []))]
    if result.get("stopped"):
        parts.append(
            f"Stopped early: {_STOPPED[result['stopped']]}. Best model: {result['best']['name'] if result['best'] else 'the base'}"
        )
    if engines := result.get("engines"):
        parts.append(
            f"Engines: {_times(engines['starts'], 'start')}, {_times(engines['swaps'], 'change')} of weights in a running one"
        )
    return "\n\n".join(parts)


def _times(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


_STOPPED = {"gate": "the gate failed", "no rows": "no unlabeled rows are left"}


def _iteration(iteration: dict[str, Any]) -> str:
    accuracy = iteration.get("accuracy") or {}
    measured = [[role, *_accuracy(accuracy[role])] for role in ("base", "warm", "evolved") if accuracy.get(role)]
    parts = [f"Iteration {iteration['n']}"]
    if measured:
        parts.append(_indented(table(["model", "accuracy", "95 % interval", "test rows"], measured)))
    gain = (iteration.get("gain") or {}).get("warm_to_evolved")
    if gain:
        low, high = 100 * gain["low"], 100 * gain["high"]
        parts.append(f"  warm to evolved: {100 * gain['value']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}")
    parts += [f"  {line}" for line in _rows(iteration)]
    models = iteration.get("models") or {}
    parts += [f"  {role} model: {_place(models[role])}" for role in ("warm", "evolved") if models.get(role)]
    seconds = iteration.get("seconds") or {}
    if seconds:
        parts.append("  seconds: " + ", ".join(f"{step} {value:.1f}" for step, value in seconds.items()))
        made = sum(value for step, value in seconds.items() if step not in iteration.get("reused", []))
        parts.append(f"  work without what was reused: {duration(made)}")
    if iteration.get("reused"):
        parts.append("  reused: " + ", ".join(iteration["reused"]))
    return "\n".join(parts)


def _accuracy(value: dict[str, Any]) -> list[str]:
    return [f"{100 * value['value']:.1f} %", f"{100 * value['low']:.1f} to {100 * value['high']:.1f}", str(value["n"])]


def _rows(iteration: dict[str, Any]) -> list[str]:
    threshold = iteration.get("threshold")
    cut = f", entropy at most {threshold:.4g} nats per token" if threshold is not None else ""
    lines = [
        f"rows: {iteration.get('labeled')} labeled, {iteration.get('unlabeled')} unlabeled "
        f"({iteration.get('unanimous')} unanimous, {iteration.get('no_answer')} without an answer)",
        f"kept: {iteration.get('selected')}{cut}",
    ]
    right = iteration.get("pseudo_label_accuracy")
    if right is not None:
        lines.append(f"pseudo-labels right: {100 * right:.1f} %")
    if gate := iteration.get("gate"):
        verdict = "passed" if gate["passed"] else "failed, so the best model so far stays"
        lines.append(f"gate: {100 * gate['before']:.1f} to {100 * gate['after']:.1f} % on {gate['n']} held-out rows, {verdict}")
    return lines


def _place(model: dict[str, Any]) -> str:
    return f"{model['name']}  ({model.get('directory') or model['uri']})"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
