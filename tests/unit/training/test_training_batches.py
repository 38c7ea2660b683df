"""Updates and passes as plain lists."""

from __future__ import annotations

import pytest
from semievol.training.batches import Encoded, passes, total_updates, truncate, update_indices


def test_an_example_that_is_too_long_loses_the_beginning_of_its_prompt() -> None:
    assert truncate([1, 2, 3, 4], [8, 9], 4) == Encoded((3, 4), (8, 9), cut=2)


def test_a_response_that_is_too_long_by_itself_keeps_its_beginning_and_one_prompt_token() -> None:
    assert truncate([1, 2], [5, 6, 7, 8], 3) == Encoded((2,), (5, 6), cut=1)


def test_an_example_that_fits_is_left_alone() -> None:
    assert truncate([1, 2], [5], 3) == Encoded((1, 2), (5,), cut=0)


@pytest.mark.parametrize(
    ("examples", "epochs", "expected"),
    [(16, 2, 4), (17, 2, 6), (3, 1, 1), (16, 0.5, 1), (16, 0.01, 1), (20, 2.5, 8)],
)
def test_updates_are_whole_ones_and_an_epoch_may_end_with_a_small_one(examples: int, epochs: float, expected: int) -> None:
    assert total_updates(examples, epochs, 8) == expected


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own() -> None:
    def epoch(number: int, seed: int = 0) -> list[int]:
        return [index for step in range(3) for index in update_indices(3 * number + step, 20, 8, seed)]

    assert sorted(epoch(0)) == sorted(epoch(1)) == list(range(20))
    assert epoch(0) != epoch(1)
    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(0, seed=1)


def examples_of(*lengths: int) -> list[Encoded]:
    """Prompts that share their first ten tokens."""
    return [Encoded((*range(10), *range(100 * i, 100 * i + length)), (7, 2)) for i, length in enumerate(lengths, start=1)]


def test_a_padded_pass_holds_no_more_tokens_than_allowed() -> None:
    made = passes(examples_of(30, 5, 31, 6), 90, packed=False)
    assert [len(one.rests) for one in made] == [2, 2]
    assert all(len(one.rests) * max(rest.tokens for rest in one.rests) <= 90 for one in made)
    assert all(one.prefix == () for one in made)


def test_a_packed_pass_counts_the_shared_prefix_once() -> None:
    made = passes(examples_of(30, 5, 31, 6), 57, packed=True)
    assert [len(one.rests) for one in made] == [3, 1]
    assert len(made[0].prefix) + sum(rest.tokens for rest in made[0].rests) == 10 + (5 + 6 + 30) + 3 * 2


@pytest.mark.parametrize("packed", [False, True])
def test_an_example_over_the_limit_has_a_pass_of_its_own(packed: bool) -> None:
    assert [len(one.rests) for one in passes(examples_of(500, 3), 90, packed=packed)] == [1, 1]


def test_a_shared_prefix_is_taken_out_once() -> None:
    (one,) = passes(examples_of(30, 5), 1000, packed=True)
    assert one.prefix == tuple(range(10))
    assert [rest.prompt for rest in one.rests] == [tuple(range(200, 205)), tuple(range(100, 130))]


def test_equal_prompts_keep_one_token_each() -> None:
    twins = [Encoded(tuple(range(12)), (response,)) for response in (5, 6)]
    (one,) = passes(twins, 1000, packed=True)
    assert one.prefix == tuple(range(11))
    assert [rest.prompt for rest in one.rests] == [(11,), (11,)]
