"""`semievol serve`: all services of one machine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from semievol.cli import output
from semievol.cli.options import home_option, json_option, launcher_option, milvus_option, store_option

if TYPE_CHECKING:
    from semievol.embedded import EmbeddedSettings


@click.command(short_help="Run all services on this machine until stopped.")
@click.option(
    "--model", default="bundled:smollm2-135m", show_default=True, help="Base model: a directory, bundled:NAME or a hub id."
)
@click.option(
    "--embedding",
    default="bundled:minilm-l6",
    show_default=True,
    help="Embedding model, likewise, or the URL of a text-embeddings-inference server.",
)
@click.option(
    "--engine",
    default="transformers",
    show_default=True,
    help="What answers for the base model: transformers, vllm, or the URL of an OpenAI-compatible endpoint that serves it under that name.",
)
@click.option(
    "--placement",
    type=click.Choice(["auto", "shared", "dedicated"]),
    default="auto",
    show_default=True,
    help="vLLM's engines: one for all weights, or one for each.",
)
@click.option(
    "--trainer",
    type=click.Choice(["peft", "openai"]),
    default="peft",
    show_default=True,
    help="What fine-tunes: this machine, or the endpoint of --engine, which then also serves what it has trained.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65528),
    default=0,
    show_default=True,
    help="First of eight consecutive ports; 0: any free ones.",
)
@home_option
@store_option
@milvus_option
@launcher_option
@json_option
def serve(
    model: str,
    embedding: str,
    engine: str,
    placement: str,
    trainer: str,
    port: int,
    home: Path,
    store: str,
    milvus: str,
    launcher: str,
    as_json: bool,
) -> None:
    """Run all services on this machine, on loopback, until Ctrl-C or SIGTERM.

    Prints their addresses once all of them work. Commands that use the same --home find them by themselves. Clients of the OpenAI API use
    the last one; SEMIEVOL_DOOR_API_KEYS, or SEMIEVOL_DOOR_API_KEYS_FILE, sets keys for it.
    """
    output.log_to_stderr(tracebacks=True)
    from semievol.cli.connect import announce_backends
    from semievol.common.endpoints import is_url
    from semievol.embedded import EmbeddedSettings

    if trainer == "openai" and not is_url(engine):
        raise click.UsageError("--trainer openai needs --engine URL: the endpoint that trains and answers.")
    announce_backends(home, store=store, milvus=milvus)
    output.note(f"Starting the services with {model} ...")
    try:
        settings = EmbeddedSettings(
            home=home,
            model=model,
            embedding=embedding,
            engine=engine,
            placement=placement,
            trainer=trainer,
            launcher=launcher,
            port=port,
            lasting=True,
            store=store,
            milvus=milvus,
        )
        _serve(settings, as_json)
    except KeyboardInterrupt:  # the way to end it
        output.note("Stopped.")


def _serve(settings: EmbeddedSettings, as_json: bool) -> None:
    from semievol.embedded import Embedded

    with Embedded(settings) as embedded:
        if as_json:
            addresses = dict(embedded.addresses)
            output.json_line({"home": str(settings.home), "addresses": addresses, "openai_url": embedded.openai_url})
        else:
            api = [("OpenAI API", embedded.openai_url)] if embedded.openai_url else []
            output.data(output.table(["service", "address"], [*embedded.addresses.items(), *api]))
        if embedded.openai_missing:
            output.note(embedded.openai_missing)
        output.note("Ready. Ctrl-C stops.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            output.note("Stopping: calls in flight may finish ...")
            raise
