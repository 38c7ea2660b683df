"""`semievol generate`: ask a model."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options


@click.command(short_help="Ask a model.")
@click.argument("prompt", nargs=-1, required=True)
@click.option(
    "--model", default="", metavar="ALIAS|NAME", help="An alias (a run's name) or a model's name. Default: the only alias."
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
@click.option("--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest reply.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=click.IntRange(0), default=None, help="Makes sampling repeatable.")
@click.option(
    "--generation",
    metavar="HOST:PORT",
    envvar="SEMIEVOL_GENERATION",
    show_envvar=True,
    default="",
    help="A generation service elsewhere (needed with --address).",
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
    generation: str,
    target: Target,
    as_json: bool,
) -> None:
    """Ask a model PROMPT (`-`: read it from stdin); the reply comes as it is written.

    With --json: one object with the text, the number of its tokens, their mean negative log-likelihood in nats, and the identity of the
    weights.
    """
    if options and not (as_question or run_file):
        raise click.UsageError("--option needs --as-question or -f.")
    if target.address and not generation:
        raise click.UsageError("With --address, give --generation too: the address of the generation service there.")
    from semievol.cli import asking
    from semievol.ports import Prompt, Sampling

    text = sys.stdin.read().strip() if prompt == ("-",) else " ".join(prompt)
    if not text:
        raise click.UsageError("The prompt is empty.")
    if run_file:
        name, common_options = asking.from_run_file(run_file)
        model, options = model or name, options or common_options
    wanted = asking.look_up(target, model)
    messages = asking.messages(wanted, text, options, system, as_question=as_question or run_file is not None)
    seeds = () if seed is None or temperature == 0 else (seed,)
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    show = None if as_json else lambda piece: click.echo(piece, nl=False)
    with asking.served(target, wanted, generation, base=base) as (client, served):
        reply = asking.ask(client, served, Prompt("prompt", messages, seeds), sampling, show)
    name = "base" if base else wanted.model.name
    if as_json:
        output.json_line(asking.reply_json(reply, name, served))
    else:
        output.data("")
        output.note(f"[{name}{'' if base else ' on'} {served.base}: {len(reply.tokens)} tokens, {reply.finish_reason}]")
