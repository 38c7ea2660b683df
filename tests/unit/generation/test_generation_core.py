"""Rules of generation without any model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.generation.backends.batches import shared_prefix
from semievol.generation.backends.fake import FakeEngine
from semievol.generation.core import cut_at_stop, length_batches
from semievol.ports import BASE_MODEL, Prompt, Sampling


@given(st.lists(st.integers(0, 300)), st.integers(1, 1000))
def test_batches_hold_every_index_once_and_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(length_batches(lengths, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_the_longest_come_first_and_like_lengths_together() -> None:
    assert list(length_batches([5, 100, 6, 90], 200)) == [[1, 3], [2, 0]]


def test_the_first_stop_string_counts() -> None:
    assert cut_at_stop("one two three", ("three", "two")) == 4
    assert cut_at_stop("one", ("two",)) is None
    assert cut_at_stop("one", ()) is None


def test_a_prefix_is_shared_only_where_it_is_worth_a_pass() -> None:
    long = list(range(40))
    assert shared_prefix([[*long, 1], [*long, 2, 3]], [40, 41]) == 40
    assert shared_prefix([long, long], [39, 39]) == 39  # the last token stays: something must be predicted from
    assert shared_prefix([[*long, 1], [*long, 1], [7, *long]], [40, 40, 40]) == 0
    assert shared_prefix([[1, 2, 3], [1, 2, 4]], [2, 2]) == 0
    assert shared_prefix([long], [39]) == 0


def _ask(text: str) -> Prompt:
    return Prompt("a", (Message("user", text),))


def test_the_fake_says_what_its_script_says() -> None:
    engine = FakeEngine(lambda model, messages, seed: f"{model} {messages[-1].content} {seed}")
    (generation,) = engine.generate(BASE_MODEL, [Prompt("a", (Message("user", "hi"),), (7,))], Sampling(temperature=1.0))
    assert generation.completions[0].text == "base hi 7"
    assert generation.completions[0].tokens == ("base", " hi", " 7")


def test_the_fake_falls_silent_for_a_share_of_the_prompts() -> None:
    engine = FakeEngine(empty_share=0.3)
    generations = engine.generate(BASE_MODEL, [_ask(f"question {i}") for i in range(400)], Sampling())
    share = sum(not one.completions[0].text for one in generations) / 400
    assert share == pytest.approx(0.3, abs=0.07)  # three standard deviations of a binomial share


def test_the_fake_breaks_down_when_told_to() -> None:
    engine = FakeEngine(fails_after=1)
    engine.generate(BASE_MODEL, [_ask("a")], Sampling())
    with pytest.raises(errors.Unavailable):
        engine.generate(BASE_MODEL, [_ask("a")], Sampling())
