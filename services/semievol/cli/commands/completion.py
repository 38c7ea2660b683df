"""`semievol completion`: the script that a shell completes commands with."""

from __future__ import annotations

import click

from semievol.cli import output


@click.command(short_help="Print the shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    bash: `eval "$(semievol completion bash)"` in ~/.bashrc; zsh likewise in ~/.zshrc; fish: `semievol completion fish | source` in its
    config.fish.
    """
    from click.shell_completion import get_completion_class

    from semievol.cli.main import cli

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"No completion for {shell}.")
    output.data(kind(cli, {}, "semievol", "_SEMIEVOL_COMPLETE").source())
