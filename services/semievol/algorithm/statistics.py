"""Intervals for small test sets: every accuracy with its own, every comparison paired by question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from semievol.algorithm.answers import canonical_answer, equal
from semievol.algorithm.types import Answer, Row, Task, Verdict
from semievol.common.keys import derive_seed

Z_95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
_RESAMPLES = 10_000


def wilson(correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share, within 0..1. (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    share = correct / n
    centre = share + Z_95**2 / (2 * n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + Z_95**2 / (4 * n * n))
    scale = 1 + Z_95**2 / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def paired_gain(before: Sequence[bool], after: Sequence[bool], seed: int) -> tuple[float, float, float]:
    """(gain, low, high): mean of after - before on the same questions with its 95 % percentile-bootstrap interval, seeded.

    Raises ValueError if the two differ in length or are empty.
    """
    if len(before) != len(after) or not before:
        raise ValueError("A paired comparison needs the same questions on both sides, and at least one.")
    difference = np.asarray(after, dtype=np.int8) - np.asarray(before, dtype=np.int8)
    n = len(difference)
    # Resampling n differences is a multinomial draw over how many are +1, 0 and -1: equal in law, and a thousand times smaller.
    counts = np.array([(difference == value).sum() for value in (1, 0, -1)])
    draws = np.random.default_rng(derive_seed(seed, "paired bootstrap")).multinomial(n, counts / n, size=_RESAMPLES)
    low, high = np.percentile((draws[:, 0] - draws[:, 2]) / n, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def pseudo_label_accuracy(
    selected: Sequence[str], verdicts: Mapping[str, Verdict], gold: Mapping[str, str], rows: Mapping[str, Row], task: Task
) -> float | None:
    """Share of the selected rows whose pseudo-label is right, 0..1; None unless true answers (`gold`, by row id) are known (trap 6)."""
    flags = []
    for row_id in selected:
        answer, true = verdicts[row_id].answer, canonical_answer(gold.get(row_id, ""), rows[row_id], task)
        if true is not None and isinstance(answer, Answer):
            flags.append(equal(answer, true, task))
    return sum(flags) / len(flags) if flags else None


def quantile_grid(values: Sequence[float]) -> tuple[float, ...]:
    """[101]: the smallest value that at least k percent of the values do not exceed, k = 0..100 (0: the smallest one). Empty for no values."""
    ordered = sorted(values)
    return tuple(ordered[max(0, -(-k * len(ordered) // 100) - 1)] for k in range(101)) if ordered else ()


def percent_at_least(grid: Sequence[float], value: float) -> float:
    """Percent of the values behind a `quantile_grid` that are at least as high as `value`, rounded up to a whole one, 0..100.

    Of n values let m be lower. The k-th quantile is at least `value` exactly if more than m values are needed for k percent, k n / 100 > m,
    which 100 - floor(100 m / n) of k = 1..100 fulfil."""
    return float(sum(one >= value for one in grid[1:]))
