"""Choosing tokens inside transformers' own `generate`: seeded per row, with raw log-probabilities, and told when to stop.

    B  rows of a batch        V  vocabulary

`Picker` stands in the list of logits processors, `Watch` in that of stopping criteria; `generate` itself decodes greedily what
`Picker` has chosen. So the loop, the cache and the attention masks stay the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from semievol.generation.core import cut_at_stop
from semievol.ports import GREEDY_BELOW, Cancel, Sampling

Likely = list[tuple[int, float]]
"""(token id, raw log-probability) of the likeliest tokens at one place, likeliest first."""

OnToken = Callable[[int, float, Likely], None]
"""(token id, raw log-probability, likeliest tokens if asked for) of the first row, as it is chosen; for streams."""


class Picker:
    """Chooses one token per row and step, and records it with its log-probability before temperature and top_p (nats).

    A row's choices depend on its logits and its seed alone: one uniform number per step from the row's own generator, through the
    inverse of the cumulative distribution. `seeds` [B]: None draws a fresh seed.
    """

    def __init__(self, seeds: Sequence[int | None], sampling: Sampling, on_token: OnToken | None = None) -> None:
        self._draws = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._top_logprobs = sampling.top_logprobs
        self._on_token = on_token
        self.tokens: list[list[int]] = [[] for _ in seeds]
        self.logprobs: list[list[float]] = [[] for _ in seeds]
        self.tops: list[list[Likely]] = [[] for _ in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """[B, V] float32 logits -> the same with the chosen token's made the largest."""
        chosen = scores.argmax(-1) if self._temperature < GREEDY_BELOW else self._sample(scores)
        total = scores.logsumexp(-1)
        picked = scores.gather(1, chosen[:, None])[:, 0] - total
        if self._top_logprobs:
            self._record_likeliest(scores, total)
        for row, (token, logprob) in enumerate(zip(chosen.tolist(), picked.tolist(), strict=True)):
            self.tokens[row].append(token)
            self.logprobs[row].append(logprob)
        if self._on_token:
            self._on_token(self.tokens[0][-1], self.logprobs[0][-1], self.tops[0][-1] if self._top_logprobs else [])
        return scores.scatter(1, chosen[:, None], float("inf"))

    def _record_likeliest(self, scores: Any, total: Any) -> None:
        """[B, V] logits and [B], the logarithms of their sums."""
        values, tokens = scores.topk(min(self._top_logprobs, scores.shape[1]), dim=-1)
        values = (values - total[:, None]).tolist()
        for row, (ids, logprobs) in enumerate(zip(tokens.tolist(), values, strict=True)):
            self.tops[row].append(list(zip(ids, logprobs, strict=True)))

    def _sample(self, scores: Any) -> Any:
        import torch

        uniform = torch.tensor([[draw.random()] for draw in self._draws], dtype=torch.float64, device=scores.device)
        probabilities = (scores / self._temperature).softmax(-1)
        if self._top_p == 1:
            return _inverse(probabilities, uniform)
        ordered, tokens = probabilities.sort(stable=True, dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # mass of the likelier tokens
        ordered = ordered.masked_fill(before >= self._top_p, 0)
        return tokens.gather(1, _inverse(ordered, uniform)[:, None])[:, 0]


def _inverse(probabilities: Any, uniform: Any) -> Any:
    """[B, V] masses and [B, 1] numbers in [0, 1) -> [B]: the first token whose cumulative mass exceeds its number's share."""
    import torch

    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # float32 would misplace the tail of a large vocabulary
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)[:, 0].clamp_(max=probabilities.shape[1] - 1)


class Watch:
    """Ends rows: at a stop string, at their own `limits` (tokens, [B]), and all of them when cancelled."""

    def __init__(
        self, picker: Picker, limits: Sequence[int], stop: Sequence[str], decode: Callable[[Sequence[int]], str], cancel: Cancel
    ) -> None:
        self._picker = picker
        self._limits = limits
        self._stop = stop
        self._decode = decode
        self._cancel = cancel

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """[B] bool: which rows are done."""
        import torch

        if self._cancel.is_set():
            done = [True] * len(self._limits)
        else:
            rows = zip(self._picker.tokens, self._limits, strict=True)
            done = [len(tokens) >= limit or self._stopped(tokens) for tokens, limit in rows]
        return torch.tensor(done, device=input_ids.device)

    def _stopped(self, tokens: Sequence[int]) -> bool:
        return bool(self._stop) and cut_at_stop(self._decode(tokens), self._stop) is not None
