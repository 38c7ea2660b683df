"""How chats and completions are answered, at once or as a stream. What differs between the two is their `Shape`."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from semievol.common import errors
from semievol.common.keys import content_key
from semievol.door.errors import Names
from semievol.door.metrics import label
from semievol.door.parts import Parts
from semievol.door.requests import SamplingBody
from semievol.door.streams import EventStream, after, first_of, merged, unless_gone
from semievol.ports import MAX_SAMPLES, ChatDelta, Completion, ModelInfo, Prompt, Sampling

_MAX_CHOICES = 128  # of all prompts of a request
_STREAMS_AT_ONCE = 8  # each choice of a stream is a call; more would take the queue's places from everybody else
_LEAST_LOGPROB = -9999.0  # JSON has no infinity

Piece = tuple[int, tuple[ChatDelta, ModelInfo]]
"""Which reply, and how it goes on."""


class Shape(Protocol):
    """`prefix` of ids; `whole`, `piece`: what an answer, and a chunk of one, call themselves."""

    prefix: str
    whole: str
    piece: str

    def choice(self, index: int, completion: Completion) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None:
        """What comes before the first piece of a reply."""
        ...

    def chunk(self, index: int, delta: ChatDelta) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """`prompts`: each with `sampling.n` seeds, or none. Every computed reply is told `copies` times (`SamplingBody.copies`)."""

    id: str
    body: SamplingBody
    prompts: Sequence[Prompt]
    sampling: Sampling
    names: Names

    @property
    def copies(self) -> int:
        return self.body.copies


def asked(request: Request, body: SamplingBody, prompts: Sequence[Prompt], sampling: Sampling, names: Names) -> Asked:
    """Raises InvalidInput for more replies than one request may have."""
    if not 1 <= body.samples <= MAX_SAMPLES:
        raise errors.InvalidInput(f"n is {body.samples}; it must be 1 to {MAX_SAMPLES}.", field="n")
    if body.samples * len(prompts) > _MAX_CHOICES:
        raise errors.InvalidInput(
            f"{len(prompts)} prompts with {body.samples} replies each; a request may have {_MAX_CHOICES} replies. Send the prompts in "
            "several requests.",
            field="prompt",
        )
    request.state.names = names  # from here on fields are those of the services
    seeds = body.seeds(sampling)
    return Asked(request.state.id, body, [replace(one, seeds=seeds) for one in prompts], sampling, names)


async def respond(request: Request, parts: Parts, asked: Asked, shape: Shape) -> Response:
    """Raises what the generation service raises, before a stream has begun."""
    if asked.body.stream:
        return await _streamed(request, parts, asked, shape)
    work = parts.generation.generate(asked.body.model, asked.prompts, asked.sampling, routing_key=asked.body.user or "")
    generations, model = await unless_gone(request, work)
    told = [one for generation in generations for one in generation.completions for _ in range(asked.copies)]
    usage = _usage(sum(one.prompt_tokens for one in generations), sum(len(one.tokens) for one in told))
    parts.metrics.used(usage["prompt_tokens"], usage["completion_tokens"])
    choices = [shape.choice(index, one) for index, one in enumerate(told)]
    return JSONResponse(_head(asked, shape, shape.whole, model) | {"choices": choices, "usage": usage})


async def _streamed(request: Request, parts: Parts, asked: Asked, shape: Shape) -> Response:
    # all choices of a request come from one model, a canary or not
    sampling, key = replace(asked.sampling, n=1), asked.body.user or asked.id
    calls = []
    for prompt in asked.prompts:
        for sample in range(asked.sampling.n):
            one = replace(prompt, seeds=prompt.seeds[sample : sample + 1])
            calls.append(parts.generation.chat(asked.body.model, one, sampling, routing_key=key))
    source = merged(calls, _STREAMS_AT_ONCE)
    first = await first_of(request, source)
    path = label(request.url.path)
    parts.metrics.first_token.labels(path).observe(time.monotonic() - request.state.started)
    events = _events(parts, asked, shape, after(first, source), first[1][1])
    return EventStream(events, source, names=asked.names, request_id=asked.id, metrics=parts.metrics)


async def _events(
    parts: Parts, asked: Asked, shape: Shape, pieces: AsyncGenerator[Piece], model: ModelInfo
) -> AsyncIterator[bytes]:
    head = _encoded(_head(asked, shape, shape.piece, model))[:-1]
    tail = b',"usage":null}\n\n' if asked.body.include_usage else b"}\n\n"
    copies = asked.copies
    begun: set[int] = set()
    prompt_tokens, reply_tokens = [0] * len(asked.prompts), 0
    try:
        async for place, (delta, _) in pieces:
            prompt = place // asked.sampling.n
            prompt_tokens[prompt] = delta.prompt_tokens or prompt_tokens[prompt]
            reply_tokens += copies * len(delta.tokens)
            for index in range(place * copies, (place + 1) * copies):
                if index not in begun:
                    begun.add(index)
                    if (opening := shape.opening(index)) is not None:
                        yield b"data: " + head + b',"choices":[' + _encoded(opening) + b"]" + tail
                if delta.text or delta.tokens or delta.finish_reason:
                    yield b"data: " + head + b',"choices":[' + _encoded(shape.chunk(index, delta)) + b"]" + tail
        if asked.body.include_usage:
            usage = _usage(sum(prompt_tokens), reply_tokens)
            yield b"data: " + head + b',"choices":[],"usage":' + _encoded(usage) + b"}\n\n"
    finally:
        parts.metrics.used(sum(prompt_tokens), reply_tokens)


def _head(asked: Asked, shape: Shape, kind: str, model: ModelInfo) -> dict[str, Any]:
    """What an answer and all chunks of one begin with. `model` is what was asked for: an alias stays an alias."""
    return {
        "id": f"{shape.prefix}-{asked.id}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.body.model,
        "system_fingerprint": _fingerprint(model),
    }


@lru_cache(maxsize=256)
def _fingerprint(model: ModelInfo) -> str:
    """Another one for other weights, or another engine or number format, which may change the last bits."""
    return f"fp_{content_key([model.base_sha256, model.adapter_sha256, model.engine])[:12]}"


def _usage(prompt_tokens: int, reply_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": reply_tokens, "total_tokens": prompt_tokens + reply_tokens}


def _encoded(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)
