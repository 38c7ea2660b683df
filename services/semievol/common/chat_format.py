"""Messages -> token ids, in one way for training, generation and scoring.

A conversation is the rendered prompt (with the opening of the assistant's turn), then the response tokenised on its own, then the
end-of-turn token. Because prompt and response are tokenised apart, the boundary between them is the same whether the model wrote
the response, is scored on it or is trained on it.

A tokenizer without a chat template gets one line `role: text` per message and a final line `assistant:`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol.algorithm.types import Message
from semievol.common import errors


def render(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Prompt ids, the opening of the assistant's turn included. `tokenizer` is a transformers tokenizer.

    Raises InvalidInput if the model's chat template refuses the messages (some know no system message).
    """
    marks = _marks(tokenizer)
    turns = [{"role": message.role, "content": _defused(message.content, marks)} for message in messages]
    if not tokenizer.chat_template:
        lines = [f"{turn['role']}: {turn['content']}\n" for turn in turns]
        return list(tokenizer("".join(lines) + "assistant:\n")["input_ids"])
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except TemplateError as error:
        raise errors.InvalidInput(f"The model's chat template refuses these messages: {error}.", field="messages") from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def raw_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a raw prompt as the tokenizer reads it: with whatever it puts first, control tokens in it as such.

    Raises InvalidInput for a text of which the tokenizer sees nothing."""
    ids = list(tokenizer(text)["input_ids"])
    if not ids:
        raise errors.InvalidInput("The raw text holds no token.", field="text")
    return ids


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a response as they follow a rendered prompt, without the end-of-turn token; empty for an empty text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def end_of_turn_id(tokenizer: Any) -> int:
    """The token that ends a response. Raises InvalidInput for a tokenizer without one."""
    if tokenizer.eos_token_id is None:
        raise errors.InvalidInput("The model's tokenizer has no end-of-sequence token, so replies could not end.", field="model")
    return int(tokenizer.eos_token_id)


def _marks(tokenizer: Any) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _defused(content: str, marks: Sequence[str]) -> str:
    """The text with control tokens broken by a space after their first character, so that data cannot pose as a turn of its own."""
    for mark in marks:
        if mark in content:
            content = content.replace(mark, f"{mark[0]} {mark[1:]}")
    return content
