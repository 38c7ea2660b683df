"""docs/cli.md, made from the commands themselves: `python -m semievol.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from semievol.cli import failures
from semievol.cli.main import cli

_WIDTH = 100


def reference() -> str:
    """The whole page."""
    parts = [
        "# The command line",
        "",
        "Made by `python -m semievol.cli.reference > docs/cli.md`; do not edit.",
        "",
        "Data goes to stdout and messages go to stderr; `--json` prints data as JSON. No colours when piped or with `NO_COLOR`. State lies in",
        "`--home` (`SEMIEVOL_HOME`, by default `~/.semievol`). A command that is interrupted says how to continue.",
        "",
        "## Exit codes",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in failures.EXIT_CODES.items()),
    ]
    for context in _contexts(cli, "semievol", None):
        parts += ["", f"## {context.command_path}", "", "```", context.command.get_help(context), "```"]
    return "\n".join(parts) + "\n"


def _contexts(command: click.Command, name: str, parent: click.Context | None) -> Iterator[click.Context]:
    """The command and those below it, each as if it had been called."""
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = click.Context(command, parent, info_name=name, **settings)
    yield context
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _contexts(found, child, context)


if __name__ == "__main__":
    print(reference(), end="")
