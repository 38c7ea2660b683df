"""Eq. 6-8 with figures worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semievol.algorithm.selection import entropy, select, threshold
from semievol.algorithm.types import Reason
from semievol.common import errors


def test_entropy_is_the_mean_negative_log_probability_in_nats() -> None:
    """P = 1/2, 1/4, 1/8: -(ln 1/2 + ln 1/4 + ln 1/8) / 3 = (1 + 2 + 3) ln 2 / 3 = 2 ln 2."""
    assert entropy([math.log(1 / 2), math.log(1 / 4), math.log(1 / 8)]) == pytest.approx(2 * math.log(2))


def test_a_certain_response_has_entropy_zero_and_an_empty_one_none() -> None:
    assert entropy([0.0, 0.0]) == 0.0
    assert math.isnan(entropy([]))


@pytest.mark.parametrize(
    ("theta", "tau"),
    [
        (0, 1.0),
        (25, 1.75),  # position 0.25 * 3 = 0.75 between 1 and 2
        (50, 2.5),  # position 1.5: halfway between 2 and 3
        (90, 7.9),  # position 2.7: 3 + 0.7 * (10 - 3)
        (100, 10.0),
    ],
)
def test_the_threshold_interpolates_linearly(theta: float, tau: float) -> None:
    """Of n sorted values, the theta-th percentile lies at position theta / 100 * (n - 1), counted from 0; here they are 1, 2, 3, 10."""
    assert threshold([10.0, 3.0, 1.0, 2.0], theta) == pytest.approx(tau)


def test_rows_at_the_threshold_stay() -> None:
    selection = select({"a": 1.0, "b": 1.0, "c": 1.0}, 10)
    assert selection.selected == ("a", "b", "c")


def test_theta_100_keeps_every_row_with_an_entropy() -> None:
    """The ablation without adaptive selection."""
    selection = select({"a": 0.1, "b": 99.0, "c": None, "d": math.nan}, 100)
    assert selection.selected == ("a", "b")


def test_the_labeled_reference_moves_the_cut_not_the_rows() -> None:
    """Labeled H = 1, 2, 3: tau = 2, whatever the unlabeled rows' own median (7) is."""
    selection = select({"a": 1.5, "b": 7.0, "c": 8.0}, 50, threshold_entropies=[1.0, 2.0, 3.0])
    assert (selection.threshold, selection.selected) == (2.0, ("a",))


def test_the_selected_rows_are_in_row_id_order() -> None:
    assert select({"c": 1.0, "a": 1.0, "b": 1.0}, 50).selected == ("a", "b", "c")


@pytest.mark.parametrize("theta", [-1, 101, math.nan, math.inf])
def test_theta_outside_of_0_to_100_is_refused(theta: float) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        select({"a": 1.0}, theta)
    assert caught.value.field == "theta"


row_entropies = st.dictionaries(
    st.text("abc123", min_size=1), st.none() | st.floats(0, 1e6) | st.just(math.nan) | st.just(math.inf)
)
thetas = st.floats(0, 100)


@given(row_entropies, thetas, thetas)
def test_a_higher_theta_keeps_all_that_a_lower_one_keeps(entropies: dict[str, float | None], a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert set(select(entropies, low).selected) <= set(select(entropies, high).selected)


@given(row_entropies, thetas)
def test_every_row_has_a_fate_and_only_finite_entropies_are_kept(entropies: dict[str, float | None], theta: float) -> None:
    selection = select(entropies, theta)
    assert list(selection.reasons) == list(entropies)
    for row_id, value in entropies.items():
        reason = selection.reasons[row_id]
        if value is None:
            assert reason is Reason.NO_ANSWER
        elif not math.isfinite(value):
            assert reason is Reason.NO_ENTROPY
        else:
            assert selection.threshold is not None
            assert (reason is Reason.KEPT) == (value <= selection.threshold)


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0, 1e6), min_size=1), thetas)
def test_at_least_theta_percent_of_the_rows_are_kept(entropies: dict[str, float | None], theta: float) -> None:
    """Linear interpolation keeps floor(theta / 100 * (n - 1)) + 1 rows, or more where entropies are equal."""
    kept = len(select(entropies, theta).selected)
    assert kept >= math.floor(theta / 100 * (len(entropies) - 1)) + 1 or math.isclose(
        theta / 100 * (len(entropies) - 1) % 1, 1, abs_tol=1e-9
    )
