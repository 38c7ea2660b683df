"""What may be asked, as JSON: bodies read within limits, their fields checked, and what cannot be honoured refused by name.

A field that is not ours passes where its value changes nothing, and is refused otherwise: an answer that silently leaves out what was asked
for is worse than none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from starlette.requests import ClientDisconnect, Request

from semievol.common import errors
from semievol.common.keys import derive_seed
from semievol.door.settings import DoorSettings
from semievol.ports import GREEDY_BELOW, NO_LIMIT, Sampling

_ANY = object()
# Field -> the values with which it changes nothing; null always does.
_NEUTRAL: dict[str, Sequence[Any]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "logit_bias": ({},),
    "metadata": _ANY,  # type: ignore[dict-item]
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": _ANY,  # type: ignore[dict-item]
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": _ANY,  # type: ignore[dict-item]
    "prompt_cache_retention": _ANY,  # type: ignore[dict-item]
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "safety_identifier": _ANY,  # type: ignore[dict-item]
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (-1, 0),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_SEEDS = 2**63
_MAX_LIST = 4096  # strings or messages in one request

B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """Strict: a number in quotes is no number. Other fields are kept, for `refuse_others` to look at."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Annotated[str, Field(min_length=1)]
    user: str | None = None

    def refuse_others(self) -> None:
        """Raises InvalidInput, NotSupported for a field that would change the answer."""
        for name, value in (self.model_extra or {}).items():
            if value is None:
                continue
            if name not in _NEUTRAL:
                raise errors.InvalidInput(
                    f"Unrecognized request argument supplied: {name}.", field=name, details={"code": "unknown_parameter"}
                )
            neutral = _NEUTRAL[name]
            if neutral is not _ANY and value not in neutral:
                allowed = " or ".join([repr(one) for one in neutral] + ["nothing"])
                raise errors.NotSupported(
                    f"{name} is not supported here; give {allowed}.", field=name, details={"code": "unsupported_parameter"}
                )


Count = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # what a message to an engine has room for; narrower bounds are the core's


def _no_tokens(value: Any, info: ValidationInfo) -> Any:
    """Raises NotSupported for token ids, in a list or in lists of them: ids mean something to one tokenizer only."""
    if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
        raise errors.NotSupported(
            f"{info.field_name} holds token ids, which are not supported here; send text.",
            field=info.field_name,
            details={"code": "unsupported_parameter"},
        )
    return value


Texts = Annotated[str | list[str], BeforeValidator(_no_tokens)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None


class SamplingBody(Body):
    """What chats and completions share. Defaults are the public API's: temperature 1, one sample."""

    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: Count | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def samples(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def copies(self) -> int:
        """At temperature 0 all samples are the same: one is computed."""
        return self.samples if self.greedy else 1

    @property
    def greedy(self) -> bool:
        return self.temperature is not None and 0 <= self.temperature < GREEDY_BELOW

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, limit: int, top_logprobs: int) -> Sampling:
        """Of one computed sample each; `limit`: most tokens. What is out of range stays, for the core to refuse."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            n=1 if self.greedy else self.samples,
            temperature=1.0 if self.temperature is None else 0.0 if self.greedy else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            max_tokens=limit,
            stop=tuple(stop),
            top_logprobs=top_logprobs,
        )

    def seeds(self, sampling: Sampling) -> tuple[int, ...]:
        """One a sample, the first being the request's own; empty where nothing is drawn, or without one: then every answer is another."""
        if self.seed is None or sampling.temperature == 0:
            return ()
        return (self.seed % _SEEDS, *(derive_seed("sample", self.seed, i) for i in range(1, sampling.n)))


def limit(*asked: int | None, default: int = 0) -> int:
    """The first limit that is given; without one `default`, 0 being the room that the model has."""
    given = next((one for one in asked if one is not None), None)
    return (default or NO_LIMIT) if given is None else given


async def read(request: Request, kind: type[B], settings: DoorSettings) -> B:
    """The request's body. Raises InvalidInput: not JSON, too long, too slow, a field of the wrong type; NotSupported: a field that we cannot honour."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":  # also what keeps a web page from sending requests here without being asked
        raise errors.InvalidInput(
            f"Content-Type is {media or 'missing'}; it must be application/json.", details={"code": "unsupported_media_type"}
        )
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            data = await _bytes(request, settings.max_body_bytes)
    except TimeoutError as error:
        raise errors.InvalidInput(
            f"The body did not come within {settings.body_timeout_s:g} seconds.", details={"code": "request_timeout"}
        ) from error
    except ClientDisconnect as error:
        raise errors.Cancelled("The client has gone.", details={"code": "client_gone"}) from error
    try:
        body = kind.model_validate_json(data)
    except ValidationError as error:
        raise _wrong(error) from error
    body.refuse_others()
    return body


async def _bytes(request: Request, most: int) -> bytes:
    too_long = errors.InvalidInput(
        f"The body is longer than the {most} bytes that are taken; send less at a time.", details={"code": "request_too_large"}
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most:
        raise too_long
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise too_long
    return bytes(data)


def _wrong(error: ValidationError) -> errors.InvalidInput:
    """The first thing that is wrong, in a sentence."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # of a field that may be one of several things, what came nearest
    first = max((one for one in found if one["loc"][:1] == found[0]["loc"][:1]), key=lambda one: len(one["loc"]))
    if first["type"] == "json_invalid":
        return errors.InvalidInput(f"The body is not valid JSON: {first['msg']}.", details={"code": "invalid_json"})
    place = _place(first["loc"])
    if not place:
        return errors.InvalidInput("The body is no JSON object.", details={"code": "invalid_json"})
    if first["type"] == "missing":
        return errors.InvalidInput(
            f"Missing required parameter: {place}.", field=place, details={"code": "missing_required_parameter"}
        )
    kind = {} if first["type"] in ("less_than", "greater_than_equal") else {"code": "invalid_type"}  # a number of the right type
    return errors.InvalidInput(f"Invalid {place}: {first['msg']}.", field=place, details=kind)


def _place(location: Sequence[int | str]) -> str:
    """`messages[0].role`; what pydantic adds to name the branches of a union is left out."""
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float", "bool"):
            place += f".{part}" if place else part
    return place


def check_list(values: Sequence[Any], field: str) -> None:
    """Raises InvalidInput for a list that is empty or longer than anybody needs."""
    if not 1 <= len(values) <= _MAX_LIST:
        raise errors.InvalidInput(f"{field} has {len(values)} entries; 1 to {_MAX_LIST} are taken.", field=field)
