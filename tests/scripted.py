"""A generator and scorer whose replies a test writes itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from semievol.common import errors
from semievol.ports import (
    BASE_MODEL,
    NEVER,
    Cancel,
    ChatDelta,
    Completion,
    FinishReason,
    Generation,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
)

TOKEN_LOGPROB = -0.5  # of every token; a token is a word


class ScriptedGenerator:
    """Implements Generator and Scorer. `reply(prompt)` is the text; `calls` are (model, prompts, sampling) as they came."""

    def __init__(
        self,
        reply: Callable[[Prompt], str] = lambda prompt: "Answer: A",
        *,
        models: Sequence[str] = (BASE_MODEL, "warm"),
        finish_reason: FinishReason = FinishReason.STOP,
    ) -> None:
        self._reply = reply
        self._models = models
        self._finish_reason = finish_reason
        self.calls: list[tuple[str, list[Prompt], Sampling]] = []
        self.scored: list[tuple[str, list[ScoreRequest]]] = []

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        self._check(model, cancel)
        self.calls.append((model, list(prompts), sampling))
        return [Generation(prompt.id, tuple(self._samples(prompt, sampling.n)), 1) for prompt in prompts]

    def _samples(self, prompt: Prompt, n: int) -> Iterator[Completion]:
        """As any backend: a sample depends on its own seed."""
        for index in range(n):
            yield self._completion(self._reply(replace(prompt, seeds=prompt.seeds[index : index + 1])))

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        self._check(model, cancel)
        yield ChatDelta(self._reply(prompt), finish_reason=self._finish_reason)

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        self._check(model, cancel)
        self.scored.append((model, list(requests)))
        return [Score(one.id, tuple(one.response.split()), (TOKEN_LOGPROB,) * len(one.response.split())) for one in requests]

    def _completion(self, text: str) -> Completion:
        tokens = tuple(text.split())
        return Completion(text, tokens, (TOKEN_LOGPROB,) * len(tokens), self._finish_reason)

    def _check(self, model: str, cancel: Cancel) -> None:
        if model not in self._models:
            raise errors.NotFound(f"There is no model {model!r}; there are: {', '.join(self._models)}.")
        if cancel.is_set():
            raise errors.Cancelled("Generation was cancelled.")
