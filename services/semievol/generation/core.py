"""Rules of generation that hold for every backend: what a request may ask, which model it means, how prompts form batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from semievol.algorithm.types import Message
from semievol.common import errors
from semievol.generation.adapters import Adapter
from semievol.ports import MAX_SAMPLES, AdapterHost, Cancel, Generator, ModelInfo, Prompt, Sampling, Scorer, ScoreRequest

_ROLES = ("system", "user", "assistant")
_MAX_STOPS = 16
_MAX_TOP_LOGPROBS = 20
CONTEXT_LENGTH = "context_length"  # value of the detail `reason` of an error about a prompt that the model has no room for
_SEED_LIMIT = 2**63


class Engine(Generator, Scorer, AdapterHost, Protocol):
    """What a backend offers: one base model with its adapters."""


def check_prompts(prompts: Sequence[Prompt], sampling: Sampling) -> None:
    """Raises InvalidInput naming the field, `prompts[i]...` or `sampling...`, in the API's words."""
    check_sampling(sampling)
    for i, prompt in enumerate(prompts):
        check_prompt(prompt, sampling, f"prompts[{i}]")


def check_chat(prompt: Prompt, sampling: Sampling) -> None:
    """Raises InvalidInput; a stream carries one reply."""
    check_sampling(sampling)
    if sampling.n != 1:
        raise errors.InvalidInput("A chat streams one reply; sample_count must be 1.", field="sampling.sample_count")
    check_prompt(prompt, sampling, "prompt")


def check_prompt(prompt: Prompt, sampling: Sampling, field: str) -> None:
    if prompt.text is None:
        _check_messages(prompt.messages, field, prompt.id)
    else:
        _check_raw(prompt, field)
    if prompt.seeds and len(prompt.seeds) != sampling.n:
        raise errors.InvalidInput(
            f"Prompt {prompt.id!r} has {len(prompt.seeds)} seeds for {sampling.n} samples; give one each, or none.",
            field=f"{field}.seeds",
        )
    if any(not 0 <= seed < _SEED_LIMIT for seed in prompt.seeds):
        raise errors.InvalidInput(f"Prompt {prompt.id!r} has a seed outside 0..2^63-1.", field=f"{field}.seeds")


def check_score(requests: Sequence[ScoreRequest]) -> None:
    """Raises InvalidInput naming `items[i]...`."""
    for i, request in enumerate(requests):
        _check_messages(request.messages, f"items[{i}]", request.id)
        _check_text(request.response, f"items[{i}].response")


def check_sampling(sampling: Sampling) -> None:
    """Raises InvalidInput naming `sampling...`."""
    if not 1 <= sampling.n <= MAX_SAMPLES:
        raise errors.InvalidInput(f"sample_count is {sampling.n}; it must be 1 to {MAX_SAMPLES}.", field="sampling.sample_count")
    if not 0 <= sampling.temperature <= 2:
        raise errors.InvalidInput(f"temperature is {sampling.temperature}; it must be 0 to 2.", field="sampling.temperature")
    if sampling.temperature == 0 and sampling.n > 1:
        raise errors.InvalidInput(
            "At temperature 0 all samples are the same; ask for one, or raise the temperature.", field="sampling.sample_count"
        )
    if not 0 < sampling.top_p <= 1:
        raise errors.InvalidInput(f"top_p is {sampling.top_p}; it must be above 0 and at most 1.", field="sampling.top_p")
    if sampling.max_tokens < 1:
        raise errors.InvalidInput(f"max_tokens is {sampling.max_tokens}; it must be at least 1.", field="sampling.max_tokens")
    if len(sampling.stop) > _MAX_STOPS or not all(sampling.stop):
        raise errors.InvalidInput(f"stop holds at most {_MAX_STOPS} strings, none of them empty.", field="sampling.stop")
    if not 0 <= sampling.top_logprobs <= _MAX_TOP_LOGPROBS:
        raise errors.InvalidInput(
            f"top_logprobs is {sampling.top_logprobs}; it must be 0 to {_MAX_TOP_LOGPROBS}.", field="sampling.top_logprobs"
        )


def check_length(prompt_tokens: int, reply_tokens: int, max_model_tokens: int, prompt_id: str, field: str) -> None:
    """A prompt must leave room for `reply_tokens` more. Raises InvalidInput naming the prompt's id."""
    if prompt_tokens + reply_tokens > max_model_tokens:
        reply = f" and its reply {reply_tokens}" if reply_tokens > 1 else ""
        raise errors.InvalidInput(
            f"Prompt {prompt_id!r} has {prompt_tokens} tokens{reply}; the model takes {max_model_tokens}, reply included.",
            field=field,
            details={"reason": CONTEXT_LENGTH},
        )


def find_model(models: Sequence[ModelInfo], name: str) -> ModelInfo:
    """The model of this name. Raises NotFound listing the known ones."""
    for model in models:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in models)
    raise errors.NotFound(
        f"Model {name!r} is not served here; served: {known}. Adapters are loaded with LoadAdapter.", field="model"
    )


def adapter_info(base: ModelInfo, adapter: Adapter) -> ModelInfo:
    """The base model with this adapter, as requests know it."""
    return replace(base, name=adapter.name, adapter=adapter.uri, adapter_sha256=adapter.sha256, engine_starts=0, weight_swaps=0)


def check_cancel(cancel: Cancel) -> None:
    if cancel.is_set():
        raise errors.Cancelled("Generation was cancelled.")


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first: count x longest <= `batch_tokens`, or one alone. Deterministic."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def cut_at_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first stop string begins, or None."""
    found = [at for at in (text.find(one) for one in stop) if at >= 0]
    return min(found) if found else None


def _check_messages(messages: Sequence[Message], field: str, prompt_id: str) -> None:
    if not messages:
        raise errors.InvalidInput(f"Prompt {prompt_id!r} has no messages and no raw text.", field=f"{field}.messages")
    for j, message in enumerate(messages):
        where = f"{field}.messages[{j}]"
        if message.role not in _ROLES:
            raise errors.InvalidInput(
                f"Role {message.role!r} of prompt {prompt_id!r} is none of {', '.join(_ROLES)}.", field=f"{where}.role"
            )
        if not message.content and message.role == "user":
            raise errors.InvalidInput(f"A {message.role} message of prompt {prompt_id!r} is empty.", field=f"{where}.content")
        _check_text(message.content, f"{where}.content")
    if messages[-1].role != "user":
        raise errors.InvalidInput(f"The last message of prompt {prompt_id!r} is not the user's.", field=f"{field}.messages")


def _check_raw(prompt: Prompt, field: str) -> None:
    if prompt.messages:
        raise errors.InvalidInput(f"Prompt {prompt.id!r} has messages and raw text; give one of them.", field=f"{field}.text")
    if not prompt.text:
        raise errors.InvalidInput(f"The raw text of prompt {prompt.id!r} is empty.", field=f"{field}.text")
    _check_text(prompt.text, f"{field}.text")


def _check_text(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"{field} is no valid Unicode text: {error.reason}.", field=field) from error
