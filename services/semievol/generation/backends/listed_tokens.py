"""The tokens that a chat completion lists beside its text, and which of them the text is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semievol.ports import TokenLogprob

_MOST_LEADING_BYTES = 4  # white space that a server leaves off the text but not off its first token


@dataclass(frozen=True, slots=True)
class Token:
    """`data`: its bytes, which its text cannot show where it is a piece of a character. `top`: what else was possible, if asked for."""

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


def listed(choice: Any) -> list[Token] | None:
    """What a choice of a response or a stream's chunk lists; None where it lists nothing at all. Raises TypeError, AttributeError for what is none."""
    logprobs = getattr(choice, "logprobs", None)
    if logprobs is None or logprobs.content is None:
        return None
    return [_token(one) for one in logprobs.content]


def _token(one: Any) -> Token:
    data = getattr(one, "bytes", None)
    encoded = bytes(data) if data is not None else one.token.encode()
    others = getattr(one, "top_logprobs", None) or ()
    top = tuple(TokenLogprob(other.token, _rounded(other.logprob)) for other in others)
    return Token(one.token, encoded, _rounded(one.logprob), top)


def _rounded(logprob: float) -> float:
    """Rounding may leave a certain token above 0."""
    return min(0.0, float(logprob))


def covering(tokens: Sequence[Token], text: str) -> int:
    """How many tokens the text is made of: neither a stop string's, unless one begins in the text, nor an end-of-turn token. All of them
    where the text is not what they say."""
    wanted, joined = text.encode(), b"".join(one.data for one in tokens)
    if not wanted:
        return 0
    start = joined.find(wanted, 0, len(wanted) + _MOST_LEADING_BYTES)
    if start < 0:
        return len(tokens)
    end, place = start + len(wanted), 0
    for count, one in enumerate(tokens):
        if place >= end:
            return count
        place += len(one.data)
    return len(tokens)
