"""What a job is, whoever launches it: `package.module:function`, called as function(args, cancel, emit).

The function returns when its work is done and raises when it is not; the exit code is the error's (`semievol.common.errors`).
`emit` writes one JSON object as one line of the job's log; `{"progress": {...}}` reports progress.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from semievol.common import errors
from semievol.common.keys import content_key

if TYPE_CHECKING:  # a job's process starts faster without numpy, which `ports` imports
    from semievol.ports import Cancel, JobSpec

log = logging.getLogger(__name__)

Emit = Callable[[Mapping[str, object]], None]
Function = Callable[[Sequence[str], "Cancel", Emit], None]

BUG = errors.InternalError.exit_code
CANCELLED = errors.Cancelled.exit_code
KILLED = 137  # 128 + SIGKILL: the job's process died without a word

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ENTRYPOINT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
SHARD = "{shard}"  # the argument that stands for a group's shard


def check(job: JobSpec, group_size: int = 0) -> None:
    """Raises InvalidInput(field=): a name becomes a directory's name, an entrypoint an import; `group_size` shards are what a launcher takes."""
    if not _NAME.fullmatch(job.name):
        message = f"{job.name!r} is no job name: at most 200 letters, digits, '.', '_' and '-', the first a letter or digit."
        raise errors.InvalidInput(message, field="name")
    if not _ENTRYPOINT.fullmatch(job.entrypoint):
        raise errors.InvalidInput(f"{job.entrypoint!r} is no entrypoint; expected package.module:function.", field="entrypoint")
    if len(job.shards) > group_size:
        raise errors.InvalidInput(f"{len(job.shards)} shards in one job; this launcher takes {group_size}.", field="shards")


def content(job: JobSpec) -> str:
    """Equal for equal jobs: everything but the name, and how much of it is done at a time."""
    return content_key([job.entrypoint, list(job.args), dict(job.labels), list(job.shards)])


def for_shard(args: Sequence[str], shard: int) -> list[str]:
    """The arguments of one shard of a group."""
    return [str(shard) if argument == SHARD else argument for argument in args]


def taken(job: JobSpec) -> errors.AlreadyExists:
    return errors.AlreadyExists(f"There is a job {job.name} with other content; a new attempt needs a new name.", field="name")


def to_line(event: Mapping[str, object]) -> str:
    """One line, whatever the values are: a report can never fail the job (R10)."""
    return json.dumps(dict(event), default=str)


def run(entrypoint: str, args: Sequence[str], cancel: Cancel, emit: Emit) -> tuple[int, str]:
    """Calls the function here and now; (exit code, last error line). Never raises."""
    try:
        _load(entrypoint)(args, cancel, emit)
    except errors.SemiEvolError as error:
        log.error("%s: %s", type(error).__name__, error.message)
        return error.exit_code, error.message
    except BaseException as error:
        log.exception("The job failed with an error that nobody foresaw")
        return BUG, f"{type(error).__name__}: {error}"
    return 0, ""


def _load(entrypoint: str) -> Function:
    module, _, name = entrypoint.partition(":")
    function: Function = getattr(importlib.import_module(module), name)
    return function
