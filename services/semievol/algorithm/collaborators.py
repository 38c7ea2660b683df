"""Which model configurations answer: Eq. 4 and Sec. 3.3 of the paper, METHOD step 3."""

from __future__ import annotations

import random
from collections import Counter

from semievol.algorithm.types import Collaborator, Weights
from semievol.common.keys import derive_seed


def sample_collaborators(n: int, max_references: int, seed: int, *, in_weight: bool = True) -> tuple[Collaborator, ...]:
    """n configurations from {base, warm} x {0..max_references}, seeded, in a stable order.

    D: without repetition while options last; then all options are used again, with the next sample index. `in_weight=False` (the
    ablation without a warm model) leaves only base.
    """
    weights = [Weights.BASE, Weights.WARM] if in_weight else [Weights.BASE]
    options = [(model, references) for model in weights for references in range(max_references + 1)]
    rng = random.Random(derive_seed(seed, "collaborators"))
    chosen: list[tuple[Weights, int]] = []
    while len(chosen) < n:
        chosen += rng.sample(options, min(n - len(chosen), len(options)))
    return numbered(chosen)


def numbered(configurations: list[tuple[Weights, int]]) -> tuple[Collaborator, ...]:
    """Collaborators of given configurations in a stable order; a repeated configuration gets the next sample index."""
    seen: Counter[tuple[Weights, int]] = Counter()
    collaborators = []
    for model, references in sorted(configurations):
        collaborators.append(Collaborator(model, references, seen[model, references]))
        seen[model, references] += 1
    return tuple(collaborators)
