"""Choosing tokens: the distribution, the seeds, and what is recorded. Four tokens suffice; no model is loaded."""

from __future__ import annotations

import math
import threading

import pytest
from semievol.generation.backends.sampling import Picker, Watch
from semievol.ports import NEVER, Sampling

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.models

P = [0.5, 0.3, 0.15, 0.05]
DRAWS = 4000


def _logits(rows: int, shift: float = 0.0) -> torch.Tensor:
    return torch.tensor(P).log().repeat(rows, 1) + shift


def _share(tokens: list[list[int]]) -> list[float]:
    return [sum(row[0] == token for row in tokens) / len(tokens) for token in range(4)]


def _chi_square(share: list[float], expected: list[float]) -> float:
    return sum(DRAWS * (s - e) ** 2 / e for s, e in zip(share, expected, strict=True) if e)


def test_samples_follow_the_models_own_distribution() -> None:
    """Chi-square with 3 degrees of freedom exceeds 16.3 once in a thousand draws; the seeds are fixed, so this never flickers."""
    picker = Picker(range(DRAWS), Sampling(temperature=1.0))
    picker(None, _logits(DRAWS, shift=3.0))
    assert _chi_square(_share(picker.tokens), P) < 16.3


def test_temperature_sharpens_and_logprobs_stay_raw() -> None:
    """At temperature 0.5 probabilities are squared: 0.25, 0.09, 0.0225, 0.0025, together 0.365."""
    picker = Picker(range(DRAWS), Sampling(temperature=0.5))
    picker(None, _logits(DRAWS))
    assert _chi_square(_share(picker.tokens), [p * p / 0.365 for p in P]) < 16.3
    for (token,), (logprob,) in zip(picker.tokens, picker.logprobs, strict=True):
        assert logprob == pytest.approx(math.log(P[token]), abs=1e-5)


def test_top_p_keeps_the_smallest_set_with_that_mass() -> None:
    """0.5 + 0.3 reaches 0.7, so the two likeliest stay, as 0.625 and 0.375."""
    picker = Picker(range(DRAWS), Sampling(temperature=1.0, top_p=0.7))
    picker(None, _logits(DRAWS))
    share = _share(picker.tokens)
    assert share[2] == share[3] == 0
    assert _chi_square(share[:2], [0.625, 0.375]) < 10.8  # one degree of freedom, once in a thousand


def test_a_rows_choices_follow_its_seed_wherever_it_stands() -> None:
    first, second = Picker([1, 2, 3], Sampling(temperature=1.0)), Picker([3, 1], Sampling(temperature=1.0))
    for _ in range(20):
        first(None, _logits(3))
        second(None, _logits(2))
    assert first.tokens[2] == second.tokens[0]
    assert first.tokens[0] == second.tokens[1]
    assert first.tokens[0] != first.tokens[1]


def test_greedy_takes_the_likeliest_and_its_choice_wins() -> None:
    picker = Picker([None, None], Sampling())
    scores = picker(None, _logits(2).flip(-1))
    assert picker.tokens == [[3], [3]]
    assert scores.argmax(-1).tolist() == [3, 3]


def test_rows_end_at_their_limit_or_stop_string_and_all_when_cancelled() -> None:
    picker, cancel = Picker([0, 0, 0], Sampling()), threading.Event()
    picker.tokens = [[1], [1, 2], [5]]
    watch = Watch(picker, [2, 2, 2], ("stop",), lambda ids: "please stop" if ids == [5] else "go on", cancel)
    assert watch(torch.zeros(3, 1), None).tolist() == [False, True, True]
    cancel.set()
    assert watch(torch.zeros(3, 1), None).tolist() == [True, True, True]
    assert not Watch(picker, [2, 2, 2], (), str, NEVER)(torch.zeros(3, 1), None)[0]


def test_a_temperature_near_0_is_greedy() -> None:
    picker = Picker([1], Sampling(temperature=1e-40))
    picker(None, _logits(1))
    assert (picker.tokens[0][0], picker.logprobs[0][0]) == (0, pytest.approx(math.log(0.5)))
