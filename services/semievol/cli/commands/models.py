"""Models that runs have made, and the aliases that point at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options

if TYPE_CHECKING:
    from semievol.controller.v1 import controller_service_pb2 as pb


@click.group(short_help="Models that runs have made, and their aliases.")
def models() -> None:
    """Models that runs have made, and the aliases that point at them."""


@models.command("list")
@target_options
@json_option
def list_models(target: Target, as_json: bool) -> None:
    """Show models and aliases."""
    from semievol.cli import plain
    from semievol.cli.connect import controller

    with controller(target) as connection:
        listed = connection.client.list_models()
    if as_json:
        output.json_line(plain.message(listed))
        return
    if not listed.models:
        output.data("No models yet.")
        return
    pointing: dict[str, list[str]] = {}
    for alias in listed.aliases:
        share = f" ({100 - alias.canary_weight} %)" if alias.canary_model else ""
        pointing.setdefault(alias.model, []).append(f"{alias.name}{share}")
        if alias.canary_model:
            pointing.setdefault(alias.canary_model, []).append(f"{alias.name} (canary, {alias.canary_weight} %)")
    rows = [
        [
            model.name,
            model.role,
            str(model.iteration),
            model.base,
            f"{100 * model.accuracy:.1f} %" if model.HasField("accuracy") else "",
            ", ".join(pointing.get(model.name, [])),
            model.directory or model.uri,
        ]
        for model in listed.models
    ]
    output.data(output.table(["model", "role", "iteration", "base", "accuracy", "aliases", "where"], rows))


@models.command()
@click.argument("model")
@click.argument("alias", required=False)
@click.option("--alias", "named", metavar="ALIAS", help="The alias, instead of as the second argument.")
@click.option(
    "--weight",
    type=click.IntRange(1, 100),
    default=100,
    show_default=True,
    help="Percent of the alias's calls; below 100 MODEL is its canary, beside the model that it points at.",
)
@target_options
@json_option
def promote(model: str, alias: str | None, named: str | None, weight: int, target: Target, as_json: bool) -> None:
    """Point ALIAS at MODEL, or a share of its calls. `rollback` undoes it."""
    if (alias is None) == (named is None):
        raise click.UsageError("Give one ALIAS.")
    from semievol.cli.connect import controller, find_model

    with controller(target) as connection:
        found = find_model(connection.client, model).name
        changed = connection.client.promote(found, alias or named or "", weight)
    _show(changed, as_json)


@models.command()
@click.argument("alias")
@target_options
@json_option
def rollback(alias: str, target: Target, as_json: bool) -> None:
    """Take the canary of ALIAS away; without one, point ALIAS at the model that it pointed at before."""
    from semievol.cli.connect import controller, nearest
    from semievol.common import errors

    with controller(target) as connection:
        try:
            changed = connection.client.rollback(alias)
        except errors.NotFound as error:
            known = [each.name for each in connection.client.list_models().aliases]
            raise nearest("alias", alias, known, "alias") from error
    _show(changed, as_json)


def _show(alias: pb.Alias, as_json: bool) -> None:
    if as_json:
        from semievol.cli import plain

        output.json_line(plain.message(alias))
        return
    canary = f" ({100 - alias.canary_weight} %), {alias.canary_model} ({alias.canary_weight} %)" if alias.canary_model else ""
    output.data(f"{alias.name} -> {alias.model}{canary}")
