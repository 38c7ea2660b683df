"""/v1/completions: raw text goes on, without a chat template."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from semievol.common import errors
from semievol.door import answers
from semievol.door.errors import Names
from semievol.door.parts import Parts
from semievol.door.requests import Count, SamplingBody, Texts, check_list, limit, read
from semievol.ports import ChatDelta, Completion, Prompt, TokenLogprob

_MAX_TOKENS = 16  # the public API's default


class CompletionBody(SamplingBody):
    prompt: Texts
    logprobs: Count | None = None


class TextShape:
    """`logprobs`: whether they are told."""

    prefix, whole, piece = "cmpl", "text_completion", "text_completion"

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs
        self._lengths: dict[int, int] = defaultdict(int)  # characters of each reply's tokens so far

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        return self._entry(index, completion, str(completion.finish_reason))

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def chunk(self, index: int, delta: ChatDelta) -> dict[str, Any]:
        return self._entry(index, delta, str(delta.finish_reason) if delta.finish_reason else None)

    def _entry(self, index: int, reply: Completion | ChatDelta, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": reply.text, "logprobs": self._listed(index, reply), "finish_reason": reason}

    def _listed(self, index: int, reply: Completion | ChatDelta) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        offsets = []
        for text in reply.tokens:
            offsets.append(self._lengths[index])
            self._lengths[index] += len(text)
        tops = reply.top_logprobs or ((),) * len(reply.tokens)
        pairs = zip(reply.tokens, reply.token_logprobs, tops, strict=True)
        return {
            "tokens": list(reply.tokens),
            "token_logprobs": [answers.finite(one) for one in reply.token_logprobs],
            "top_logprobs": [_likeliest(text, logprob, top) for text, logprob, top in pairs],
            "text_offset": offsets,
        }


def _likeliest(text: str, logprob: float, top: tuple[TokenLogprob, ...]) -> dict[str, float]:
    """The chosen token is always told, so there may be one more than asked for."""
    return {one.text: answers.finite(one.logprob) for one in reversed((*top, TokenLogprob(text, logprob)))}


async def create(request: Request, parts: Parts) -> Response:
    body = await read(request, CompletionBody, parts.settings)
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    check_list(texts, "prompt")
    if body.logprobs is not None and body.logprobs < 0:
        raise errors.InvalidInput(f"logprobs is {body.logprobs}; it must be at least 0.", field="logprobs")
    names = Names("prompt", top_logprobs="logprobs", many=not isinstance(body.prompt, str))
    sampling = body.sampling(limit(body.max_tokens, default=_MAX_TOKENS), body.logprobs or 0)
    prompts = [Prompt(f"{request.state.id}-{i}" if names.many else request.state.id, text=text) for i, text in enumerate(texts)]
    asked = answers.asked(request, body, prompts, sampling, names)
    return await answers.respond(request, parts, asked, TextShape(body.logprobs is not None))
