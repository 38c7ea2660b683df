"""Asking a model: from an alias to weights that are served, and from a prompt to a reply."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semievol.algorithm.prompts import plain_prompt
from semievol.algorithm.types import Message, Row, TaskType
from semievol.cli.connect import controller, find_model, generation
from semievol.cli.options import Target
from semievol.cli.runfiles import read_run_file
from semievol.client.controller import ControllerClient
from semievol.common import errors, uploads
from semievol.common.runspec import RunSpec
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.wire import spec_from_wire
from semievol.data.intake import Role, load
from semievol.ports import BASE_MODEL, Completion, FinishReason, ModelInfo, Prompt, Sampling

if TYPE_CHECKING:
    from semievol.client.generation import GenerationClient


@dataclass(frozen=True)
class Wanted:
    """A model, and the run that made it."""

    model: pb.Model
    spec: RunSpec


def from_run_file(path: Path) -> tuple[str, tuple[str, ...]]:
    """The run's name, and the options of its labeled rows where these are the same for all. Raises NotFound, InvalidInput."""
    spec = read_run_file(path)
    if spec.task.type is not TaskType.CHOICE or spec.task.options or uploads.is_uri(spec.data.labeled):
        return spec.name, ()
    rows = load(spec.data.labeled, spec.task.task(), Role.LABELED, names=spec.data.map, on_bad=spec.bad_rows).rows
    every = {row.options for row in rows}
    return spec.name, every.pop() if len(every) == 1 else ()


def look_up(target: Target, name: str) -> Wanted:
    """By alias or name; empty: the only alias. Raises NotFound with the nearest known, InvalidInput (which of several)."""
    with controller(target) as connection:
        if not name:
            name = _only_alias(connection.client)
        model = find_model(connection.client, name)
        return Wanted(model, spec_from_wire(connection.client.get_run(model.run).spec))


def _only_alias(client: ControllerClient) -> str:
    aliases = [alias.name for alias in client.list_models().aliases]
    if not aliases:
        raise errors.NotFound("There are no models yet: `semievol run` makes one.", field="model")
    if len(aliases) > 1:
        raise errors.InvalidInput(f"Which model? Name one with --model: {', '.join(aliases)}.", field="model")
    return aliases[0]


def messages(wanted: Wanted, text: str, options: tuple[str, ...], system: str, *, as_question: bool) -> tuple[Message, ...]:
    """The prompt as it is, or in the form that the run's models were trained on."""
    before = (Message("system", system),) if system else ()
    if not as_question:
        return (*before, Message("user", text))
    task = wanted.spec.task.task()
    if task.options and options not in ((), task.options):
        raise errors.InvalidInput(f"This model's options are {', '.join(task.options)}; --option cannot change them.")
    row = Row("question", text, () if task.options else options)
    if task.type is TaskType.CHOICE and len(task.options_of(row)) < 2:
        raise errors.InvalidInput("This model answers multiple choice: give --option for each of at least two options.")
    return (*before, *plain_prompt(row, task))


@contextlib.contextmanager
def served(target: Target, wanted: Wanted, address: str, *, base: bool) -> Iterator[tuple[GenerationClient, ModelInfo]]:
    """A generation service that serves the model: the one at `address`, the running one of this home, or one in this process."""
    from semievol.client.generation import GenerationClient
    from semievol.common.keys import adapter_name

    with contextlib.ExitStack() as stack:
        if not address:
            endpoint = wanted.spec.engine if wanted.spec.trainer == "openai" else ""
            address = stack.enter_context(generation(target.home, wanted.model.base, store=target.store, endpoint=endpoint))
        client = stack.enter_context(contextlib.closing(GenerationClient(address)))
        if base:
            yield client, next(model for model in client.models() if model.name == BASE_MODEL)
        else:
            yield client, client.load_adapter(adapter_name(wanted.model.sha256), wanted.model.uri)


def ask(
    client: GenerationClient, model: ModelInfo, prompt: Prompt, sampling: Sampling, show: Callable[[str], None] | None
) -> Completion:
    """The reply, whose pieces are shown as they come."""
    text, reason = "", FinishReason.STOP
    tokens: list[str] = []
    logprobs: list[float] = []
    for delta in client.chat(model.name, prompt, sampling):
        text += delta.text
        tokens += delta.tokens
        logprobs += delta.token_logprobs
        reason = delta.finish_reason or reason
        if show:
            show(delta.text)
            sys.stdout.flush()
    return Completion(text, tuple(tokens), tuple(logprobs), reason)


def reply_json(reply: Completion, name: str, model: ModelInfo) -> dict[str, Any]:
    """`name`: the registered model's, or `base`. `mean_nll`: nats per token, null for a reply without tokens."""
    count = len(reply.token_logprobs)
    return {
        "text": reply.text,
        "tokens": count,
        "mean_nll": -sum(reply.token_logprobs) / count if count else None,
        "finish_reason": reply.finish_reason.value,
        "model": {
            "name": name,
            "base": model.base,
            "base_sha256": model.base_sha256,
            "adapter": model.adapter or None,
            "adapter_sha256": model.adapter_sha256 or None,
        },
    }
