"""Models that runs have made, and the aliases that point at them."""

from __future__ import annotations

import click

from semievol.cli import output
from semievol.cli.options import Target, json_option, target_options


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
        pointing.setdefault(alias.model, []).append(alias.name)
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
@click.argument("alias")
@target_options
@json_option
def promote(model: str, alias: str, target: Target, as_json: bool) -> None:
    """Point ALIAS at MODEL. `rollback` undoes it."""
    from semievol.cli.connect import controller, find_model

    with controller(target) as connection:
        changed = connection.client.promote(find_model(connection.client, model).name, alias)
    _show(changed.name, changed.model, list(changed.previous_models), as_json)


@models.command()
@click.argument("alias")
@target_options
@json_option
def rollback(alias: str, target: Target, as_json: bool) -> None:
    """Point ALIAS at the model that it pointed at before."""
    from semievol.cli.connect import controller, nearest
    from semievol.common import errors

    with controller(target) as connection:
        try:
            changed = connection.client.rollback(alias)
        except errors.NotFound as error:
            known = [each.name for each in connection.client.list_models().aliases]
            raise nearest("alias", alias, known, "alias") from error
    _show(changed.name, changed.model, list(changed.previous_models), as_json)


def _show(name: str, model: str, previous: list[str], as_json: bool) -> None:
    if as_json:
        output.json_line({"name": name, "model": model, "previous_models": previous})
    else:
        output.data(f"{name} -> {model}")
