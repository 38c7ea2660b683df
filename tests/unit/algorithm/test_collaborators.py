"""Which configurations answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semievol.algorithm.collaborators import numbered, sample_collaborators
from semievol.algorithm.types import Collaborator, Weights

EIGHT = {(model, references) for model in Weights for references in range(4)}


def configurations(collaborators: tuple[Collaborator, ...]) -> list[tuple[Weights, int]]:
    return [(one.model, one.references) for one in collaborators]


def test_four_of_the_eight_configurations_without_repetition() -> None:
    chosen = configurations(sample_collaborators(4, 3, seed=0))
    assert len(set(chosen)) == 4
    assert set(chosen) <= EIGHT


def test_the_seed_decides_and_all_eight_configurations_come_up() -> None:
    assert sample_collaborators(4, 3, seed=1) == sample_collaborators(4, 3, seed=1)
    drawn = [sample_collaborators(4, 3, seed=seed) for seed in range(40)]
    assert len(set(drawn)) > 10
    assert {one for collaborators in drawn for one in configurations(collaborators)} == EIGHT


@given(st.integers(1, 64), st.integers(0, 5), st.integers(0, 2**63 - 1), st.booleans())
def test_configurations_repeat_only_when_all_are_used_and_then_evenly(
    n: int, references: int, seed: int, in_weight: bool
) -> None:
    collaborators = sample_collaborators(n, references, seed, in_weight=in_weight)
    options = (references + 1) * (2 if in_weight else 1)
    counts = [configurations(collaborators).count(one) for one in set(configurations(collaborators))]
    assert len(collaborators) == n
    assert len(counts) == min(n, options)
    assert max(counts) - min(counts) <= 1
    assert list(collaborators) == sorted(collaborators)
    assert len({one.name for one in collaborators}) == n


def test_repetitions_are_numbered() -> None:
    """Nine of eight: each configuration once, and one of them once more as its sample 1."""
    collaborators = sample_collaborators(9, 3, seed=0)
    assert set(configurations(collaborators)) == EIGHT
    (again,) = [one for one in collaborators if one.sample]
    assert again.sample == 1
    assert again.name == f"{again.configuration}-s1"


def test_given_configurations_are_numbered_in_a_stable_order() -> None:
    given_ = [(Weights.WARM, 0), (Weights.BASE, 2), (Weights.WARM, 0)]
    assert [one.name for one in numbered(given_)] == ["base-2", "warm-0", "warm-0-s1"]
    assert numbered(given_) == numbered(given_[::-1])


@pytest.mark.parametrize(
    ("references", "in_weight", "expected"),
    [
        (3, False, {(Weights.BASE, references) for references in range(4)}),  # no in-weight propagation
        (0, True, {(Weights.BASE, 0), (Weights.WARM, 0)}),  # no in-context propagation
        (0, False, {(Weights.BASE, 0)}),
    ],
)
def test_ablations_leave_fewer_configurations(references: int, in_weight: bool, expected: set[tuple[Weights, int]]) -> None:
    assert set(configurations(sample_collaborators(4, references, seed=0, in_weight=in_weight))) == expected


def test_one_collaborator_is_the_ablation_without_collaborative_learning() -> None:
    assert len(sample_collaborators(1, 3, seed=0)) == 1
