"""Prompts -> token ids, with the errors of a model that has no room for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.common.chat_format import raw_ids, render
from semievol.generation import core
from semievol.ports import Prompt


class PromptReader:
    """`tokenizer`: of transformers; `max_model_tokens`: longest prompt plus reply."""

    def __init__(self, tokenizer: Any, max_model_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._limit = max_model_tokens

    def read(self, prompt: Prompt, field: str) -> list[int]:
        """The prompt's tokens, which leave room for a reply. Raises InvalidInput naming `field`."""
        if prompt.text is None:
            return self.render(prompt.messages, 1, prompt.id, field)
        try:
            row = raw_ids(self._tokenizer, prompt.text)
        except errors.InvalidInput as error:
            error.field = f"{field}.text"
            raise
        core.check_length(len(row), 1, self._limit, prompt.id, field)
        return row

    def render(self, messages: Sequence[Message], reply_tokens: int, prompt_id: str, field: str) -> list[int]:
        """The conversation's tokens, which leave room for `reply_tokens`. Raises InvalidInput naming `field`."""
        try:
            row = render(self._tokenizer, messages)
        except errors.InvalidInput as error:
            error.field = f"{field}.messages"
            raise
        core.check_length(len(row), reply_tokens, self._limit, prompt_id, field)
        return row
