"""A double of an OpenAI-compatible endpoint: a real HTTP server around one of our engines, with the bodies and errors of the public API.

Where servers differ it is told how to be: `end_token` lists the end-of-turn token among the log-probabilities, as vLLM does;
`refuses` names parameters that it does not know, as smaller servers do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.generation.core import Engine
from semievol.ports import BASE_MODEL, ChatDelta, Completion, Prompt, Sampling

from tests.servers.web import Answer, Call, HttpDouble


class OpenAIDouble(HttpDouble):
    """Serves the engine's base model under its own name."""

    def __init__(
        self,
        engine: Engine,
        *,
        api_key: str = "",
        max_model_len: int = 0,
        end_token: str = "",
        refuses: Collection[str] = (),
        logprobs: bool = True,
        owned_by: str = "tests",
    ) -> None:
        super().__init__()
        self.engine = engine
        self.api_key = api_key
        self.max_model_len = max_model_len
        self.end_token = end_token
        self.refuses = refuses
        self.logprobs = logprobs
        self.owned_by = owned_by
        self.names = [engine.models()[0].base]

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1"

    def engine_of(self, name: str) -> Engine:
        """What answers for one of `names`."""
        return self.engine

    def answer(self, call: Call) -> Answer:
        if self.api_key and call.headers.get("authorization") != f"Bearer {self.api_key}":
            return _error(401, "Incorrect API key provided.", "invalid_api_key")
        if (call.method, call.path) == ("GET", "/v1/models"):
            more = {"max_model_len": self.max_model_len} if self.max_model_len else {}
            data = [{"id": name, "object": "model", "created": 1, "owned_by": self.owned_by, **more} for name in self.names]
            return Answer(body={"object": "list", "data": data})
        if (call.method, call.path) == ("POST", "/v1/chat/completions"):
            return self._complete(call.json())
        return _error(404, f"Unknown request URL: {call.method} {call.path}.", "unknown_url")

    def _complete(self, body: dict[str, Any]) -> Answer:
        if body["model"] not in self.names:
            return _error(404, f"The model `{body['model']}` does not exist.", "model_not_found")
        for name in self.refuses:
            if name in body:
                hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return _error(400, f"Unsupported parameter: '{name}' is not supported.{hint}", "unsupported_parameter", name)
        n, temperature = body.get("n", 1), body.get("temperature", 1.0)
        stop = body.get("stop") or []
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or self.max_model_len or 16
        sampling = Sampling(n, temperature, body.get("top_p", 1.0), limit, tuple(stop), body.get("top_logprobs", 0))
        seeds = (body["seed"],) if "seed" in body and temperature > 0 else ()
        messages = tuple(Message(one["role"], one["content"]) for one in body["messages"])
        prompt = Prompt("request", messages, seeds)
        try:
            if body.get("stream"):
                return Answer(lines=tuple(self._stream(prompt, sampling, body)))
            (generation,) = self.engine_of(body["model"]).generate(BASE_MODEL, [prompt], sampling)
        except errors.InvalidInput as error:
            if "tokens; the model takes" in error.message:
                return _error(400, f"This model's maximum context length is exceeded. {error.message}", "context_length_exceeded")
            return _error(400, error.message, "invalid_value", error.field)
        choices = [self._choice(index, one) for index, one in enumerate(generation.completions)]
        usage = {"prompt_tokens": generation.prompt_tokens, "completion_tokens": 0, "total_tokens": generation.prompt_tokens}
        return Answer(
            body={
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": choices,
                "usage": usage,
            }
        )

    def _choice(self, index: int, one: Completion) -> dict[str, Any]:
        message = {"role": "assistant", "content": one.text, "refusal": None}
        listed = self._listed(one, end=one.finish_reason == "stop")
        return {"index": index, "message": message, "finish_reason": str(one.finish_reason), "logprobs": listed}

    def _listed(self, one: Completion | ChatDelta, *, end: bool) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        tops = one.top_logprobs or ((),) * len(one.tokens)
        content = [
            _token(text, value, top_logprobs=[_token(other.text, other.logprob) for other in top])
            for text, value, top in zip(one.tokens, one.token_logprobs, tops, strict=True)
        ]
        content += [_token(self.end_token, -0.5, top_logprobs=[])] if end and self.end_token else []
        return {"content": content, "refusal": None}

    def _stream(self, prompt: Prompt, sampling: Sampling, body: dict[str, Any]) -> Iterator[str]:
        def chunk(choices: list[Any], **more: Any) -> str:
            return json.dumps(
                {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": choices, **more}
            )

        yield chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}])
        last = ChatDelta("")
        for last in self.engine_of(body["model"]).chat(BASE_MODEL, prompt, sampling):
            reason = str(last.finish_reason) if last.finish_reason else None
            listed = self._listed(last, end=reason == "stop")
            yield chunk([{"index": 0, "delta": {"content": last.text}, "finish_reason": reason, "logprobs": listed}])
        if body.get("stream_options", {}).get("include_usage"):
            yield chunk(
                [], usage={"prompt_tokens": last.prompt_tokens, "completion_tokens": 0, "total_tokens": last.prompt_tokens}
            )
        yield "[DONE]"


def _token(text: str, logprob: float, **more: Any) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": _bytes(text), **more}


def _bytes(token: str) -> list[int] | None:
    return None if "\ufffd" in token else list(token.encode())


def _error(status: int, words: str, code: str, param: str | None = None) -> Answer:
    kind = "invalid_request_error"
    return Answer(status, {"error": {"message": words, "type": kind, "param": param, "code": code}})
