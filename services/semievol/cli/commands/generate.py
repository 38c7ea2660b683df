"""`semievol generate`: ask a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options

if TYPE_CHECKING:
    from semievol.cli.asking import Reply


@click.command(short_help="Ask a model.")
@click.argument("prompt", nargs=-1, required=True)
@click.option(
    "--model", default="", metavar="ALIAS|NAME", help="An alias (a run's name), a model's name, or base. Default: the only alias."
)
@click.option(
    "-f",
    "--file",
    "run_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask the model of this run file as it was trained: --as-question, with the options of its labeled rows.",
)
@click.option("--as-question", is_flag=True, help="Put the prompt into the form that the model was trained on.")
@click.option("--option", "options", multiple=True, help="An option of a multiple-choice question; once per option.")
@click.option("--base", is_flag=True, help="Ask the base model that it was made from, for comparison.")
@click.option("--system", default="", help="A system message before the prompt.")
@click.option("--max-tokens", type=click.IntRange(1, 2**31 - 1), default=256, show_default=True, help="Longest reply.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=click.IntRange(0), default=None, help="Makes sampling repeatable.")
@click.option(
    "--router",
    metavar="HOST:PORT",
    envvar="SEMIEVOL_ROUTER",
    show_envvar=True,
    default="",
    help="A router elsewhere. Without --address it is asked alone, and no controller is needed. A cluster's own is found by itself.",
)
@target_options
@json_option
def generate(
    prompt: tuple[str, ...],
    model: str,
    run_file: Path | None,
    as_question: bool,
    options: tuple[str, ...],
    base: bool,
    system: str,
    max_tokens: int,
    temperature: float,
    seed: int | None,
    router: str,
    target: Target,
    as_json: bool,
) -> None:
    """Ask a model PROMPT (`-`: read it from stdin); the reply comes as it is written.

    stderr says which model answered, and, where it is known, how sure it was compared with the pseudo-labels that it learned from. With
    --json: one object with the text, the number of its tokens, their mean negative log-likelihood in nats, that confidence in percent, and
    the identity of the weights.
    """
    from semievol.cli import asking
    from semievol.ports import BASE_MODEL, Prompt, Sampling

    as_question = as_question or run_file is not None
    if model == BASE_MODEL:
        base, model = True, ""
    router = _router(target, router, model, base=base, as_question=as_question)
    # the router's own names are enough, unless the prompt has a form that the controller alone knows
    alone = not target.address and (not as_question if target.cluster else bool(router))
    _check_usage(as_question, options, alone, bool(target.address) and not router)
    text = sys.stdin.read().strip() if prompt == ("-",) else " ".join(prompt)
    if not text:
        raise click.UsageError("The prompt is empty.")
    if run_file:
        name, common_options = asking.from_run_file(run_file)
        model, options = model or name, options or common_options
    wanted = None if alone else asking.look_up(target, model)
    messages = (
        asking.question_messages(wanted, text, options, system) if wanted and as_question else asking.plain_messages(text, system)
    )
    seeds = () if seed is None or temperature == 0 else (seed,)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    show = None if as_json else lambda piece: click.echo(piece, nl=False)
    with asking.served(target, wanted, router) as client:
        reply = asking.ask(client, asking.named(wanted, model, base=base), Prompt("prompt", messages, seeds), sampling, show)
    if as_json:
        output.json_line(asking.reply_json(reply))
    else:
        output.data("")
        _note(reply)


def _router(target: Target, router: str, model: str, *, base: bool, as_question: bool) -> str:
    """Address of the router that was named, or that serves the base that is asked for; else empty."""
    from semievol.cli import asking

    if target.cluster:  # it has its own
        named = click.get_current_context().get_parameter_source("router") is ParameterSource.COMMANDLINE
        return router if named else ""
    if target.address or router or as_question:
        return router
    return asking.serving(target, model, base=base)


def _check_usage(as_question: bool, options: tuple[str, ...], alone: bool, no_router: bool) -> None:
    """`alone`: a router without a controller; `no_router`: a controller elsewhere without one."""
    if options and not as_question:
        raise click.UsageError("--option needs --as-question or -f.")
    if no_router:
        raise click.UsageError("With --address, give --router too: the address of the router there.")
    if alone and as_question:
        raise click.UsageError("--as-question and -f need a controller, which knows the run: give --address too.")


def _note(reply: Reply) -> None:
    """Who answered, and how sure it was."""
    model = reply.model
    who = f"{model.name} on {model.base}" if model.adapter else f"base {model.base}"
    under = f" as {model.alias}" if model.alias else ""
    output.note(f"[{who}{under}: {reply.tokens} tokens, {reply.finish_reason}]")
    if reply.confidence is not None:
        output.note(f"confidence: surer than {reply.confidence:.0f} % of the pseudo-labels it learned from")
