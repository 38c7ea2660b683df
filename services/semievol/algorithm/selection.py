"""Entropy (Eq. 6) and adaptive selection (Eq. 7-8)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from semievol.algorithm.types import Reason, Selection
from semievol.common import errors


def entropy(token_logprobs: Sequence[float]) -> float:
    """Eq. 6: H(y) = -(1/L) sum_k log P(r_k | t, r_<k), nats per token. NaN for an empty response: it has no entropy (trap 2)."""
    if not token_logprobs:
        return math.nan
    return -math.fsum(token_logprobs) / len(token_logprobs)


def threshold(entropies: Sequence[float], theta: float) -> float | None:
    """Eq. 7: tau = Percentile_theta over the finite entropies, by linear interpolation (D7). None where there is none."""
    finite = [value for value in entropies if math.isfinite(value)]
    return float(np.percentile(np.asarray(finite, dtype=np.float64), theta)) if finite else None


def select(
    entropies: Mapping[str, float | None], theta: float, *, threshold_entropies: Sequence[float] | None = None
) -> Selection:
    """Eq. 8: keep H <= tau, over all rows alike, unanimous or judged (trap 3).

    `entropies`: row id -> H in nats per token, None where the row has no answer. A row without a finite H is excluded and says so
    (trap 2). `threshold_entropies`, unless empty, replaces the rows' own as tau's population (D7, `threshold_reference: labeled`).
    Raises InvalidInput (theta outside 0..100; `threshold_entropies` without a finite one, which would drop every row).
    """
    if not 0 <= theta <= 100:
        raise errors.InvalidInput(f"theta is a percentile from 0 to 100, not {theta:g}.", field="theta")
    if threshold_entropies and not any(map(math.isfinite, threshold_entropies)):
        raise errors.InvalidInput(
            "None of the labeled rows has a finite entropy to take the percentile of.", field="threshold_entropies"
        )
    tau = threshold(threshold_entropies or [value for value in entropies.values() if value is not None], theta)

    def fate(value: float | None) -> Reason:
        if value is None:
            return Reason.NO_ANSWER
        if not math.isfinite(value):
            return Reason.NO_ENTROPY
        return Reason.KEPT if tau is not None and value <= tau else Reason.ABOVE_THRESHOLD

    return Selection(tau, {row_id: fate(value) for row_id, value in entropies.items()})
