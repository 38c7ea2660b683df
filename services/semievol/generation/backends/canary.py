"""One prompt and reply whose score tells weights apart: an adapter that leaves it as it was has not been applied (R9)."""

from __future__ import annotations

from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.generation.adapters import Adapter

TURNS = (Message("user", "Which of these is a colour: stone, blue, seven?"),)
REPLY = "Answer: blue"


def unchanged(adapter: Adapter) -> errors.InvalidInput:
    return errors.InvalidInput(
        f"{adapter.uri} changes nothing: with it the model answers exactly as without. Was it trained?", field="uri"
    )
