"""A test double: replies by a function, log-probabilities by a hash, faults on demand. No model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.common.artifacts import Artifacts
from semievol.common.keys import derive_seed, sha256_hex
from semievol.generation import core
from semievol.generation.adapters import Adapters
from semievol.ports import (
    BASE_MODEL,
    NEVER,
    Cancel,
    ChatDelta,
    Completion,
    FinishReason,
    Generation,
    ModelInfo,
    Prompt,
    Sampling,
    Score,
    ScoreRequest,
    TokenLogprob,
)

Script = Callable[[str, Sequence[Message], int], str]
"""(model, messages, seed) -> reply; the seed is 0 for greedy and unseeded replies. A raw prompt comes as a user's message."""

_TOKEN = re.compile(r"\s*\S+|\s+$")
_UNIT = 2.0**63


def default_script(model: str, messages: Sequence[Message], seed: int) -> str:
    """`Answer: LETTER`, A to D by a hash of everything."""
    return f"Answer: {'ABCD'[derive_seed(model, messages[-1].content, seed) % 4]}"


class FakeEngine:
    """A token is a word with the white space before it. Same call, same result, on any machine.

    `empty_share`: share of the prompts, by a hash of their text, that get an empty reply. `fails_after`: calls of generate, chat and
    score that succeed before all others raise Unavailable; None: all succeed.
    """

    def __init__(
        self,
        script: Script = default_script,
        *,
        artifacts: Artifacts | None = None,
        cache: Path = Path("cache"),
        base: str = "fake",
        max_model_tokens: int = 4096,
        empty_share: float = 0.0,
        fails_after: int | None = None,
    ) -> None:
        self._script = script
        self._adapters = Adapters(artifacts, cache / "adapters", base)
        self._base = ModelInfo(
            BASE_MODEL, base, sha256_hex(f"fake {base}".encode()), max_model_tokens=max_model_tokens, engine="fake"
        )
        self._empty_share = empty_share
        self._calls_left = fails_after

    def generate(self, model: str, prompts: Sequence[Prompt], sampling: Sampling, *, cancel: Cancel = NEVER) -> list[Generation]:
        core.check_prompts(prompts, sampling)
        self._start(model)
        for i, prompt in enumerate(prompts):
            self._check_length(_conversation(prompt), 1, prompt.id, f"prompts[{i}]")
        generations = []
        for prompt in prompts:
            core.check_cancel(cancel)
            seeds = prompt.seeds if prompt.seeds and sampling.temperature > 0 else tuple(range(sampling.n))
            completions = tuple(self._complete(model, prompt, seed, sampling) for seed in seeds)
            generations.append(Generation(prompt.id, completions, _count(_conversation(prompt))))
        return generations

    def chat(self, model: str, prompt: Prompt, sampling: Sampling, *, cancel: Cancel = NEVER) -> Iterator[ChatDelta]:
        core.check_chat(prompt, sampling)
        self._start(model)
        self._check_length(_conversation(prompt), 1, prompt.id, "prompt")
        seed = prompt.seeds[0] if prompt.seeds and sampling.temperature > 0 else 0
        completion = self._complete(model, prompt, seed, sampling)
        for place, (token, logprob) in enumerate(zip(completion.tokens, completion.token_logprobs, strict=True)):
            core.check_cancel(cancel)
            yield ChatDelta(token, (token,), (logprob,), top_logprobs=completion.top_logprobs[place : place + 1])
        yield ChatDelta("", finish_reason=completion.finish_reason, prompt_tokens=_count(_conversation(prompt)))

    def score(self, model: str, requests: Sequence[ScoreRequest], *, cancel: Cancel = NEVER) -> list[Score]:
        core.check_score(requests)
        self._start(model)
        for i, request in enumerate(requests):
            self._check_length(request.messages, len(_words(request.response)), request.id, f"items[{i}]")
        core.check_cancel(cancel)
        return [Score(one.id, tokens := _words(one.response), _logprobs(model, one.messages, tokens)) for one in requests]

    def models(self) -> list[ModelInfo]:
        return [self._base, *(core.adapter_info(self._base, adapter) for adapter in self._adapters.all())]

    def load_adapter(self, name: str, uri: str) -> ModelInfo:
        adapter = self._adapters.open(name, uri)
        self._adapters.add(adapter)
        return core.adapter_info(self._base, adapter)

    def unload_adapter(self, name: str) -> None:
        self._adapters.remove(name)

    def _start(self, model: str) -> None:
        core.find_model(self.models(), model)
        if self._calls_left is not None:
            if self._calls_left <= 0:
                raise errors.Unavailable("The fake engine is out of order, as it was told to be.")
            self._calls_left -= 1

    def _check_length(self, messages: Sequence[Message], reply_tokens: int, prompt_id: str, field: str) -> None:
        core.check_length(_count(messages), reply_tokens, self._base.max_model_tokens, prompt_id, field)

    def _complete(self, model: str, prompt: Prompt, seed: int, sampling: Sampling) -> Completion:
        messages = _conversation(prompt)
        text = self._script(model, messages, seed)
        if derive_seed("empty", messages[-1].content) / _UNIT < self._empty_share:
            text = ""
        at = core.cut_at_stop(text, sampling.stop)
        tokens = _words(text if at is None else text[:at])
        cut = len(tokens) > sampling.max_tokens
        tokens = tokens[: sampling.max_tokens]
        logprobs = _logprobs(model, messages, tokens)
        reason = FinishReason.LENGTH if cut else FinishReason.STOP
        asked = sampling.top_logprobs
        tops = tuple(_likeliest(*one, asked) for one in zip(tokens, logprobs, strict=True)) if asked else ()
        return Completion("".join(tokens), tokens, logprobs, reason, tops)


def _conversation(prompt: Prompt) -> tuple[Message, ...]:
    return prompt.messages if prompt.text is None else (Message("user", prompt.text),)


def _words(text: str) -> tuple[str, ...]:
    return tuple(_TOKEN.findall(text))


def _count(messages: Sequence[Message]) -> int:
    return sum(1 + len(_words(message.content)) for message in messages)


def _logprobs(model: str, messages: Sequence[Message], tokens: Sequence[str]) -> tuple[float, ...]:
    """Of each token after the prompt and the tokens before it, in [-3, 0)."""
    conversation = "\0".join(f"{message.role}\0{message.content}" for message in messages)
    return tuple(
        -3 * (1 - derive_seed(model, conversation, "".join(tokens[:k]), token) / _UNIT) for k, token in enumerate(tokens)
    )


def _likeliest(token: str, logprob: float, count: int) -> tuple[TokenLogprob, ...]:
    """The token itself, then made-up ones, each half as likely as the one before; together at most certain."""
    largest = min(math.exp(logprob), -math.expm1(logprob))
    others = (TokenLogprob(f"{token}-{k}", math.log(largest) - k * math.log(2)) for k in range(1, count))
    return (TokenLogprob(token, logprob), *others)
