"""Which examples form an update, and how an update's examples share forward passes. Plain lists; no torch.

B  examples of an update = batch_size x gradient_accumulation        n  examples of a forward pass
p  tokens of the prefix that all prompts of an update begin with        L  tokens of the longest rest
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol.algorithm.types import TrainingExample
from semievol.common.chat_format import completion_ids, end_of_turn_id, render
from semievol.common.keys import derive_seed


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as token ids; the loss is on `response`, which ends with the end-of-turn token. `cut`: prompt tokens dropped."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    cut: int = 0

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.response)


def encode(tokenizer: Any, examples: Sequence[TrainingExample], max_tokens: int) -> list[Encoded]:
    """An example over `max_tokens` loses the beginning of its prompt, never its response, unless that alone is too long."""
    end = end_of_turn_id(tokenizer)
    return [
        truncate(render(tokenizer, example.prompt), [*completion_ids(tokenizer, example.completion), end], max_tokens)
        for example in examples
    ]


def truncate(prompt: Sequence[int], response: Sequence[int], max_tokens: int) -> Encoded:
    """At least one prompt token stays, for the first response token to follow."""
    response = response[: max(max_tokens - 1, 1)]
    cut = max(0, min(len(prompt) + len(response) - max_tokens, len(prompt) - 1))
    return Encoded(tuple(prompt[cut:]), tuple(response), cut)


def total_updates(examples: int, epochs: float, update_examples: int) -> int:
    """Every epoch ends with a smaller update where the examples do not divide; a part of an epoch is rounded up to whole updates."""
    return max(1, math.ceil(epochs * math.ceil(examples / update_examples)))


def update_indices(step: int, examples: int, update_examples: int, seed: int) -> list[int]:
    """The examples of update `step` (from 0): a function of its arguments alone, so that a resumed run needs no sampler state (R5)."""
    epoch, position = divmod(step, math.ceil(examples / update_examples))
    order = list(range(examples))
    random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
    return order[position * update_examples : (position + 1) * update_examples]


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass: n examples whose prompts all begin with `prefix`, each given by its rest.

    Packed: one sequence, the prefix once and then the rests, without padding; [p + sum of rests]. Else the rests are padded rows, [n, L],
    and there is no prefix.
    """

    packed: bool
    prefix: tuple[int, ...]
    rests: tuple[Encoded, ...]


def passes(examples: Sequence[Encoded], tokens_per_pass: int, *, packed: bool) -> list[Pass]:
    """An update's examples in as few passes as keep to tokens_per_pass, padding included, like lengths together. The sum of their
    gradients does not depend on the split: each response token's loss sees its own example's tokens only."""
    shared = _common_prefix([example.prompt for example in examples]) if packed and len(examples) > 1 else 0
    groups: list[list[Encoded]] = []
    for example in sorted(examples, key=lambda example: example.tokens):
        if groups and _size([*groups[-1], example], shared, packed=packed) <= tokens_per_pass:
            groups[-1].append(example)
        else:
            groups.append([example])
    return [Pass(packed, group[0].prompt[:shared], tuple(_rest(example, shared) for example in group)) for group in groups]


def _size(group: Sequence[Encoded], shared: int, *, packed: bool) -> int:
    if packed:
        return shared + sum(example.tokens - shared for example in group)
    return len(group) * max(example.tokens for example in group)


def _rest(example: Encoded, shared: int) -> Encoded:
    return Encoded(example.prompt[shared:], example.response)


def _common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all prompts begin with, leaving each at least one of its own."""
    limit = min(map(len, prompts)) - 1
    first = prompts[0]
    for position in range(limit):
        if any(prompt[position] != first[position] for prompt in prompts):
            return position
    return limit
