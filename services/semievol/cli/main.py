"""`semievol`: the command line. Commands are loaded when they are used, so that help and completion come at once.

Data goes to stdout, messages go to stderr. Exit codes: `semievol.cli.failures`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

import semievol

# command -> where it is, and its line in `semievol --help` (a test compares these with the commands' own)
COMMANDS = {
    "init": ("init:init", "Write a commented run file."),
    "run": ("run:run", "Run an evolution on this machine, start to finish."),
    "serve": ("serve:serve", "Run all services on this machine until stopped."),
    "submit": ("runs:submit", "Start or continue a run on running services."),
    "status": ("runs:status", "Show all runs, or one run's steps."),
    "watch": ("runs:watch", "Follow a run until it ends."),
    "logs": ("runs:logs", "Show what a run's jobs wrote."),
    "cancel": ("runs:cancel", "Stop a run; finished steps are kept."),
    "retry": ("runs:retry", "Continue a failed or cancelled run, or do a part of one again."),
    "runs": ("manage:runs", "List and delete runs."),
    "gc": ("manage:gc", "Delete what no run and no alias needs."),
    "plan": ("runs:plan", "Show what a run would do and cost, and what is there already."),
    "select": ("inspect:select", "Show what another theta would keep."),
    "explain": ("inspect:explain", "Show everything about one row of a run."),
    "data": ("data:data", "Look at data files, and convert them."),
    "export": ("export:export", "Write what a run trained on, pseudo-labels included, to a file."),
    "models": ("models:models", "Models that runs have made, and their aliases."),
    "generate": ("generate:generate", "Ask a model."),
    "doctor": ("doctor:doctor", "Check this machine and every service."),
    "completion": ("completion:completion", "Print the shell's completion script."),
}


# read by libraries when they are loaded: none of them writes bars or logs of its own between a command's lines
LIBRARY_SETTINGS = {
    "GRPC_VERBOSITY": "NONE",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class TerminatedError(KeyboardInterrupt):
    """SIGTERM: ends a command the way Ctrl-C does, but for the exit code."""

    exit_code = 143


class Commands(click.Group):
    """The commands by name; every way in which one can fail ends here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"semievol.cli.commands.{module}"), name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = "semievol", **extra: Any
    ) -> NoReturn:
        """Runs a command and exits."""
        extra.pop("standalone_mode", None)
        try:
            result = super().main(args, prog_name, standalone_mode=False, **extra)
            sys.stdout.flush()
            code = result if isinstance(result, int) else 0
        except BrokenPipeError:  # the reader has seen enough (`semievol status | head -1`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except Exception as error:
            from semievol.cli import failures

            code = failures.report(error)
        sys.exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(semievol.__version__, prog_name="semievol", message="%(prog)s %(version)s")
def cli() -> None:
    """Evolve a language model from a little labeled and a lot of unlabeled data.

    Begin with `semievol init`, then `semievol run -f run.yaml`.
    """


def _terminate(number: int, frame: FrameType | None) -> None:
    raise TerminatedError


def main() -> NoReturn:
    """The console script."""
    for name, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))


def _leave(code: int) -> NoReturn:
    """Ends the process without tearing the interpreter down. Everything that a command opened is closed by now, unless it was
    interrupted a second time: then a thread may still compute, and torch aborts when the interpreter goes away under it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
