"""How sure a reply is, compared with the pseudo-labels that its model learned from."""

from __future__ import annotations

import random

from semievol.algorithm.statistics import percent_at_least, quantile_grid


def test_of_four_values_each_stands_for_a_quarter() -> None:
    """Of 0.1, 0.2, 0.2 and 0.4: all are at least 0.1 and anything lower; three, 75 %, at least 0.2 or 0.15; one, 25 %, 0.4; none more."""
    grid = quantile_grid([0.4, 0.2, 0.1, 0.2])
    shares = {0.0: 100, 0.1: 100, 0.15: 75, 0.2: 75, 0.3: 25, 0.4: 25, 0.5: 0}
    assert {value: percent_at_least(grid, value) for value in shares} == shares


def test_the_percentage_is_the_share_rounded_up() -> None:
    random.seed(7)
    for count in (1, 2, 3, 7, 99, 100, 101, 1000):
        values = [random.random() for _ in range(count)]
        grid = quantile_grid(values)
        assert len(grid) == 101
        assert (grid[0], grid[100]) == (min(values), max(values))
        for value in [*values[:20], 0.0, 0.5, 1.0]:
            at_least = sum(one >= value for one in values)
            assert percent_at_least(grid, value) == -(-100 * at_least // count)


def test_no_values_have_no_grid() -> None:
    assert quantile_grid([]) == ()
