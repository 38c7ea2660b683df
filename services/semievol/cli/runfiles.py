"""A run file on its way to the controller: parsed, its paths made whole, its rows looked at, its files uploaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from semievol.cli import output
from semievol.client.controller import ControllerClient
from semievol.common import errors, uploads
from semievol.common.runspec import RunSpec, load_run_file, parse_run_spec
from semievol.data.formats import MAX_ROW_BYTES
from semievol.data.intake import OBVIOUS_SPLITS, DataSet, Role, load
from semievol.data.sources import as_file, parse

ROLES = ("labeled", "unlabeled", "test", "dev")


def read_run_file(path: Path) -> RunSpec:
    """The spec, with absolute paths for data files and model directories. Raises NotFound, InvalidInput (key or line named)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise errors.NotFound(f"There is no run file {path}; `semievol init {path}` writes one.") from error
    except UnicodeDecodeError as error:
        raise errors.InvalidInput(f"{path} is not UTF-8 text.") from error
    spec = parse_run_spec(load_run_file(text, source=str(path)), source=str(path))
    base = path.absolute().parent
    files = {role: _data_path(base, path, role, getattr(spec.data, role)) for role in ROLES}
    directories = {name: _model_path(base, getattr(spec, name)) for name in ("model", "embedding")}
    return spec.model_copy(update={"data": spec.data.model_copy(update=files), **directories})


def _data_path(base: Path, run_file: Path, role: str, value: str) -> str:
    if not value or uploads.is_uri(value) or value.startswith("hub:"):
        return value
    reference = str(base / Path(value).expanduser())
    if not parse(reference).path.exists():
        raise errors.NotFound(f"{run_file}: there is no file {value} (relative to the run file).", field=f"data.{role}")
    return reference


def _model_path(base: Path, value: str) -> str:
    """A directory beside the run file wins over a hub id of the same spelling."""
    path = base / Path(value).expanduser()
    return str(path) if not value.startswith("bundled:") and path.is_dir() else value


def local_data(spec: RunSpec) -> dict[str, str]:
    """Role -> data of this machine or of the hub; what is uploaded already is left out."""
    return {role: value for role in ROLES if (value := getattr(spec.data, role)) and not uploads.is_uri(value)}


def check_rows(spec: RunSpec) -> list[DataSet]:
    """Reads the local data files: bad rows are better known now than after the models are loaded. Raises InvalidInput, with the rows."""
    task = spec.task.task()
    return [load(value, task, Role(role), names=spec.data.map, on_bad=spec.bad_rows) for role, value in local_data(spec).items()]


def uploaded(client: ControllerClient, spec: RunSpec) -> RunSpec:
    """The spec with URIs in place of files; a dataset travels as one JSON-lines file."""
    uris = {role: upload(client, value, Role(role)) for role, value in local_data(spec).items()}
    return spec.model_copy(update={"data": spec.data.model_copy(update=uris)})


def upload(client: ControllerClient, source: str, role: Role) -> str:
    """The URI of a data source: a file, a dataset directory or a hub dataset."""
    with tempfile.TemporaryDirectory(prefix="semievol-upload-") as scratch:
        return client.upload(as_file(source, Path(scratch), MAX_ROW_BYTES, OBVIOUS_SPLITS[role]))


def announce(datasets: list[DataSet]) -> None:
    """One line on stderr: what was read, and what is odd about it."""
    from semievol.data.overlaps import overlaps

    output.note("Read " + ", ".join(f"{len(data.rows)} {data.role} rows" for data in datasets) + ".")
    for data in datasets:
        if data.bad:
            output.note(f"Left out {len(data.bad)} bad rows of {data.file}, the first: {data.bad[0]}")
    for overlap in overlaps(datasets):
        if overlap.warning:
            output.note(f"Warning: {overlap}.")
