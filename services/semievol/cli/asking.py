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
from semievol.cli.connect import controller, find_model, live_suite, reached, router
from semievol.cli.options import Target
from semievol.cli.runfiles import read_run_file
from semievol.client.controller import ControllerClient
from semievol.common import errors, uploads
from semievol.common.runspec import RunSpec
from semievol.controller.v1 import controller_service_pb2 as pb
from semievol.controller.wire import spec_from_wire
from semievol.data.intake import Role, load
from semievol.ports import BASE_MODEL, FinishReason, ModelInfo, Prompt, Sampling

if TYPE_CHECKING:
    from semievol.client.router import RouterClient


@dataclass(frozen=True)
class Wanted:
    """What was named, an alias or a model; the model that stands for it, which knows its base; and the run that made that."""

    name: str
    model: pb.Model
    spec: RunSpec


@dataclass
class Reply:
    """What a model wrote. `mean_nll` in nats per token, None without tokens; `confidence` in percent, None where nothing is to be compared
    with."""

    model: ModelInfo
    text: str = ""
    tokens: int = 0
    finish_reason: FinishReason = FinishReason.STOP
    mean_nll: float | None = None
    confidence: float | None = None


def from_run_file(path: Path) -> tuple[str, tuple[str, ...]]:
    """The run's name, and the options of its labeled rows where these are the same for all. Raises NotFound, InvalidInput."""
    spec = read_run_file(path)
    if spec.task.type is not TaskType.CHOICE or spec.task.options or uploads.is_uri(spec.data.labeled):
        return spec.name, ()
    rows = load(spec.data.labeled, spec.task.task(), Role.LABELED, names=spec.data.map, on_bad=spec.bad_rows).rows
    every = {row.options for row in rows}
    return spec.name, every.pop() if len(every) == 1 else ()


def serving(target: Target, model: str, *, base: bool) -> str:
    """Address of the router that runs for this home, if what is asked for is the base that it serves, which needs no run; else empty. `model`:
    empty where `base` says all."""
    record = live_suite(target.home) if model or base else None
    if record is None or model not in ("", record["model"]):
        return ""
    return str(record["addresses"].get("router", ""))


def look_up(target: Target, name: str) -> Wanted:
    """By alias or name; empty: the only alias. Raises NotFound with the nearest known, InvalidInput (which of several)."""
    with controller(target) as connection:
        if not name:
            name = _only_alias(connection.client)
        model = find_model(connection.client, name)
        return Wanted(name, model, spec_from_wire(connection.client.get_run(model.run).spec))


def named(wanted: Wanted | None, model: str, *, base: bool) -> str:
    """What a router is to be asked for: as `wanted` says, or, where nothing was looked up, as the user did."""
    if base:
        return wanted.model.base if wanted else BASE_MODEL
    return wanted.name if wanted else model


def _only_alias(client: ControllerClient) -> str:
    aliases = [alias.name for alias in client.list_models().aliases]
    if not aliases:
        raise errors.NotFound("There are no models yet: `semievol run` makes one.", field="model")
    if len(aliases) > 1:
        raise errors.InvalidInput(f"Which model? Name one with --model: {', '.join(aliases)}.", field="model")
    return aliases[0]


def plain_messages(text: str, system: str) -> tuple[Message, ...]:
    """The prompt as it is."""
    return (*_before(system), Message("user", text))


def question_messages(wanted: Wanted, text: str, options: tuple[str, ...], system: str) -> tuple[Message, ...]:
    """The prompt in the form that the run's models were trained on."""
    task = wanted.spec.task.task()
    if task.options and options not in ((), task.options):
        raise errors.InvalidInput(f"This model's options are {', '.join(task.options)}; --option cannot change them.")
    row = Row("question", text, () if task.options else options)
    if task.type is TaskType.CHOICE and len(task.options_of(row)) < 2:
        raise errors.InvalidInput("This model answers multiple choice: give --option for each of at least two options.")
    return (*_before(system), *plain_prompt(row, task))


def _before(system: str) -> tuple[Message, ...]:
    return (Message("system", system),) if system else ()


@contextlib.contextmanager
def served(target: Target, wanted: Wanted | None, address: str) -> Iterator[RouterClient]:
    """A router: the one at `address`, that of a cluster, the running one of this home, or one in this process, for which `wanted` says what
    base it needs."""
    from semievol.client.router import RouterClient

    with contextlib.ExitStack() as stack:
        access = None
        if not address and target.cluster:
            address, access = stack.enter_context(reached(target, "router"))
        elif not address:
            assert wanted is not None
            endpoint = wanted.spec.engine if wanted.spec.trainer == "openai" else ""
            address = stack.enter_context(router(target.home, wanted.model.base, store=target.store, endpoint=endpoint))
        yield stack.enter_context(contextlib.closing(RouterClient(address, access=access)))


def ask(client: RouterClient, name: str, prompt: Prompt, sampling: Sampling, show: Callable[[str], None] | None) -> Reply:
    """The reply of an alias, a model or a base, whose pieces are shown as they come."""
    reply: Reply | None = None
    for piece in client.chat(name, prompt, sampling):
        reply = reply or Reply(piece.model)
        reply.text += piece.delta.text
        reply.tokens += len(piece.delta.tokens)
        reply.finish_reason = piece.delta.finish_reason or reply.finish_reason
        reply.mean_nll, reply.confidence = piece.mean_nll, piece.confidence
        if show:
            show(piece.delta.text)
            sys.stdout.flush()
    if reply is None:
        raise errors.Unavailable("The reply broke off before it began; ask again.")
    return reply


def reply_json(reply: Reply) -> dict[str, Any]:
    model = reply.model
    return {
        "text": reply.text,
        "tokens": reply.tokens,
        "mean_nll": reply.mean_nll,
        "confidence": reply.confidence,
        "finish_reason": reply.finish_reason.value,
        "model": {
            "name": model.name,
            "alias": model.alias or None,
            "base": model.base,
            "base_sha256": model.base_sha256,
            "adapter": model.adapter or None,
            "adapter_sha256": model.adapter_sha256 or None,
        },
    }
