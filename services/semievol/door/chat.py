"""/v1/chat/completions."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.door import answers
from semievol.door.errors import Names
from semievol.door.parts import Parts
from semievol.door.requests import Count, SamplingBody, check_list, limit, read
from semievol.ports import ChatDelta, Completion, Prompt

# The API's roles -> ours. `developer` is its new name for `system`.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_TOOL_ROLES = ("tool", "function")


class MessageBody(BaseModel):
    """One message. What else answers of this API carry (`refusal`, `annotations`) passes while it is empty."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None  # passes: chat templates have no place for it

    def message(self, field: str) -> Message:
        """Raises InvalidInput, NotSupported naming `field`."""
        if self.role in _TOOL_ROLES:
            raise errors.NotSupported(
                f"Messages of the role {self.role!r} are not supported here.",
                field=f"{field}.role",
                details={"code": "unsupported_parameter"},
            )
        if self.role not in _ROLES:
            raise errors.InvalidInput(
                f"The role {self.role!r} is none of {', '.join(_ROLES)}.",
                field=f"{field}.role",
                details={"code": "invalid_value"},
            )
        for name, value in (self.model_extra or {}).items():
            if value:
                raise errors.NotSupported(
                    f"{name} of a message is not supported here.",
                    field=f"{field}.{name}",
                    details={"code": "unsupported_parameter"},
                )
        return Message(_ROLES[self.role], self._text(f"{field}.content"))

    def _text(self, field: str) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        texts = []
        for i, part in enumerate(self.content):
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise errors.NotSupported(
                    f"A content part of type {part.get('type')!r} is not supported here; send text.",
                    field=f"{field}[{i}]",
                    details={"code": "unsupported_parameter"},
                )
            texts.append(part["text"])
        return "\n".join(texts)  # as vLLM joins them


class ChatBody(SamplingBody):
    messages: list[MessageBody]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None


class ChatShape:
    """`logprobs`: whether they are told."""

    prefix, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, logprobs: bool) -> None:
        self._logprobs = logprobs

    def choice(self, index: int, completion: Completion) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": self._listed(completion),
            "finish_reason": str(completion.finish_reason),
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def chunk(self, index: int, delta: ChatDelta) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": self._listed(delta),
            "finish_reason": str(delta.finish_reason) if delta.finish_reason else None,
        }

    def _listed(self, reply: Completion | ChatDelta) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        tops = reply.top_logprobs or ((),) * len(reply.tokens)
        content = [
            _token(text, logprob) | {"top_logprobs": [_token(one.text, one.logprob) for one in top]}
            for text, logprob, top in zip(reply.tokens, reply.token_logprobs, tops, strict=True)
        ]
        return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    """The bytes of a piece of a character are not known."""
    return {
        "token": text,
        "logprob": answers.finite(logprob),
        "bytes": None if "\ufffd" in text else list(text.encode()),
    }


async def create(request: Request, parts: Parts) -> Response:
    body = await read(request, ChatBody, parts.settings)
    check_list(body.messages, "messages")
    if body.top_logprobs and not body.logprobs:
        raise errors.InvalidInput("top_logprobs is told with logprobs: true only.", field="top_logprobs")
    messages = tuple(one.message(f"messages[{i}]") for i, one in enumerate(body.messages))
    most = limit(body.max_completion_tokens, body.max_tokens, default=parts.settings.default_max_tokens)
    names = Names(limit="max_tokens" if body.max_completion_tokens is None else "max_completion_tokens")
    sampling = body.sampling(most, body.top_logprobs or 0)
    asked = answers.asked(request, body, [Prompt(request.state.id, messages)], sampling, names)
    return await answers.respond(request, parts, asked, ChatShape(bool(body.logprobs)))
